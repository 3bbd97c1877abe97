"""Just One Byte: every worker measures directions of its own and sends one byte for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fedopt.aggregators._seed_log import SEED_BITS, SeedLogMethod, State
from fedopt.aggregators.base import REJECT, Admission, Reduced, Step, no_bound, refuse_problems
from fedopt.aggregators.staleness.base import Staleness
from fedopt.components import KindOf
from fedopt.types import Count, Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class OneByte(SeedLogMethod):
    """Shared-seed SPSA with independent directions per worker and sample; a scalar is one byte.

    Task t of worker m measures ``count`` directions named by (t, m), each on a batch of its own; everybody applies
    everybody's decoded bytes in the order of workers, whatever the order of arrival::

        params <- params - step_size / c(S) * sum_mk scalar_mk z_mk,    S scalars received

    c(S) = S (``normaliser: mean``) or its root, as the reference's main program does. The code is a true byte: sign and
    seven logarithmic bits.

    Bytes: up ``count`` per task; down what the others sent since, one byte per scalar: ``count`` (W - 1) with W workers
    in step. Asynchronously (``buffer_size``) a record must name its worker and task: 8 bytes more per reply and reader.
    A newcomer, or a worker that was away, takes the missed bytes or the weights, whichever is less.

    Guarantees: the variance of the directions falls with W times count. The log replays to the model bit for bit.
    Independent directions would need noise for every scalar, so privacy is refused: use decomfl.

    References: Zelikman et al. 2023, Just One Byte (per gradient), arXiv:2306.10015.

    Differences from the paper: a server relays the bytes instead of all-to-all messages; the reference's code has nine
    bits and applies the unquantised value at its producer; directions have entries of +-1 by default (``directions:
    gaussian`` is the paper's N(0, I)).
    """

    count: int = Field(1, ge=1, description="G, scalars per worker and task")
    normaliser: Literal["mean", "root"] = Field("mean", description="the sum is divided by S, or by its root")
    stochastic_rounding: bool = Field(False, description="round to a byte without bias instead of to the nearest code")
    buffer_size: int | None = Field(None, ge=1, description="replies per step under asynchronous pacing; null: rounds")
    staleness: Annotated[Staleness, KindOf("fedopt.aggregators.staleness")] = Field(
        {"kind": "constant"}, validate_default=True, description="weight of a stale reply"
    )
    max_staleness: int | None = Field(None, ge=0, description="reject staler replies, in server steps; null: never")

    def problems(self, public: Public) -> tuple[str, ...]:
        """Directions of one's own have no common release."""
        reason, instead = "every scalar belongs to a direction of its own", "decomfl, whose clients share directions"
        return (no_bound(self, reason, instead),) if public.is_private else ()

    def reply_parts(self) -> tuple[str, ...]:
        """Scalars along own directions."""
        return ("scalars",)

    def init(self, params: torch.Tensor, public: Public) -> State:
        """An empty log."""
        refuse_problems(self, public)
        return self.start(params, public.seed)

    def plan(self, state: State | None, public: Public) -> Exchange:
        """A round, or a stream that closes at ``buffer_size`` replies."""
        if self.buffer_size is None:
            return Exchange(phase="scalars")
        return Exchange(phase="scalars", close=Count(self.buffer_size), pacing="stream")

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The others' bytes since the client's last message."""
        code = "stochastic_byte" if self.stochastic_rounding else "byte"
        config = {"scalar_steps": self.count, "perturbations": 1, "code": code, "own": True}
        return self.message(state, client, last_version, config, 0)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Staleness weight, or REJECT."""
        if self.max_staleness is not None and meta.staleness > self.max_staleness:
            return REJECT
        return self.staleness.weight(meta.staleness)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """All scalars ``[replies, count]`` with their workers, tasks and weights ``[replies]``, by worker."""
        import torch

        if not batch.metas:
            return {}
        order = sorted(range(len(batch.metas)), key=lambda i: (batch.metas[i].client, batch.metas[i].task))
        metas = [batch.metas[i] for i in order]
        names = torch.tensor([[m.client, m.task] for m in metas], dtype=torch.float64)
        weights = torch.tensor([batch.weights[i] for i in order], dtype=torch.float64)
        # A task that was cut short sent fewer scalars; the padding is not part of the message.
        counts = torch.tensor([min(batch.metas[i].local_steps, self.count) for i in order])
        return {
            "counts": (counts, None),
            "scalars": (batch.part("scalars").take(order).rows(), None),
            "names": (names, None),
            "weights": (weights, None),
        }

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Apply every worker's bytes."""
        import math

        from fedopt.zeroth_order.seed_log import Record
        from fedopt.zeroth_order.spsa import direction_key

        if not released:
            return Step(self.advance(state, [], 0, {}))
        number, counts = len(state.bits) - 1, [int(count) for count in released["counts"].tolist()]
        rows = [row[:count] for row, count in zip(released["scalars"].tolist(), counts, strict=True)]
        total = sum(counts)
        if not total:
            return Step(self.advance(state, [], 0, {}))
        size = self.rate(state) / (total if self.normaliser == "mean" else math.sqrt(total))
        records: list[Record] = []
        sent: dict[int, int] = {}
        seed_bits = SEED_BITS if self.buffer_size is not None else 0
        for scalars, name, weight in zip(rows, released["names"].tolist(), released["weights"].tolist(), strict=True):
            worker, task = int(name[0]), int(name[1])
            records.append(Record(number, direction_key(state.seed, task, worker), tuple(scalars), size * weight))
            sent[worker] = sent.get(worker, 0) + 8 * len(scalars) + seed_bits
        return Step(self.advance(state, records, 8 * total + seed_bits * len(rows), sent))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Zelikman et al. 2023, Just One Byte (per gradient), arXiv:2306.10015",)
