"""Several runs in one process whose client work is computed in common passes.

Who arrives when never depends on values, so a run can stop wherever it needs training and wait. Every run goes on in a
thread of its own until it asks the engine to train; when all have asked, their rows are trained together, and each goes
on. Only one thread works at a time: they take turns, so nothing else of a run has to know about the others, and its
server, clock, log and checkpoints are those of a run alone.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from fedopt.clients._local_training import LocalTraining
from fedopt.clients.dp_sgd import DpSgd
from fedopt.engine.base import ExampleClipping, LocalRule
from fedopt.engine.engine import CohortEngine
from fedopt.engine.joined import JoinedRuns, Member, joins, most_rows, structure
from fedopt.engine.tasks import Chunk, Trained
from fedopt.simulation.assembly import Parts
from fedopt.simulation.hooks import Driver, Hooks
from fedopt.simulation.session import on_virtual_clock
from fedopt.types import Message

T = TypeVar("T")
MakeDriver = Callable[[Parts, Hooks], Driver]


class Interrupted(BaseException):
    """The process was told to end while a run waited for its turn; no error of the run."""


class Meeting:
    """Where runs wait until all of them need training, which is then done at once.

    Args:
        runs: how many there are.
    """

    def __init__(self, runs: int):
        self._turn = threading.Lock()
        self._asked_or_left = threading.Condition(self._turn)
        self._answered = threading.Condition(self._turn)
        self._going, self._is_over = runs, False
        self._engines: dict[int, CohortEngine] = {}
        self._asks: dict[int, Sequence[Chunk]] = {}
        self._answers: dict[int, list[Trained] | Exception] = {}
        self._joined: dict[Hashable, tuple[list[int], JoinedRuns]] | None = None

    def run(self, work: Callable[[], None]) -> None:
        """A run, from its first turn to its end; to be called in its own thread."""
        with self._turn:
            try:
                if not self._is_over:
                    work()
            finally:
                self._going -= 1
                self._asked_or_left.notify()

    def driver(self, run: int, parts: Parts, hooks: Hooks) -> Driver:
        """Driver of a run whose engine brings its chunks here."""
        self._engines[run] = parts.engine
        if joins(parts.engine):
            parts.engine.together = partial(self._train, run)
        return on_virtual_clock(parts, hooks)

    def conduct(self) -> None:
        """Answer the runs until all have ended; in the thread that started them."""
        with self._turn:
            try:
                while self._going:
                    self._asked_or_left.wait_for(lambda: len(self._asks) == self._going)
                    asks, self._asks = self._asks, {}
                    self._answers |= self._answer(asks)
                    self._answered.notify_all()
            finally:
                self._is_over = True
                self._answered.notify_all()

    def _train(self, run: int, chunks: Sequence[Chunk]) -> list[Trained]:
        self._asks[run] = chunks
        if len(self._asks) == self._going:
            self._asked_or_left.notify()
        self._answered.wait_for(lambda: run in self._answers or self._is_over)
        if run not in self._answers:
            raise Interrupted
        answer = self._answers.pop(run)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _answer(self, asks: dict[int, Sequence[Chunk]]) -> dict[int, list[Trained] | Exception]:
        answers: dict[int, list[Trained] | Exception] = {}
        for members, joined in self._all_joined().values():
            asking = [run for run in members if run in asks]
            try:
                done = joined.train([(members.index(run), asks[run]) for run in asking])
                answers |= zip(asking, done, strict=True)
            except Exception as error:  # one run's trouble: each is computed alone, and only that one hears of it
                warnings.warn(f"runs {asking} are trained alone in this pass: {error}", RuntimeWarning, stacklevel=2)
                answers |= {run: self._alone(run, asks[run]) for run in asking}
        return answers

    def _alone(self, run: int, chunks: Sequence[Chunk]) -> list[Trained] | Exception:
        try:
            return [Member(self._engines[run], 0).alone(chunk) for chunk in chunks]
        except Exception as error:
            return error

    def _all_joined(self) -> dict[Hashable, tuple[list[int], JoinedRuns]]:
        """Runs that can share passes, by the structure of their models; known once every run has asked or ended."""
        if self._joined is None:
            groups: dict[Hashable, list[int]] = {}
            for run in sorted(self._engines):
                if joins(self._engines[run]):
                    groups.setdefault(structure(self._engines[run]), []).append(run)
            self._joined = {
                key: (members, JoinedRuns([self._engines[run] for run in members])) for key, members in groups.items()
            }
        return self._joined


def gains(parts: Parts) -> bool:
    """Whether training runs like this one together is faster: a pass holds twice a run's own block of rows.

    Measured in ``docs/compare.md``: small models gain, because a step costs the same few hundred microseconds for ten
    rows as for a hundred; a model whose rows fill the cache does not, and neither does work that is no mini-batch
    training, or is computed client by client.
    """
    engine, client = parts.engine, parts.scenario.client
    if not joins(engine) or not isinstance(client, LocalTraining | DpSgd):
        return False
    examples = max(1, round(float(parts.data.clients.sizes().mean())))
    steps = client.planned_steps(examples, Message({}, {"version": 0}))
    clipping = ExampleClipping(1.0, 0.0) if isinstance(client, DpSgd) else None
    rule = LocalRule(torch.empty(0), gradient_clip=getattr(client, "gradient_clip", None), example_clipping=clipping)
    rows = most_rows(engine.formulation, max(1, steps), client.batch_size_of(examples), rule)
    return rows >= 2 * int(engine.formulation.preferred_rows)


def run_together(works: Sequence[Callable[[MakeDriver], T]]) -> list[T]:
    """Carry out several runs, training their rows in common passes.

    Args:
        works: one of each run; is given what makes the driver of its session, and must not raise an ``Exception``.
    Returns:
        What each returned.
    Raises:
        KeyboardInterrupt: the process was told to end; every run is as if killed, and can be resumed.
    """
    meeting = Meeting(len(works))
    results: dict[int, Any] = {}

    def one(run: int) -> None:
        try:
            meeting.run(lambda: results.update({run: works[run](partial(meeting.driver, run))}))
        except BaseException as error:
            results[run] = error

    threads = [threading.Thread(target=one, args=(run,), name=f"run {run}") for run in range(len(works))]
    for thread in threads:
        thread.start()
    try:
        meeting.conduct()
    finally:
        for thread in threads:
            thread.join()
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return [results[run] for run in range(len(works))]
