"""``fedopt deploy``: exports, certificates, messages."""

from __future__ import annotations

import io
import re
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedopt.cli import app

SCENARIO = """\
name: tiny.one
data: {kind: synthetic, clients: 3}
model: {kind: logistic_regression}
client: {kind: sgd, steps: 2}
run: {server_steps: 2}
"""


def invoke(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["deploy", *words])
    return done.exit_code, done.output


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in Flower's own builder
def test_an_exported_app_is_complete_and_builds(scenario: Path, tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    code, output = invoke("export", str(scenario), str(tmp_path / "app"), "--set", "client.lr=0.3")
    assert code == 0, output
    package = tmp_path / "app" / "fedopt_tiny_one"
    assert "lr: 0.3" in (package / "scenario.yaml").read_text()
    from flwr.cli.build import build_fab_from_disk

    fab = build_fab_from_disk(tmp_path / "app")  # Flower's own reading of the app
    assert 0 < len(fab) < 100_000
    assert invoke("export", str(scenario), str(tmp_path / "app"))[0] == 2
    from fedopt.flower.simulate_app import simulate_flower_app

    with pytest.raises(ValueError, match=r"is an exported scenario; it needs no app here: fedopt simulate .*yaml"):
        simulate_flower_app(tmp_path / "app", 2, None, 0)


def test_certificates_vouch_for_the_link_and_secrets_are_private(tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    folder = tmp_path / "certs"
    code, output = invoke("certs", str(folder), "--host", "link.example.org", "--host", "10.0.0.7", "--nodes", "2")
    assert code == 0, output
    assert "--enable-supernode-auth" in output and "--root-certificates" in output
    for name in ("ca.key", "server.key", "node-0", "node-1"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    ssl.create_default_context(cafile=str(folder / "ca.crt"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    assert handshake(folder, server, "127.0.0.1")  # where the SuperLink's own programs look for it
    assert handshake(folder, server, "link.example.org") and not handshake(folder, server, "other.example.org")
    assert invoke("certs", str(folder))[0] == 2  # nothing is overwritten


def handshake(folder: Path, server: ssl.SSLContext, host: str) -> bool:
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    done = set()
    for _ in range(10):
        for side in (ours, theirs):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return done == {ours, theirs}


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--nodes N"),
        (["--nodes", "2", "--superlink", "localhost:1"], "--nodes N"),
        (["--nodes", "9"], "between 1 and the 3 clients"),
        (["--superlink", "link.example.org:8000"], "--root-certificates FILE"),
        (["--superlink", "link.example.org:8000", "--root-certificates", "nowhere.crt"], "no file nowhere.crt"),
        (["--superlink", "localhost:1", "--resume"], "needs --out"),
        (["--nodes", "2", "--resume"], "nothing to resume"),
        (["--nodes", "2", "--set", "client.lr=-1"], "--set client.lr=-1: must be > 0"),
    ],
)
def test_mistakes_are_explained(words: list[str], message: str, scenario: Path) -> None:
    pytest.importorskip("flwr")
    code, output = invoke(str(scenario), *words)
    assert code == 2 and message in " ".join(output.split())


def test_without_flwr_the_message_says_what_to_install(scenario: Path) -> None:
    program = (
        "import sys; sys.modules['flwr'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'flwr' else find(name, *a)\n"
        "from fedopt.cli import app\n"
        f"app(['deploy', {str(scenario)!r}, '--nodes', '2'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "pip install 'fedopt[flower]'" in done.stderr


@pytest.mark.parametrize("program", ["flower-superlink", "flower-supernode"])
def test_the_guide_uses_only_options_that_exist(program: str) -> None:
    pytest.importorskip("flwr")
    guide = Path("docs/deploy.md").read_text().replace("\\\n", " ")
    used = {
        word
        for line in guide.splitlines()
        if program in line
        for word in re.findall(r"--[a-z-]+", line.split(program)[1])
    }
    shown = subprocess.run(
        [Path(sys.executable).parent / program, "--help"], capture_output=True, text=True, timeout=120
    )
    assert len(used) >= 4 and used <= set(re.findall(r"--[a-z-]+", shown.stdout))


@pytest.mark.parametrize("status, expected", [("finished:completed", 0), ("finished:failed", 1)])
def test_the_exit_code_is_that_of_the_run(
    status: str, expected: int, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``flwr run`` itself ends well however the run ended."""
    pytest.importorskip("flwr")
    program = tmp_path / "flwr"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "print('Successfully started run 42 in federation x' if sys.argv[1] == 'run' else "
        f'\'{{"runs": [{{"run-id": "42", "status": "{status}"}}]}}\' if \'42\' in sys.argv else \'\')\n'
    )
    program.chmod(0o700)
    monkeypatch.setattr("fedopt.flower.processes._program", lambda name: str(program))
    code, output = invoke(str(scenario), "--superlink", "localhost:1")
    assert code == expected and "started run 42" in output and ("ended as finished:failed" in output) == bool(expected)


def test_the_last_step_is_shown_although_the_running_log_is_gone(tmp_path: Path) -> None:
    from fedopt.flower.deploy import _show
    from fedopt.progress import Progress
    from fedopt.runlog import RunLog

    counts = dict.fromkeys(("participants", "lost", "uplink_bytes", "downlink_bytes"), 0)
    row = {"phase": "train", "time_s": 1.0, "wall_s": 0.0, **counts}
    stream = io.StringIO()
    with Progress(3, stream=stream, clock="time") as progress, RunLog(tmp_path) as log:
        assert _show(tmp_path, 0, progress) == 0, "nothing has begun"
        log.start()
        log.add_round({"step": 1, **row})
        shown = _show(tmp_path, 0, progress)
        log.add_round({"step": 2, **row})
        log.add_round({"step": 3, **row})
        log.finish({"status": "finished"})
        assert (shown, _show(tmp_path, shown, progress)) == (1, 3)
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == ["step 1/3", "step 3/3"]
