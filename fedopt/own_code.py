"""Errors that a user's own component raised, in one line: which class and method, what, and where."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from types import FrameType

from fedopt.components import Settings

TRACEBACK = "FEDOPT_TRACEBACK"
_PACKAGE = Path(__file__).parent
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "scripts"))
_PACKAGES = {"site-packages", "dist-packages"}


def own_failure(error: BaseException) -> str | None:
    """The failure in one line if it passed through code that belongs neither to fedopt nor to what is installed.

    Args:
        error: as caught; the frames from where it was caught downwards are looked at.
    Returns:
        ``module:Class.method failed: Error: message (file:line)``, or None if no such code took part, or if the
        environment variable ``FEDOPT_TRACEBACK`` asks for tracebacks.
    """
    frames = _own_frames(error)
    if not frames or os.environ.get(TRACEBACK):
        return None
    frame, line = frames[-1]
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return (
        f"{_name(frames[0][0])} failed: {what} ({frame.f_code.co_filename}:{line}); {TRACEBACK}=1 shows the traceback"
    )


def is_own_failure(error: BaseException) -> bool:
    """Whether an error passed through the user's own code, whatever ``FEDOPT_TRACEBACK`` says."""
    return bool(_own_frames(error))


def _own_frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """Frames of the user's own code with their lines, outermost first."""
    frames, step = [], error.__traceback__
    while step is not None:
        if _is_own(step.tb_frame):
            frames.append((step.tb_frame, step.tb_lineno))
        step = step.tb_next
    return frames


def _is_own(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<"):
        return False
    path = Path(file)
    # A component may be installed like any other package.
    if isinstance(frame.f_locals.get("self"), Settings) and path.exists():
        return not path.resolve().is_relative_to(_PACKAGE)
    return is_own_file(path)


def is_own_file(file: Path) -> bool:
    """Whether a file or folder is there, and neither part of fedopt or Python nor of an installed package."""
    path = file.resolve()
    if path.is_relative_to(_PACKAGE) or not path.exists():  # compiled code names files that are nowhere
        return False
    return _PACKAGES.isdisjoint(path.parts) and not any(path.is_relative_to(folder) for folder in _INSTALLED)


def _name(frame: FrameType) -> str:
    module, owner = frame.f_globals.get("__name__", "?"), frame.f_locals.get("self")
    if owner is None:
        return f"{module}:{frame.f_code.co_qualname}"
    return f"{module}:{type(owner).__name__}.{frame.f_code.co_name}"
