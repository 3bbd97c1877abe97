"""Submitting to an existing federation with TLS and node authentication, as docs/deploy.md sets one up."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from real import short
from secure import SecureFederation

from fedopt.api import Run, simulate
from fedopt.flower.certs import make_certificates
from fedopt.yaml_writer import to_yaml

pytestmark = pytest.mark.slow


def deploy(path: Path, federation: SecureFederation, *words: str) -> tuple[int, str]:
    """(exit code, output) of ``fedopt deploy path --superlink ...``."""
    command = [sys.executable, "-m", "fedopt", "deploy", str(path), "--superlink", federation.address, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_an_existing_federation_gives_the_simulated_model_and_admits_no_stranger(tmp_path: Path) -> None:
    chosen = short()
    path = tmp_path / "scenario.yaml"
    path.write_text(to_yaml(chosen.resolved()))
    foreign = tmp_path / "foreign"
    make_certificates(foreign, ["localhost"], 1, days=2)
    with SecureFederation(2, tmp_path / "federation") as federation:
        trusted = ("--root-certificates", str(federation.certs / "ca.crt"))
        code, output = deploy(path, federation, *trusted, "--out", str(tmp_path / "run"), "--config", "replay=false")
        assert code == 0, output + federation.processes.tail("superlink")
        code, output = deploy(path, federation, *trusted, "--config", "fewest-nodes=3", "--config", "wait-s=1.0")
        assert code == 1 and "finished:failed" in output, output
        assert "of at least 3 SuperNodes answered" in output, output
        for wrong in (("--insecure",), ("--root-certificates", str(foreign / "ca.crt"))):
            code, output = deploy(path, federation, *wrong)
            assert code != 0, output
        federation.processes.kill("supernode-1")
        federation.start_node(1, key=foreign / "node-0")  # never registered
        end = time.monotonic() + 60
        while federation.processes.running["supernode-1"].poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        assert federation.processes.running["supernode-1"].poll() not in (None, 0), federation.processes.tail(
            "supernode-1"
        )
    run = Run(tmp_path / "run")
    assert run.summary["model_sha256"] == simulate(chosen, tmp_path / "simulated").summary["model_sha256"]
