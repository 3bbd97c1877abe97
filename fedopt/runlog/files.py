"""Files that survive a killed process: atomic replacement, and appending that never leaves half a record behind."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class RunLogError(RuntimeError):
    """The run log cannot be written or read; the message says which file, why, and what to do."""


def explain(error: OSError) -> str:
    """Why a file operation failed, and the remedy, in one sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space, or choose another folder with --out"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "the folder may not be written to; change its permissions, or choose another with --out"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "part of the path is a file, not a folder; choose another with --out"
    return (error.strerror or str(error)).lower()


def check_writable(directory: Path | str, bytes_needed: int = 0) -> None:
    """Make sure, before any work, that a run directory can be created and filled.

    Args:
        directory: run directory; it and its parents are created if missing.
        bytes_needed: estimate of everything the run will write, bytes.
    Raises:
        RunLogError: it cannot be created or written, or too little space is free.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".probe-") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise RunLogError(f"cannot write to {directory}: {explain(error)}") from error
    if free < bytes_needed:
        raise RunLogError(
            f"{directory} has {free / 1e6:.1f} MB free but the run needs about {bytes_needed / 1e6:.1f} MB; "
            "free some space, or choose another folder with --out"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, durably, when the block ends without an error.

    At every moment ``path`` holds either its old content or its complete new content.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunLogError(f"cannot write {path}: {explain(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content at once."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendFile:
    """Appends whole records; after a failed write the file ends with the last complete one.

    Args:
        path: file to append to, created if missing.
        kept: says, for the error message, what is safe when a write fails.
    """

    def __init__(self, path: Path, kept: Callable[[], str]):
        self.path, self._kept = path, kept
        try:
            self._handle = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the run
        except OSError as error:
            raise RunLogError(f"cannot write {path}: {explain(error)}") from error

    def append(self, record: bytes) -> None:
        """Write one record straight to the operating system, so that killing the process cannot lose it."""
        size = os.fstat(self._handle.fileno()).st_size
        view = memoryview(record)
        try:
            while view:
                view = view[self._handle.write(view) :]
        except OSError as error:
            # Half a record would hide every record appended after it.
            with suppress(OSError):
                os.ftruncate(self._handle.fileno(), size)
            raise RunLogError(f"cannot write {self.path}: {explain(error)}. {self._kept()}") from error

    def sync(self) -> None:
        """Make everything appended so far survive a power failure."""
        try:
            os.fsync(self._handle.fileno())
        except OSError as error:
            raise RunLogError(f"cannot write {self.path}: {explain(error)}. {self._kept()}") from error

    def close(self) -> None:
        """Close the file; what was appended stays."""
        self._handle.close()
