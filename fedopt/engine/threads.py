"""Worker threads for whole blocks of clients; one place that decides how many cores a process uses.

On a CPU every PyTorch operation runs in one thread, and independent pieces of work (blocks of clients, their share of
a sum, batches of an evaluation) go to a few threads side by side: PyTorch releases the interpreter lock inside its
operations. OpenMP threads inside an operation wait for each other many thousand times a round, which on a machine with
other work costs many times the computation; these threads meet once a round. Results come back in the order of the
pieces, so the number of threads never changes a bit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_count = 1
_executors: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process (forks lose their threads) and number
_inside = threading.local()


def available() -> int:
    """``OMP_NUM_THREADS`` where it is set, else the cores this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))


def use(count: int) -> None:
    """Let ``in_order`` use this many threads, and every PyTorch operation of the process one."""
    global _count
    _count = count
    torch.set_num_threads(1)


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``[function(item) for item in items]``, several at a time, ``without_denormals``; the first error is raised."""
    waiting = list(items)
    if _count == 1 or len(waiting) < 2 or getattr(_inside, "worker", False):
        with without_denormals():
            return [function(item) for item in waiting]
    return list(_executor().map(function, waiting))


@contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers below 1.2e-38 count as zero in this thread, inside the ``with`` block.

    A confident network's softmax ends there (a logit 88 below the largest), and a processor takes a hundred times as
    long for products with such numbers. Outside nothing changes: accounting and noise keep all their digits.
    """
    if float(torch.tensor(1e-30) * 1e-12) == 0.0:  # somebody has switched them off already
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _executor() -> ThreadPoolExecutor:
    name = (os.getpid(), _count)
    if name not in _executors:
        _executors[name] = ThreadPoolExecutor(_count, "fedopt-block", _begin)
    return _executors[name]


def _begin() -> None:
    _inside.worker = True
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


class Lender:
    """Lends an object that only one thread may use at a time, making twins of it as needed.

    Args:
        original: has ``twin()``, which returns an object that computes the same.
    """

    def __init__(self, original: Any):
        self._original = original
        self.name: str = original.name
        self._free = [original]

    @contextmanager
    def borrowed(self) -> Iterator[Any]:
        """One of them, for the length of a ``with`` block."""
        try:
            mine = self._free.pop()
        except IndexError:
            mine = self._original.twin()
        try:
            yield mine
        finally:
            self._free.append(mine)
