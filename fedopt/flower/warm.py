"""Starts Flower's per-message programs by forking a process that has imported everything already.

Flower starts a new Python process for every message, and ends a task whose process has not reported within 30 s. The
imports (flwr, torch, fedopt) are nearly all of that time. Here one template process imports them once. Small programs
named ``flwr-clientapp``, ``flwr-serverapp`` and ``flower-superexec``, found first in the PATH of a private federation,
hand their arguments, environment and streams to the template, which forks and runs Flower's own entry point. Memory
still does not survive between messages, and a program that finds no template starts in the ordinary way.

Usage: ``python -m fedopt.flower.warm SOCKET`` is the template. ``warm.py SOCKET PROGRAM REAL ARGUMENTS...`` asks it,
and imports nothing but the standard library.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

PROGRAMS = {
    "flwr-clientapp": ("flwr.supernode.cli", "flwr_clientapp"),
    "flwr-serverapp": ("flwr.superlink.cli", "flwr_serverapp"),
    "flower-superexec": ("flwr.supercore.cli", "flower_superexec"),
}
_PRELOADED = (
    "torch",
    "fedopt.api",
    "fedopt.flower.client_app",
    "fedopt.flower.memory",
    "fedopt.flower.node",
    "fedopt.flower.server_app",
    "fedopt.flower.wire",
    "fedopt.privacy.system_noise",
    "fedopt.simulation.session",
)
_HEADER = 8  # bytes that say how long a request is


def write_programs(folder: Path, address: Path, real: Callable[[str], str]) -> None:
    """Write the small programs.

    Args:
        folder: to put first in the PATH.
        address: the template's socket.
        real: path of the ordinary program of a name.
    """
    folder.mkdir(parents=True)
    for name in PROGRAMS:
        words = [sys.executable, "-I", "-S", __file__, str(address), name, real(name)]
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
        program.chmod(0o700)


def listen(address: Path) -> socket.socket:
    """A socket that accepts requests from now on, also while the imports still run."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(128)
    return listener


def ask(address: str, program: str, arguments: list[str]) -> bool:
    """Hand a program's start to the template.

    Returns:
        Whether it was started; False where there is no template.
    """
    body = {"program": program, "arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    request = json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(address)
            socket.send_fds(line, [len(request).to_bytes(_HEADER, "big")], [0, 1, 2])
            line.sendall(request)
            return line.recv(1) == b"+"
        except OSError:
            return False


def serve(listener: socket.socket) -> None:
    """Fork for every request, until the process is ended; a child never comes back."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    while True:
        line, _ = listener.accept()
        with line, contextlib.suppress(OSError, ValueError):  # one who asks and goes away does not end the others
            request, streams = _receive(line)
            if os.fork() == 0:
                _become(request, streams, listener, line)
            for stream in streams:
                os.close(stream)


def _receive(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    header, streams, _, _ = socket.recv_fds(line, _HEADER, 3)
    missing, parts = int.from_bytes(header, "big"), []
    while missing:
        parts.append(line.recv(missing))
        if not parts[-1]:
            raise ValueError("the request is cut off")
        missing -= len(parts[-1])
    return json.loads(b"".join(parts)), list(array.array("i", streams))


def _become(request: dict[str, Any], streams: list[int], listener: socket.socket, line: socket.socket) -> NoReturn:
    """Run the entry point as its own program would have, and end."""
    code: Any = 1
    try:
        listener.close()
        line.sendall(b"+")
        line.close()
        os.setsid()
        for wanted, stream in enumerate(streams):
            os.dup2(stream, wanted)
            os.close(stream)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = [request["program"], *request["arguments"]]
        module, function = PROGRAMS[request["program"]]
        getattr(__import__(module, fromlist=[function]), function)()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _template(address: str) -> None:
    import gc
    import importlib

    listener = listen(Path(address))
    for name in (*(module for module, _ in PROGRAMS.values()), *_PRELOADED):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page it shares
    serve(listener)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _template(sys.argv[1])
    elif not ask(sys.argv[1], sys.argv[2], sys.argv[4:]):
        os.execv(sys.argv[3], sys.argv[3:])
