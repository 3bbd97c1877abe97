"""An existing federation as docs/deploy.md sets one up: TLS, node authentication, every program started by itself."""

from __future__ import annotations

import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from fedopt.flower.certs import make_certificates
from fedopt.flower.processes import FlowerProcessError, Processes, _program, environment, free_ports, write_connection

START_S = 120.0


class SecureFederation:
    """A SuperLink with TLS and node authentication, and SuperNodes with keys of their own.

    Args:
        nodes: SuperNodes.
        folder: gets certificates, Flower home and logs; the SuperLink works in ``folder / "link"``.
        host: name in the certificate, which must be this machine.

    Use as a context manager: everything is stopped when the block ends.
    """

    def __init__(self, nodes: int, folder: Path, host: str = "localhost"):
        self.nodes, self.folder, self.host = nodes, folder, host
        self.certs, self.home, self.link = folder / "certs", folder / "home", folder / "link"
        self.port, *self.node_ports = free_ports(nodes + 1)
        self.processes = Processes(folder / "logs", environment(self.home))

    @property
    def address(self) -> str:
        """Of the SuperLink."""
        return f"{self.host}:{self.port}"

    def __enter__(self) -> SecureFederation:
        make_certificates(self.certs, [self.host], self.nodes, days=2)
        write_connection(self.home, self.address, insecure=False, root_certificates=self.certs / "ca.crt")
        self.link.mkdir()
        self.processes.__enter__()
        try:
            self._start_link()
            for node in range(self.nodes):
                self.register(node)
                self.start_node(node)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.processes.stop_all()

    def _start_link(self) -> None:
        command = [
            "env", "-C", str(self.link), _program("flower-superlink"), "--host", "127.0.0.1", "--port", str(self.port),
            "--ssl-ca-certfile", str(self.certs / "ca.crt"), "--ssl-certfile", str(self.certs / "server.pem"),
            "--ssl-keyfile", str(self.certs / "server.key"), "--enable-supernode-auth",
            "--disable-runtime-dependency-installation", "--database", str(self.link / "link.db"),
        ]  # fmt: skip
        self.processes.start("superlink", command)
        end = time.monotonic() + START_S
        while not self._healthy():
            self.processes.require("superlink")
            if time.monotonic() > end:
                raise FlowerProcessError(f"no answer; {self.processes.tail('superlink')}")
            time.sleep(0.2)

    def _healthy(self) -> bool:
        trusted = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(self.certs / "ca.crt")))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trusted)
        try:
            with opener.open(f"https://{self.address}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def register(self, node: int) -> None:
        """Tell the SuperLink a node's public key."""
        command = [_program("flwr"), "supernode", "register", str(self.certs / f"node-{node}.pub"), "fedopt"]
        done = subprocess.run(command, env=self.processes.env, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise FlowerProcessError(f"flwr supernode register: {done.stdout}{done.stderr}")

    def start_node(self, node: int, key: Path | None = None) -> None:
        """Start a SuperNode, with its own key or another one."""
        command = [
            _program("flower-supernode"), "--root-certificates", str(self.certs / "ca.crt"),
            "--superlink", self.address, "--port", str(self.node_ports[node]),
            "--auth-supernode-private-key", str(key or self.certs / f"node-{node}"),
            "--node-config", f"partition-id={node} num-partitions={self.nodes}",
        ]  # fmt: skip
        self.processes.start(f"supernode-{node}", command)
