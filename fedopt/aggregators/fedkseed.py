"""FedKSeed and FedKSeed-Pro: the global model is K accumulated scalars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import (
    Admission,
    Importance,
    Method,
    Reduced,
    Step,
    importance_mean,
    no_bound,
    raw_importance,
    refuse_problems,
)
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch

    from fedopt.zeroth_order.seed_log import SeedLog


class State(NamedTuple):
    """State of FedKSeed."""

    params: torch.Tensor  # shape [d], built from start and accumulated
    start: torch.Tensor  # shape [d], the initial model
    accumulated: torch.Tensor  # A, shape [K], float32 as it is sent
    totals: torch.Tensor  # shape [K], float64: sums of absolute scalars ever measured (Pro)
    counts: torch.Tensor  # shape [K], float64: how many of them, plus one (Pro)
    seed: int


class FedKSeed(Method):
    """FedKSeed: ``params = start - step_size * sum_j A_j z_j`` over K fixed directions; A is all that travels.

    ``A <- A + sum_i w_i a_i`` with the clients' sums of scalars a_i and weights w_i summing to 1. ``pro: true`` draws
    directions in proportion to softmax of the scaled mean size of their scalars so far (FedKSeed-Pro).

    Bytes: down 4 K (and 4 K of probabilities for Pro), and 8 once for the base seed (8 K if ``seeds: sent``); up
    min(4 K, 8 tau). With K = 4096 and tau = 200 that is 17,984 together. Joining costs 4 K at any time.

    Guarantees: the model equals FedAvg of the clients' local models up to rounding, since every local change is linear
    in the directions and the step size is constant. It is always built from ``start``, in at most K expansions, so
    whoever holds A has its bits.

    References: Qin et al. 2024, Federated Full-Parameter Tuning of Billion-Sized Language Models with Communication
    Cost under 18 Kilobytes, arXiv:2312.06353; Pro's probabilities as in its authors' program.

    Differences from the paper: A is rounded to float32, which is what is sent.
    """

    candidates: int = Field(4096, ge=1, description="K, fixed directions of the run")
    step_size: float = Field(
        1e-5, gt=0, description="constant local step size; sphere and coordinate carry their factor d"
    )
    directions: Literal["rademacher", "gaussian", "sphere", "coordinate"] = Field(
        "gaussian", description="entries of a direction"
    )
    pro: bool = Field(False, description="FedKSeed-Pro: draw directions by the size of their scalars so far")
    seeds: Literal["sent", "derived"] = Field("derived", description="K seeds of 8 bytes once, or one base seed")
    weights: Importance = Field("uniform", description="weight of a client: uniform, or its number of examples")

    def problems(self, public: Public) -> tuple[str, ...]:
        """No bound is declared for the sums."""
        return (
            (no_bound(self, "sums of scalars along drawn directions", "decomfl with client: {kind: spsa}"),)
            if public.is_private
            else ()
        )

    def reply_parts(self) -> tuple[str, ...]:
        """Sums of scalars per candidate direction."""
        return ("accumulated",)

    def init(self, params: torch.Tensor, public: Public) -> State:
        """A = 0."""
        import torch

        refuse_problems(self, public)
        zero = torch.zeros(self.candidates, device=params.device)
        return State(params, params, zero, zero.double(), zero.double() + 1, public.seed)

    def plan(self, state: State | None, public: Public) -> Exchange:
        """One exchange per round."""
        return Exchange(phase="scalars")

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """A, from which the client builds the model (handed over in a simulation)."""
        from fedopt.zeroth_order import fedkseed

        parts, size = {"params": state.params}, 4 * self.candidates
        if self.pro:
            parts["probabilities"] = fedkseed.pro_probabilities(fedkseed.ProHistory(state.totals, state.counts)).cpu()
            size += 4 * self.candidates
        if last_version is None:
            size += 8 * (self.candidates if self.seeds == "sent" else 1)
        config = {
            "candidates": self.candidates,
            "pro": self.pro,
            "directions": self.directions,
            "step_size": self._rate(state),
        }
        return Message(parts, config, size)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1 or n_i."""
        return raw_importance(self.weights, public, meta.client)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Weighted mean of the sums; for Pro the plain sums of sizes and counts."""
        made: Reduced = {"accumulated": importance_mean(batch, "accumulated", state.totals, public, self.weights)}
        if self.pro and batch.metas:
            for name in ("sizes", "counts"):
                made[name] = (batch.part(name).rows().double().sum(0), None)
        return made

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Add, and build the model anew."""
        from fedopt.zeroth_order.seed_log import replay

        summed = (state.accumulated.double() + released["accumulated"].double()).float()
        state = state._replace(accumulated=summed)
        if "sizes" in released:
            totals, counts = state.totals + released["sizes"], state.counts + released["counts"]
            state = state._replace(totals=totals, counts=counts)
        return Step(state._replace(params=replay(state.start, self._log(state))))

    def _rate(self, state: State) -> float:
        from fedopt.zeroth_order.estimators import factor

        return self.step_size * factor(self.directions, state.start.numel())

    def _log(self, state: State) -> SeedLog:
        from fedopt.zeroth_order.fedkseed import candidate_directions
        from fedopt.zeroth_order.seed_log import Record, SeedLog

        key = candidate_directions(self.directions, state.start.numel(), state.seed).key
        pairs = [(j, a) for j, a in enumerate(state.accumulated.tolist()) if a != 0]
        records = (Record(0, key, (a,), self._rate(state), j) for j, a in pairs)
        return SeedLog(self.directions, state.start.numel()).extend(records)

    def files(self, state: State) -> dict[str, bytes]:
        """``seed_log.bin``: A as records; with the initial model it rebuilds the final one bit for bit."""
        return {"seed_log.bin": self._log(state).to_bytes()}

    def references(self) -> tuple[str, ...]:
        """Source."""
        return (
            "Qin et al. 2024, Federated Full-Parameter Tuning of Billion-Sized Language Models with Communication Cost "
            "under 18 Kilobytes, arXiv:2312.06353",
        )
