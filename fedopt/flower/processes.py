"""Flower's own processes on this machine: private home, free ports, and always stopped. No flwr import."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fedopt.flower import own_modules, warm, watchdog

LOOPBACK = "127.0.0.1"
START_S = 240.0


class FlowerProcessError(RuntimeError):
    """One of Flower's programs did not start or ended too early; quotes the end of its log."""


def environment(home: Path) -> dict[str, str]:
    """Environment of Flower's programs: private home, no telemetry, no update check, loopback without proxies."""
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": bin_folder + os.pathsep + os.environ.get("PATH", ""),
        "NO_PROXY": f"{LOOPBACK},localhost",
        "no_proxy": f"{LOOPBACK},localhost",
        "PYTHONUNBUFFERED": "1",
    }


def free_ports(count: int) -> list[int]:
    """Distinct ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for found in sockets:
            found.bind((LOOPBACK, 0))
        return [int(found.getsockname()[1]) for found in sockets]
    finally:
        for found in sockets:
            found.close()


class Processes:
    """Programs in groups of their own, stopped when the block ends, however it ends (also when this process is killed).

    Args:
        logs: folder for their output.
        env: environment of all of them.
    """

    def __init__(self, logs: Path, env: Mapping[str, str]):
        self.mark = secrets.token_hex(16)
        self.logs, self.env = logs, {**env, watchdog.MARK: self.mark}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Processes:
        self.logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-I", "-S", watchdog.__file__, self.mark]
        self._watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop_all()

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program, again if it has ended before; its output goes to ``logs/name.log``."""
        if name in self.running:
            self.running[name].wait()
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(command), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=self.env, start_new_session=True,
            )  # fmt: skip
        self.running[name] = process
        self._tell_watchdog(f"+{process.pid}")
        return process

    def _tell_watchdog(self, line: str) -> None:
        assert self._watchdog is not None and self._watchdog.stdin is not None
        self._watchdog.stdin.write(line.encode() + b"\n")
        self._watchdog.stdin.flush()

    def kill(self, name: str, sent: int = signal.SIGKILL) -> None:
        """Send a signal to a program and everything in its process group."""
        os.killpg(self.running[name].pid, sent)

    def stop_all(self) -> None:
        """Stop everything that was started and everything that started, and wait for it."""
        groups = [process.pid for process in self.running.values() if process.poll() is None]
        watchdog.stop(self.mark, groups)
        for process in self.running.values():
            process.wait()
        if self._watchdog is not None:
            assert self._watchdog.stdin is not None
            self._watchdog.stdin.close()  # finds nothing left to stop
            self._watchdog.wait()
        self.running, self._watchdog = {}, None

    def require(self, name: str) -> None:
        """Make sure a program still runs.

        Raises:
            FlowerProcessError: it ended; with the end of its log.
        """
        code = self.running[name].poll()
        if code is not None:
            raise FlowerProcessError(f"{name} ended with exit code {code}; {self.tail(name)}")

    def tail(self, name: str, lines: int = 15) -> str:
        """The end of a log, for an error message."""
        path = self.logs / f"{name}.log"
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        last = "\n  ".join(text.splitlines()[-lines:])
        return f"the end of {path}:\n  {last}"


class LocalFederation:
    """A SuperLink and SuperNodes on loopback, insecure because nothing leaves this machine.

    Args:
        nodes: SuperNodes to start.
        logs: folder for logs.
        node_config: more entries for every node's configuration, by name; ``{}`` in text becomes the node's number.
        keep_database: file of the SuperLink's state, so that it can be restarted; None keeps it in memory.
        warm_start: fork the programs of every message from one process with everything imported.

    Use as a context manager: everything is stopped when the block ends.
    """

    def __init__(
        self,
        nodes: int,
        logs: Path,
        node_config: Mapping[str, Any] | None = None,
        keep_database: Path | None = None,
        warm_start: bool = True,
    ):
        self.nodes, self.node_config, self.database = nodes, dict(node_config or {}), keep_database
        self.home = Path(tempfile.mkdtemp(prefix="fedopt-flower-"))
        self.port, *self.node_ports = free_ports(nodes + 1)
        self.warm_start = warm_start and hasattr(os, "fork")
        env = {**environment(self.home), own_modules.FOLDERS: own_modules.folders()}
        if self.warm_start:
            env["PATH"] = str(self.home / "warm") + os.pathsep + env["PATH"]
        self.processes = Processes(logs, env)

    @property
    def address(self) -> str:
        """Of the SuperLink."""
        return f"{LOOPBACK}:{self.port}"

    def __enter__(self) -> LocalFederation:
        write_connection(self.home, self.address, insecure=True)
        self.processes.__enter__()
        try:
            if self.warm_start:
                address = self.home / "warm.socket"
                warm.write_programs(self.home / "warm", address, _program)
                self.processes.start("warm", [sys.executable, "-P", "-m", warm.__name__, str(address)])
            self.start_superlink()
            for node in range(self.nodes):
                self.start_node(node)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.processes.stop_all()
        shutil.rmtree(self.home, ignore_errors=True)

    def start_superlink(self) -> None:
        """Start the SuperLink and wait until it answers."""
        command = [
            _program("flower-superlink"), "--insecure", "--host", LOOPBACK, "--port", str(self.port),
            "--disable-runtime-dependency-installation",
        ]  # fmt: skip
        self.processes.start("superlink", command + (["--database", str(self.database)] if self.database else []))
        end = time.monotonic() + START_S
        while not _healthy(f"http://{self.address}/health"):
            self.processes.require("superlink")
            if time.monotonic() > end:
                raise FlowerProcessError(
                    f"the SuperLink did not answer within {START_S:g} s; {self.processes.tail('superlink')}"
                )
            time.sleep(0.2)

    def start_node(self, node: int) -> None:
        """Start a SuperNode."""
        config: dict[str, Any] = {"partition-id": node, "num-partitions": self.nodes}
        config |= {k: v.replace("{}", str(node)) if isinstance(v, str) else v for k, v in self.node_config.items()}
        text = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
        command = [
            _program("flower-supernode"), "--insecure", "--superlink", self.address,
            "--port", str(self.node_ports[node]), "--node-config", text,
        ]  # fmt: skip
        self.processes.start(f"supernode-{node}", command)

    def submit(self, app: Path, run_config: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        """Submit an app; the process follows the run's log and ends with it."""
        return self.processes.start("flwr-run", run_command(app, "fedopt", run_config))


def run_command(app: Path, connection: str, run_config: Mapping[str, Any]) -> list[str]:
    """The ``flwr run`` command that follows the run."""
    text = " ".join(f"{key}={json.dumps(value)}" for key, value in run_config.items())
    command = [_program("flwr"), "run", str(app), connection, "--stream"]
    return [*command, "--run-config", text] if text else command


def run_status(run: str, connection: str, env: Mapping[str, str], wait_s: float = 20.0) -> str:
    """How a run ended for its SuperLink (``finished:completed``, ``finished:failed``), or its status after a wait."""
    command = [_program("flwr"), "ls", connection, "--run-id", run, "--format", "json"]
    end = time.monotonic() + wait_s
    while True:  # the log ends before the status does
        answer = subprocess.run(command, env=dict(env), capture_output=True, text=True)
        found = re.search(r'"status"\s*:\s*"([a-z:-]+)"', answer.stdout)
        status = found[1] if found else "unknown"
        if status.startswith("finished") or time.monotonic() > end:
            return status
        time.sleep(1.0)


def write_connection(home: Path, address: str, insecure: bool, root_certificates: Path | None = None) -> None:
    """Name the SuperLink ``fedopt`` in a private Flower home."""
    home.mkdir(parents=True, exist_ok=True)
    lines = ["[superlink]", 'default = "fedopt"', "", "[superlink.fedopt]", f"address = {json.dumps(address)}"]
    lines.append("insecure = true" if insecure else "insecure = false")
    if root_certificates is not None:
        lines.append(f"root-certificates = {json.dumps(str(root_certificates.absolute()))}")
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` is this machine."""
    host = address.rsplit(":", 1)[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def _program(name: str) -> str:
    """Path of one of Flower's programs, beside this Python first."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FlowerProcessError(f"the program {name} is not installed; pip install 'fedopt[flower]'")
    return found


def _healthy(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
