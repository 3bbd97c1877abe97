"""Where processes of a local federation find a user's modules."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fedopt.flower import own_modules


def test_another_process_imports_from_the_same_folders_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, gone = tmp_path / "mine", tmp_path / "gone"
    mine.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(mine), "", str(gone)])
    told = own_modules.folders()
    assert told.split(os.pathsep) == [str(mine), str(tmp_path)]
    monkeypatch.setenv(own_modules.FOLDERS, told)
    monkeypatch.setattr(sys, "path", ["installed", str(tmp_path)])
    own_modules.use()
    own_modules.use()
    assert sys.path == ["installed", str(tmp_path), str(mine)]


def test_elsewhere_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(own_modules.FOLDERS, raising=False)
    before = list(sys.path)
    own_modules.use()
    assert sys.path == before
