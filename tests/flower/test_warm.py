"""Programs forked from a template that has imported everything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedopt.flower import warm

_PROGRAM = """
import os, sys
calls = 0
def main():
    global calls
    calls += 1
    print(sys.argv, os.environ["COLOUR"], os.getcwd(), "call", calls, os.urandom(8).hex(), flush=True)
    sys.exit(3)
"""
_TEMPLATE = """
import sys
from pathlib import Path
from fedopt.flower import warm
warm.PROGRAMS.clear()
warm.PROGRAMS["tool"] = ("tool_module", "main")
import tool_module
warm.serve(warm.listen(Path(sys.argv[1])))
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "tool_module.py").write_text(_PROGRAM)
    path = tmp_path / "socket"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    template = subprocess.Popen([sys.executable, "-c", _TEMPLATE, str(path)], env=env)
    try:
        while not path.exists():
            assert template.poll() is None
            time.sleep(0.05)
        yield path
    finally:
        template.kill()
        template.wait()


def start(program: Path, cwd: Path, *arguments: str, **env: str) -> str:
    """What a small program wrote: the pipe ends when the forked process has ended too."""
    done = subprocess.run([program, *arguments], cwd=cwd, env={**os.environ, **env}, capture_output=True, timeout=120)
    return done.stdout.decode()


def test_a_forked_program_has_its_own_arguments_environment_folder_and_memory(
    address: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(warm.PROGRAMS, "tool", ("tool_module", "main"))
    warm.write_programs(tmp_path / "bin", address, lambda name: f"/nowhere/{name}")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    one = start(tmp_path / "bin" / "tool", folder, "--token", "a b", COLOUR="red")
    two = start(tmp_path / "bin" / "tool", tmp_path, COLOUR="blue")
    assert one.startswith(f"['tool', '--token', 'a b'] red {folder} call 1 ")
    assert two.startswith(f"['tool'] blue {tmp_path} call 1 ")  # nothing is left of the first
    assert one.split()[-1] != two.split()[-1]  # entropy is not copied by forking


def test_without_a_template_the_ordinary_program_runs(tmp_path: Path) -> None:
    warm.write_programs(tmp_path / "bin", tmp_path / "nothing", lambda name: "/bin/echo")
    assert start(tmp_path / "bin" / "flwr-clientapp", tmp_path, "--token", "x") == "--token x\n"


def test_a_broken_request_does_not_end_the_template(address: Path, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(address))
        line.sendall(b"\0" * 7 + b"\x09" + b"{not")
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(address))
        socket.send_fds(line, [b"\0" * 7 + b"\x04"], [0])
        line.sendall(b"null")
    # Its own loop still runs, and no child has taken the loop over.
    assert warm.ask(str(address), "tool", []) and warm.ask(str(address), "tool", [])
