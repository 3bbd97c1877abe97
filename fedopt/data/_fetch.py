"""Finding data files, and fetching them only when asked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path


def data_folders() -> list[Path]:
    """Where data are looked for and stored: ``FEDOPT_DATA`` if set, then ``~/.cache/fedopt``."""
    given = os.environ.get("FEDOPT_DATA")
    return [*([Path(given)] if given else []), Path.home() / ".cache" / "fedopt"]


def find(name: str, complete: Callable[[Path], bool], path: str | None, system: Sequence[str], how: str) -> Path:
    """The first folder (or file) that holds a data set.

    Args:
        name: subfolder looked for inside the data folders; the data folders themselves are tried too.
        complete: whether a place holds what is needed.
        path: explicit place; then nothing else is tried.
        system: places where system packages put it.
        how: how to get the data, for the message.
    Raises:
        FileNotFoundError: it is nowhere; the message lists the places and how to get it.
    """
    places = [Path(path).expanduser()] if path else []
    if not places:
        places = [place for folder in data_folders() for place in (folder / name, folder)] + [Path(p) for p in system]
    for place in places:
        if place.exists() and complete(place):
            return place
    looked = ", ".join(str(place) for place in places)
    raise FileNotFoundError(f"{name}: not found in {looked}. {how}")


def fetch_debian(package: str, into: Path) -> Path:
    """Download a Debian package with ``apt-get download`` and unpack it into a folder (no root, nothing installed).

    Args:
        package: name of the package.
        into: folder that receives the package's file tree.
    Raises:
        RuntimeError: apt-get or dpkg-deb is missing or fails; the message holds its words and what to try.
    """
    into = into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as folder:
        os.chmod(folder, 0o755)  # apt's own download user has to be able to look inside
        _run(["apt-get", "download", "-o", "APT::Sandbox::User=root", package], Path(folder), package)
        archives = sorted(Path(folder).glob("*.deb"))
        if not archives:
            raise RuntimeError(f"apt-get download {package} left no package file; try `apt-get update` first")
        _run(["dpkg-deb", "-x", archives[0].name, str(into)], Path(folder), package)
    return into


def download(url: str, target: Path, timeout: float = 60.0) -> Path:
    """Download one file; it appears under its name only when complete.

    Raises:
        FileNotFoundError: it cannot be reached, typically without the internet; says how to do without.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            partial.write_bytes(response.read())
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise FileNotFoundError(
            f"cannot download {url} ({error}): without the internet, put the files into a folder and name it in `path` "
            "or in the environment variable FEDOPT_DATA"
        ) from error
    return partial.replace(target)


def digest(paths: Sequence[Path]) -> str:
    """SHA-256 over the files' bytes, in the given order: says which data a run used."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()


def _run(command: list[str], folder: Path, package: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    except FileNotFoundError as error:
        raise RuntimeError(
            f"{command[0]} is not on this machine, so the Debian package {package} cannot be fetched: download it on "
            "another machine, unpack it with `dpkg-deb -x`, and name the folder in `path`"
        ) from error
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}. Try `apt-get update` first")
