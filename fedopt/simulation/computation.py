"""Client work, computed lazily and in batches, apart from time.

Who arrives when never depends on values, so nothing is computed until a server step asks for it. Then everything
that is in flight and not yet computed is trained together, also across model versions, up to one chunk of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from fedopt.clients.base import ClientWork, stack_states
from fedopt.engine.base import Cohort, UpdateBatch, concatenated
from fedopt.engine.transfer import all_finite, finite_sums, read, rows_at
from fedopt.privacy.base import ClientContext, Mechanism, Noise
from fedopt.privacy.finite import zero_rows
from fedopt.protocol import NOT_FINITE, Collect, Collected, Dispatch
from fedopt.rng import generator
from fedopt.simulation.pending import Computed, Pending, no_longer_uncollected, restored, storable
from fedopt.simulation.replies import UNBOUNDED, Gathered, Replies, anonymous, totals_of
from fedopt.simulation.states import StateStore
from fedopt.types import Bound, Public, Ticks


class Computation:
    """Holds dispatched tasks and computes them when asked.

    Args:
        engine: the cohort engine.
        work: client work.
        public: public constants.
        seed: run seed.
        mechanism, noise: client-side half of the privacy mechanism, or None.
        chunk: most rows computed together.
        memory_bytes: how many bytes of computed updates may be kept.
        states: per-client state.
    """

    def __init__(
        self,
        engine: Any,
        work: ClientWork,
        public: Public,
        seed: int,
        chunk: int,
        memory_bytes: int,
        states: StateStore,
        mechanism: Mechanism | None = None,
        noise: Noise | None = None,
    ):
        self.engine, self.work, self.public, self.seed = engine, work, public, seed
        self.chunk, self.memory_bytes, self.states = max(1, chunk), memory_bytes, states
        self.mechanism, self.noise = mechanism, noise
        self.pending: dict[int, Pending] = {}
        self.row_bytes = 4 * engine.spec.size
        self.uncollected: dict[int, list[int]] = {}  # client -> its arrived, not yet collected dispatches

    def register(self, dispatch: Dispatch, arrives: tuple[Ticks, int]) -> None:
        """Remember a task whose reply will arrive."""
        state = None
        if self.states.names:
            earlier = self.uncollected.get(dispatch.client, [])[-1:]
            if earlier:
                # The client starts again from the state its last, not yet collected, work left behind.
                self._compute(earlier)
                state = self._reply(earlier[0]).state
            state = state or self.states.get(dispatch.client)
        self.pending[dispatch.dispatch_id] = Pending(dispatch, arrives, state)

    def forget(self, dispatch_id: int) -> None:
        """The reply is not wanted any more: nor is the state it left its client in."""
        task = self.pending.pop(dispatch_id, None)
        if task is not None:
            no_longer_uncollected(self.uncollected, task.dispatch.client, dispatch_id)

    def arrived(self, dispatch_id: int) -> None:
        """The reply is at the server, which may admit, hold or reject it."""
        if self.states.names and dispatch_id in self.pending:
            self.uncollected.setdefault(self.pending[dispatch_id].dispatch.client, []).append(dispatch_id)

    def storable(self) -> dict[str, Any]:
        """Everything a checkpoint needs."""
        return {**storable(self.pending), "uncollected": self.uncollected}

    def restore(self, stored: dict[str, Any]) -> None:
        """Take over what ``storable`` returned."""
        self.pending, self.uncollected = restored(stored), stored["uncollected"]

    def collect(
        self, command: Collect, time: Ticks, step: int, mechanism_state: Any
    ) -> tuple[Collected, dict[str, float]]:
        """Values of the asked replies, and simulator-only metrics (means over the survivors)."""
        ids = [m.dispatch_id for m in command.metas]
        weights = dict(zip(ids, command.weights, strict=True))
        waiting = [i for i in ids if self.pending[i].reply is None]
        stream = len(waiting) > self.chunk and len(ids) * self.row_bytes > self.memory_bytes
        blocks = [ids[i : i + self.chunk] for i in range(0, len(ids), self.chunk)] if stream else [ids]
        gathered = Gathered()
        for block in blocks:
            self._compute(block, look_ahead=not stream)
            self._gather(block, weights, step, mechanism_state, gathered, keep=not stream)
        metas = tuple(m for m in command.metas if m.dispatch_id not in gathered.failed)
        kept = tuple(weights[m.dispatch_id] for m in metas)
        own = self.mechanism.own_parts if self.mechanism is not None else ()
        plain, order = (1.0,) * len(kept), [m.dispatch_id for m in metas]
        if self.mechanism is not None and self.mechanism.anonymous:
            metas, order = anonymous(metas, generator(self.seed, "shuffler", step).permutation(len(metas)).tolist())
        parts = {name: gathered.part(name, plain if name in own else kept, order) for name in gathered.totals}
        queries_of = self._finish(ids, gathered.failed)
        replies = Replies(metas, kept, parts, self._bound_of(mechanism_state))
        return Collected(time, replies, gathered.failed, sum(queries_of.values()), queries_of), gathered.means()

    def _bound_of(self, mechanism_state: Any) -> Callable[[str], Bound]:
        """Bound of one client's contribution to a part, also where nobody contributed."""
        if self.mechanism is None:
            return lambda part: UNBOUNDED
        mechanism, public = self.mechanism, self.public
        return lambda part: mechanism.bound(part, mechanism_state, public)

    def _finish(self, ids: list[int], failed: dict[int, str]) -> dict[int, int]:
        """Commit client states of admitted replies and let the values go; queries of every reply that had any."""
        queries = {}
        for i in ids:
            task = self.pending.pop(i)
            assert task.reply is not None
            if task.reply.queries:
                queries[i] = task.reply.queries
            if task.reply.state is not None and i not in failed:
                self.states.put(task.dispatch.client, task.reply.state)
            no_longer_uncollected(self.uncollected, task.dispatch.client, i)
        return queries

    # ---- computing ---------------------------------------------------------------------------------------------

    def _compute(self, ids: list[int], look_ahead: bool = True) -> None:
        """Compute these tasks, and while the chunk has room the ones that will arrive next."""
        waiting = [i for i in ids if self.pending[i].reply is None]
        if not waiting:
            return
        chosen, room = set(waiting), self.chunk - len(waiting) % self.chunk
        if look_ahead and len(waiting) % self.chunk:
            others = [i for i, p in self.pending.items() if p.reply is None and i not in chosen]
            others.sort(key=lambda i: self.pending[i].arrives)
            waiting += others[: min(room, self._spare_rows())]
        for phase in sorted({self.pending[i].dispatch.phase for i in waiting}):
            rows = sorted(i for i in waiting if self.pending[i].dispatch.phase == phase)
            for start in range(0, len(rows), self.chunk):
                self._compute_block(rows[start : start + self.chunk], phase)

    def _spare_rows(self) -> int:
        held = sum(p.reply is not None for p in self.pending.values())
        return max(0, self.memory_bytes // max(1, self.row_bytes) - held)

    def _compute_block(self, ids: list[int], phase: str) -> None:
        tasks = [self.pending[i] for i in ids]
        states = stack_states([t.state for t in tasks if t.state is not None]) or None
        cohort = Cohort(
            clients=tuple(t.dispatch.client for t in tasks),
            tasks=tuple(t.dispatch.task for t in tasks),
            messages=tuple(t.dispatch.message for t in tasks),
            steps=tuple(int(t.dispatch.message.config["local_steps"]) for t in tasks),
            seed=self.seed,
            phase=phase,
            states=states,
        )
        reply = self.work.work(cohort, self.engine)
        metrics = dict(reply.metrics)
        for row, task in enumerate(tasks):
            after = {n: v[row].clone() for n, v in reply.states.items()} if reply.states else None
            task.reply = Computed(
                dict(reply.parts),
                row,
                after,
                metrics,
                reply.queries[row] if reply.queries else 0,
            )

    # ---- gathering ---------------------------------------------------------------------------------------------

    def _gather(
        self, ids: list[int], weights: dict[int, float], step: int, state: Any, into: Gathered, keep: bool
    ) -> None:
        """Clip and randomise on the client, add up; what is not finite is dropped, or under privacy zero."""
        for together in self._alike(ids):
            parts, kept, totals, metrics, failed = self._process(together, weights, step, state)
            into.add(parts, kept, totals, metrics, failed, keep=keep)
        if not keep:
            for i in ids:
                reply = self.pending[i].reply
                assert reply is not None
                self.pending[i].reply = Computed({}, 0, reply.state, {}, reply.queries)

    def _alike(self, ids: list[int]) -> list[list[list[int]]]:
        """Rows of one computed batch together, in the order of their first rows, and such batches of one phase."""
        batches: dict[int, list[int]] = {}
        for i in ids:
            batches.setdefault(id(next(iter(self._reply(i).parts.values()), None)), []).append(i)
        found: dict[Any, list[list[int]]] = {}
        for rows in batches.values():
            reply = self._reply(rows[0])
            found.setdefault((tuple(reply.parts), tuple(reply.metrics)), []).append(rows)
        return list(found.values())

    def _reply(self, dispatch_id: int) -> Computed:
        reply = self.pending[dispatch_id].reply
        assert reply is not None
        return reply

    def _process(self, batches: list[list[int]], weights: dict[int, float], step: int, state: Any) -> tuple[Any, ...]:
        ids = [i for rows in batches for i in rows]
        taken: dict[str, list[UpdateBatch]] = {}
        metrics_of: dict[str, list[torch.Tensor]] = {}
        for rows in batches:
            first, index = self._reply(rows[0]), [self._reply(i).row for i in rows]
            for name, batch in first.parts.items():
                taken.setdefault(name, []).append(batch.take(index))
            for name, values in first.metrics.items():
                metrics_of.setdefault(name, []).append(rows_at(values, index))
        parts = {name: concatenated(found) for name, found in taken.items()}
        reported = {name: torch.cat(found) for name, found in metrics_of.items()}
        if self.mechanism is None:
            return self._plain(parts, ids, reported, weights)
        assert self.noise is not None
        metrics, good, failed = self._finite(parts, ids, reported)
        parts = zero_rows(parts, [i not in failed for i in ids])
        metrics = {name: [values[row] for row in good] for name, values in metrics.items()}
        for i in failed:
            reply = self.pending[i].reply
            assert reply is not None
            self.pending[i].reply = replace(reply, state=None)
        dispatches = [self.pending[i].dispatch for i in ids]
        context = ClientContext(
            tuple(d.client for d in dispatches),
            tuple(d.task for d in dispatches),
            step,
            self.noise,
            self.public,
            tuple(weights[i] for i in ids),
        )
        result = self.mechanism.on_client(parts, context, state)
        parts = dict(result.parts)
        totals = totals_of(parts, [weights[i] for i in ids], self.mechanism.own_parts)
        own = dict(zip(result.metrics, read(list(result.metrics.values())), strict=True))
        if "clipped" in own:  # to zero
            own["clipped"] = [1.0 if i in failed else value for i, value in zip(ids, own["clipped"], strict=True)]
        return parts, ids, totals, metrics | own, {}

    def _plain(
        self,
        parts: dict[str, UpdateBatch],
        ids: list[int],
        reported: dict[str, torch.Tensor],
        weights: dict[int, float],
    ) -> tuple[Any, ...]:
        """Without a mechanism rows are looked at only where their sum is not finite."""
        totals = totals_of(parts, [weights[i] for i in ids])
        sums, *values = read([finite_sums(list(totals.values())), *reported.values()])
        metrics = dict(zip(reported, values, strict=True))
        failed: dict[int, str] = {}
        if not all(map(math.isfinite, sums)) and not all(all_finite(total) for total in totals.values()):
            metrics, good, failed = self._finite(parts, ids, reported)
            parts, ids, metrics = _keep(parts, ids, metrics, good)
            totals = totals_of(parts, [weights[i] for i in ids]) if ids else {}
        return parts, ids, totals, metrics, failed

    def _finite(
        self, parts: dict[str, UpdateBatch], ids: list[int], reported: dict[str, torch.Tensor]
    ) -> tuple[dict[str, list[float]], list[int], dict[int, str]]:
        """Metrics, rows with finite values in every part, and the other rows' reasons."""
        norms = [batch.norms() for batch in parts.values()]
        found = read([*norms, *reported.values()])
        finite = [all(map(math.isfinite, row)) for row in zip(*found[: len(norms)], strict=True)]
        failed = {}
        for i, fine in zip(ids, finite, strict=True):
            if not fine:
                d = self.pending[i].dispatch
                failed[i] = f"client {d.client}, version {d.version}: the reply holds {NOT_FINITE} values"
        metrics = dict(zip(reported, found[len(norms) :], strict=True))
        return metrics, [row for row, fine in enumerate(finite) if fine], failed


def _keep(
    parts: dict[str, UpdateBatch], ids: list[int], metrics: dict[str, list[float]], good: list[int]
) -> tuple[dict[str, UpdateBatch], list[int], dict[str, list[float]]]:
    if len(good) == len(ids):
        return parts, ids, metrics
    return (
        {name: batch.take(good) for name, batch in parts.items()},
        [ids[row] for row in good],
        {name: [values[row] for row in good] for name, values in metrics.items()},
    )
