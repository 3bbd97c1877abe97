"""DeComFL: scalars along common directions, both ways; with one local step ZO-FedSGD, with one client MeZO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fedopt.aggregators._seed_log import SEED_BITS, SeedLogMethod, State
from fedopt.aggregators.base import REJECT, Admission, Reduced, Step
from fedopt.aggregators.staleness.base import Staleness
from fedopt.components import KindOf
from fedopt.types import Bound, Count, Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class DeComFL(SeedLogMethod):
    """DeComFL: everybody measures the same directions, the server averages the scalars, and only those travel.

    Version v names K P directions z (K ``local_steps``, P ``perturbations``); clients reply with their K P scalars and
    forget their local model::

        mean_kp = mean over replies of scalar_kp;    params <- params - step_size * sum_k (1/P) sum_p mean_kp z_kp

    One local step is ZO-FedSGD; with a single client it is MeZO (n-SPSA with P directions).

    Bytes: up 4 K P. Down, per version the client has missed, 4 K P and its seeds, plus the seeds of the coming round:
    8 K each, or 8 where they derive from the version (``seeds: derived``).

    ``buffer_size`` works asynchronously (the paper does not): a step per so many replies with FedBuff's staleness
    weights; scalars measured from version v are applied along the directions of v, one record per version. Partial
    participation is the paper's own.

    Guarantees: the log replays to the model bit for bit. Common directions average data noise only. Under privacy a
    clipped scalar vector bounds what one client moves, so one Gaussian release protects it: client-level DPZero (P = 1)
    and DP-AggZO (clip P times the paper's c, since the 1/P is in the step).

    References: Li et al. 2024, Achieving Dimension-Free Communication in Federated Learning via Zeroth-Order
    Optimization, arXiv:2405.15861; Malladi et al. 2023, MeZO, arXiv:2305.17333; buffers: Nguyen et al. 2022,
    arXiv:2106.06639.

    Differences from the paper: directions have entries of +-1 by default, which have the same bits on CPU and CUDA
    (``directions: gaussian`` is the paper's N(0, I)); buffers are ours.
    """

    local_steps: int = Field(1, ge=1, description="K, local steps per round")
    perturbations: int = Field(1, ge=1, description="P, directions per local step")
    seeds: Literal["sent", "derived"] = Field(
        "sent", description="whether 64-bit seeds travel, or one version number from which they follow"
    )
    buffer_size: int | None = Field(None, ge=1, description="replies per step under asynchronous pacing; null: rounds")
    staleness: Annotated[Staleness, KindOf("fedopt.aggregators.staleness")] = Field(
        {"kind": "constant"}, validate_default=True, description="weight of a stale reply"
    )
    max_staleness: int | None = Field(None, ge=0, description="reject staler replies, in server steps; null: never")

    def reply_parts(self) -> tuple[str, ...]:
        """Scalars along the common directions."""
        return ("scalars",)

    def weighs_alike(self) -> bool:
        """Not with buffers: replies that started from different versions go into different sums."""
        return self.buffer_size is None

    def init(self, params: torch.Tensor, public: Public) -> State:
        """An empty log."""
        return self.start(params, public.seed)

    def plan(self, state: State | None, public: Public) -> Exchange:
        """A round, or a stream that closes at ``buffer_size`` replies."""
        if self.buffer_size is None:
            return Exchange(phase="scalars")
        return Exchange(phase="scalars", close=Count(self.buffer_size), pacing="stream")

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """Missed records and new seeds."""
        config = {"scalar_steps": self.local_steps, "perturbations": self.perturbations, "code": "float32"}
        return self.message(state, client, last_version, config, self._seed_bits())

    def _seed_bits(self) -> int:
        return SEED_BITS * (self.local_steps if self.seeds == "sent" else 1)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Staleness weight, or REJECT."""
        if self.max_staleness is not None and meta.staleness > self.max_staleness:
            return REJECT
        return self.staleness.weight(meta.staleness)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Weighted mean of the scalars of every starting version: ``scalars@v``, ``[K P]``."""
        import torch

        weights = torch.tensor(batch.weights, dtype=torch.float64)
        if self.buffer_size is not None:
            denominator = float(self.buffer_size)
        else:
            denominator = public.expected_cohort if public.is_private else float(weights.sum()) or 1.0
        inner = batch.bound("scalars") if public.is_private else Bound(float("inf"))
        factor = self.staleness.max_weight() / denominator
        bound = Bound(inner.l2 * factor, inner.l1 * factor, inner.linf * factor) if public.is_private else None
        made: Reduced = {}
        if public.is_private and not batch.metas:  # a step without survivors releases noise all the same
            empty = torch.zeros(self.local_steps * self.perturbations, dtype=torch.float64, device=state.params.device)
            made[f"scalars@{len(state.bits) - 1}"] = (empty, bound)
        for version in sorted({meta.version for meta in batch.metas}):
            rows = [i for i, meta in enumerate(batch.metas) if meta.version == version]
            total = batch.part("scalars").take(rows).rows().double()
            mean = (weights[rows].to(total)[:, None] * total).sum(0) / denominator
            made[f"scalars@{version}"] = (mean, bound)
        return made

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Log and apply what was released, as transmitted: float32."""
        from fedopt.zeroth_order.seed_log import Record
        from fedopt.zeroth_order.spsa import direction_key

        size, records, number = self.rate(state) / self.perturbations, [], len(state.bits) - 1
        for name in sorted(released, key=lambda part: int(part.split("@")[1])):
            key = direction_key(state.seed, int(name.split("@")[1]))
            scalars = released[name].float().tolist()
            for k in range(self.local_steps):
                first = k * self.perturbations
                piece = tuple(scalars[first : first + self.perturbations])
                records.append(Record(number, key, piece, size, first))
        bits = len(released) * (32 * self.local_steps * self.perturbations + self._seed_bits())
        return Step(self.advance(state, records, bits, {}))

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Li et al. 2024, Achieving Dimension-Free Communication in Federated Learning via Zeroth-Order "
            "Optimization, arXiv:2405.15861",
            "Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, arXiv:2305.17333",
        )
