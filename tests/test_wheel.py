"""What a user gets from the package alone: a wheel, an environment with nothing else, the quickstart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def call(*command: str | Path, cwd: Path) -> str:
    """Output of a command, which must succeed, without anything of this environment's Python paths."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_runs_the_quickstart(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: building leaves files behind
    source.mkdir()
    for name in ("fedopt", "pyproject.toml", "README.md", "LICENSE"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("fedopt-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert all(name.startswith(("fedopt/", "fedopt-")) for name in names)
    assert {"fedopt/py.typed", "fedopt/report/assets/report.js"} <= set(names)

    venv.create(tmp_path / "empty", with_pip=True)
    tool = tmp_path / "empty" / "bin"
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    call(tool / "python", "-m", "pip", "install", "--quiet", torch, cwd=tmp_path)
    call(
        tool / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel,
        cwd=tmp_path,
    )  # fmt: skip
    shutil.copy(ROOT / "scenarios" / "quickstart.yaml", tmp_path)
    where = call(tool / "python", "-c", "import fedopt; print(fedopt.__file__)", cwd=tmp_path)
    assert str(tmp_path / "empty") in where
    call(tool / "fedopt", "simulate", "quickstart.yaml", "--out", "runs", cwd=tmp_path)
    (summary,) = (tmp_path / "runs").rglob("summary.json")
    assert json.loads(summary.read_text())["final_metric"] > 0.9
    assert (summary.parent / "report.html").stat().st_size > 100_000
    call(tool / "fedopt", "init", "mine.yaml", cwd=tmp_path)
    call(tool / "fedopt", "validate", "mine.yaml", cwd=tmp_path)
