"""One run on several processes: ``torchrun --nproc-per-node N -m fedopt simulate scenario.yaml``.

Every rank runs the same server on the same virtual clock, which never depends on values, so the ranks agree about who
works when without talking. What is shared is the client work: each rank computes its rows of every batch, and the
batch object reduces over the ranks where a sum, a norm or a row is asked for. Rank 0 owns the run directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from fedopt.engine.base import Cohort, CohortReply, DenseUpdates, UpdateBatch
from fedopt.engine.transfer import rows_at, to_device
from fedopt.runlog import RunLogError
from fedopt.simulation.session import Session, on_virtual_clock

if TYPE_CHECKING:
    from fedopt.clients.base import ClientWork
    from fedopt.engine.base import Engine
    from fedopt.scenario import Scenario
    from fedopt.simulation.assembly import Parts
    from fedopt.simulation.hooks import Driver, Hooks


class RankLost(RunLogError):
    """Another process of the run ended or cannot be reached."""


def world() -> tuple[int, int]:
    """(rank, number of ranks) as told by torchrun's environment; (0, 1) without it.

    >>> world()
    (0, 1)
    """
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum of every rank's tensor, on every rank.

    Raises:
        RankLost: another rank is gone.
    """
    try:
        dist.all_reduce(values)
    except RuntimeError as error:
        raise RankLost(f"a process of this run ended ({error}); continue with --resume") from error
    return values


@dataclass(frozen=True)
class ShardedUpdates:
    """A batch whose rows lie on several ranks; every rank must call the same operations in the same order.

    Args:
        local: this rank's rows, or None if it has none.
        owned: which rows of the batch those are.
        count: rows on all ranks together.
        size: d.
        device: where the rows are; NCCL reduces nothing that lies elsewhere.
        whole: all rows, in a checkpoint.
    """

    local: UpdateBatch | None
    owned: tuple[int, ...]
    count: int
    size: int
    device: str = "cpu"
    whole: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.count

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks ``[d]``."""
        if self.local is None:
            return summed(torch.zeros(self.size, device=self.device))
        return summed(self.local.weighted_sum(rows_at(weights, self.owned)).contiguous())

    def norms(self) -> torch.Tensor:
        """Norms of all rows ``[count]``."""
        return self._scattered(None if self.local is None else self.local.norms())

    def scaled(self, factors: torch.Tensor) -> ShardedUpdates:
        """Scaled rows."""
        local = None if self.local is None else self.local.scaled(rows_at(factors, self.owned))
        return replace(self, local=local)

    def take(self, index: Sequence[int]) -> ShardedUpdates:
        """Some rows, in the given order."""
        where = {row: position for position, row in enumerate(self.owned)}
        mine = [(place, where[row]) for place, row in enumerate(index) if row in where]
        local = self.local.take([position for _, position in mine]) if self.local is not None and mine else None
        return ShardedUpdates(local, tuple(place for place, _ in mine), len(index), self.size, self.device)

    def rows(self) -> torch.Tensor:
        """All rows on every rank ``[count, d]``."""
        return self._scattered(None if self.local is None else self.local.rows(), self.size)

    def gathered(self) -> ShardedUpdates:
        """The same batch, dense, with the rows of all ranks in ``whole``."""
        return replace(self, whole=self.rows()).of_this_rank()

    def of_this_rank(self) -> ShardedUpdates:
        """A gathered batch of which this rank uses its own share.

        Raises:
            ValueError: it was never gathered.
        """
        if self.whole is None:
            raise ValueError("the checkpoint was not made by processes of one run; resume it without torchrun")
        rank, ranks = world()
        owned = tuple(range(rank, self.count, ranks))
        local = DenseUpdates(self.whole[list(owned)]) if owned else None
        return ShardedUpdates(local, owned, self.count, self.size, self.device, self.whole)

    def _scattered(self, mine: torch.Tensor | None, *shape: int) -> torch.Tensor:
        """This rank's rows in their places, the other ranks' added."""
        whole = torch.zeros((self.count, *shape), device=self.device)
        if mine is not None:
            where = to_device(self.owned, whole.device, torch.int64)
            whole.index_copy_(0, where, to_device(mine, whole.device, whole.dtype))
        return summed(whole)


@dataclass(frozen=True)
class ShardedWork:
    """Client work of which this rank does every ``ranks``-th row, in the place of the scenario's own.

    Args:
        inner: the scenario's work.
        rank, ranks: of this process.
    """

    inner: ClientWork
    rank: int
    ranks: int

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "inner"), name)

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """This rank's share, wrapped so that it looks like the whole.

        Cohorts smaller than the number of ranks leave ranks without a row: those compute the first one as well and
        count nothing, so that every rank knows the names and sizes of the parts.
        """
        owned = tuple(range(self.rank, len(cohort), self.ranks))
        reply = self.inner.work(_rows_of(cohort, owned or (0,)), engine)
        counts = len(cohort)

        def scattered(values: torch.Tensor) -> torch.Tensor:
            whole = torch.zeros((counts, *values.shape[1:]), dtype=torch.float64, device=engine.device)
            if owned:
                where = to_device(owned, whole.device, torch.int64)
                whole.index_copy_(0, where, to_device(values, whole.device, torch.float64))
            return summed(whole).to(values.dtype)

        parts = {name: self._sharded(batch, owned, counts) for name, batch in sorted(reply.parts.items())}
        queries = None
        if reply.queries is not None:
            queries = tuple(int(q) for q in scattered(torch.tensor(reply.queries)))
        states = reply.states and {name: scattered(values) for name, values in sorted(reply.states.items())}
        metrics = {name: scattered(values) for name, values in sorted(reply.metrics.items())}
        return CohortReply(parts, states, metrics, queries)

    def _sharded(self, batch: UpdateBatch, owned: tuple[int, ...], count: int) -> ShardedUpdates:
        like = batch.weighted_sum(torch.zeros(len(batch), dtype=torch.float64))
        return ShardedUpdates(batch if owned else None, owned, count, like.numel(), str(like.device))


def _rows_of(cohort: Cohort, rows: Sequence[int]) -> Cohort:
    states: Mapping[str, torch.Tensor] | None = cohort.states
    if states is not None:
        states = {name: values[list(rows)] for name, values in states.items()}
    return replace(
        cohort,
        clients=tuple(cohort.clients[i] for i in rows),
        tasks=tuple(cohort.tasks[i] for i in rows),
        messages=tuple(cohort.messages[i] for i in rows),
        steps=tuple(cohort.steps[i] for i in rows),
        states=states,
    )


class ShardedSession(Session):
    """The session of one rank; only rank 0 writes checkpoints, the model, the final tables and the report."""

    def __init__(self, scenario: Scenario, directory: Path, quiet: bool):
        super().__init__(scenario, directory, quiet=quiet, make_driver=_sharded_driver)

    def _finish(self, ended: Any) -> dict[str, Any]:
        return super()._finish(ended) if world()[0] == 0 else {}

    def _save_checkpoint(self) -> None:
        """Gather what is computed but unused on every rank, so that any number of ranks can go on from it."""
        self._replace_batches(lambda batch: batch.gathered())
        if world()[0] == 0:
            super()._save_checkpoint()

    def _restore(self) -> None:
        super()._restore()
        self._replace_batches(lambda batch: batch.of_this_rank())

    def _replace_batches(self, change: Callable[[ShardedUpdates], ShardedUpdates]) -> None:
        """Change every batch of computed, unused replies, each once and in the same order on every rank."""
        changed: dict[int, dict[str, UpdateBatch]] = {}
        for task in self.parts.computation.pending.values():
            reply = task.reply
            if reply is None or not reply.parts:
                continue
            marker = id(next(iter(reply.parts.values())))
            if marker not in changed:
                changed[marker] = {name: change(reply.parts[name]) for name in sorted(reply.parts)}  # type: ignore[arg-type]
            task.reply = replace(reply, parts=changed[marker])


def _sharded_driver(parts: Parts, hooks: Hooks) -> Driver:
    rank, ranks = world()
    work = parts.computation.work
    variable = [name for name, size in work.initial_state(parts.engine.spec).items() if size is None]
    if variable:
        raise ValueError(
            f"client {type(work).kind()} keeps a state of varying shape, which cannot be shared among processes; "
            "run it without torchrun"
        )
    parts.computation.work = ShardedWork(work, rank, ranks)  # type: ignore[assignment]
    parts.computation.chunk *= ranks
    return on_virtual_clock(parts, hooks)


def run_sharded(scenario: Scenario, directory: Path, quiet: bool, resume: bool) -> Path:
    """Run one rank of a scenario to its end.

    Args:
        scenario: a checked scenario, the same on every rank.
        directory: run directory as rank 0 knows it; the others take rank 0's.
        quiet: no live view on rank 0.
        resume: go on from the directory's checkpoint.
    Returns:
        The run directory, the same on every rank.
    Raises:
        RankLost: another rank is gone; the last checkpoint can be resumed.
    """
    rank, _ = world()
    cuda = scenario.engine.device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    signal.signal(signal.SIGTERM, _told_to_end)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        told: list[Any] = [str(directory), resume]
        dist.broadcast_object_list(told, src=0)
        directory, resume = Path(told[0]), told[1]
        if rank == 0:
            dist.barrier()  # nobody copies a directory that is being written
            ShardedSession(scenario, directory, quiet).run(resume=resume)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                own = Path(scratch) / directory.name
                if resume:
                    shutil.copytree(directory, own)
                dist.barrier()
                ShardedSession(scenario, own, quiet=True).run(resume=resume)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return directory


def _told_to_end(*_: object) -> None:
    raise RankLost("torchrun ended this process, because another one failed; continue with --resume")
