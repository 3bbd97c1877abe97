"""A run that is refused while it starts leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedopt.runlog.reader import read_rounds, run_state


@contextmanager
def withdrawn_if_refused(directory: Path, is_refusal: Callable[[Exception], bool]) -> Iterator[None]:
    """Remove a new run directory, and parents made for it, where the block is refused before a server step is finished.

    Args:
        directory: of a new run; one that exists already is left alone.
        is_refusal: whether an error says that the scenario cannot run; others keep the directory, to be resumed.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        yield
    except Exception as error:
        if made and is_refusal(error) and _holds_no_step(directory):
            shutil.rmtree(directory, ignore_errors=True)
            with suppress(OSError):  # another run may have come into a parent meanwhile
                for parent in made[1:]:
                    parent.rmdir()
        raise


def _holds_no_step(directory: Path) -> bool:
    state = run_state(directory)
    return state == "absent" or (state != "finished" and read_rounds(directory).num_rows == 0)
