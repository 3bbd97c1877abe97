"""Set up each peer in its own environment: ``python benchmarks/peers.py [fedjax fedjax-2024 pfl flower opacus]``.

Environments go to ``.data/peers/<name>`` (or ``--folder``). With ``--borrow`` an environment sees the PyTorch of the
running interpreter instead of installing its own, so that all contenders use the same one. FedJAX comes twice, with a
current JAX and with one of its time: neither is the faster one everywhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("fedjax", "fedjax-2024", "pfl", "flower", "opacus")
FOLDER = HERE.parent / ".data" / "peers"


def python_of(name: str, folder: Path = FOLDER) -> Path:
    """Interpreter of a peer's environment (it may not exist yet)."""
    return folder / name / "bin" / "python"


def set_up(name: str, folder: Path, borrow: bool) -> None:
    """Create the environment and install the pinned requirements.

    Raises:
        subprocess.CalledProcessError: the installation failed; pip has said why.
    """
    python = python_of(name, folder)
    if not python.exists():
        venv.create(folder / name, with_pip=True)
    requirements = (HERE / "requirements" / f"{name}.txt").read_text().splitlines()
    if borrow and any(line.startswith("torch") for line in requirements):
        requirements = [line for line in requirements if not line.startswith("torch")]
        site = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)


def main() -> None:
    """Set up the named peers, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=PEERS)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--borrow", action="store_true")
    options = parser.parse_args()
    for name in options.names:
        if name not in PEERS:
            sys.exit(f"unknown peer {name!r}; known: {', '.join(PEERS)}")
        print(f"setting up {name}", flush=True)
        set_up(name, options.folder, options.borrow)


if __name__ == "__main__":
    main()
