"""A user's own modules (``kind: package.module:Class``) in the processes of a federation started here. No flwr."""

from __future__ import annotations

import os
import sys

FOLDERS = "FEDOPT_MODULES"


def folders() -> str:
    """The folders this process imports from, for the environment variable ``FEDOPT_MODULES`` of another."""
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path if os.path.isdir(entry or "."))


def use() -> None:
    """Import from the folders named in ``FEDOPT_MODULES`` too; last, so that nothing installed is hidden."""
    named = filter(None, os.environ.get(FOLDERS, "").split(os.pathsep))
    sys.path.extend(entry for entry in named if entry not in sys.path)
