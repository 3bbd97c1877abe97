"""FeedSign: one bit up, one bit down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedopt.aggregators._seed_log import SEED_BITS, SeedLogMethod, State
from fedopt.aggregators.base import Admission, Reduced, Step, weighted_mean
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class FeedSign(SeedLogMethod):
    """FeedSign: clients vote on the sign of a step along a common direction; the step has a fixed length.

    ``v = sign(sum_i sign(scalar_i))``; ``params <- params - step_size * v * z``, with z named by the step. A tie takes
    no step unless ``tie: plus``: the paper's rule could not be read. A zero scalar abstains.

    Bytes: one bit each way, padded to one byte per message; ``seed_is_step: false`` adds 8 bytes down. A client that
    was away catches up on one bit per missed step. A skipped tie counts as a bit like any vote, though three outcomes
    do not fit into one: with an even number of voters only ``tie: plus`` is a true bit.

    Guarantees: positive rescaling of the losses changes nothing; one client changes a step only if the others are
    within one vote. The update has length step_size * |z|, so decay the step size or keep it small. Under privacy the
    sum of votes is released with the mechanism's noise before its sign is taken (use clipping_norm: 1).

    References: Cai et al. 2025, FeedSign, arXiv:2501.17610 (abstract and reviews only).

    Differences from the paper: directions have entries of +-1 by default (``directions: gaussian`` is the paper's
    N(0, I)); the rule for ties and what names a direction are ours.
    """

    step_size: float = Field(
        1e-3,
        gt=0,
        description="step per unit of the direction's length, without any factor: a step along a sphere or coordinate "
        "direction is this long",
    )
    seed_is_step: bool = Field(
        True, description="whether the direction follows from the step number, or a seed is sent"
    )
    tie: Literal["skip", "plus"] = Field("skip", description="what as many votes for as against do: no step, or v = +1")

    def reply_parts(self) -> tuple[str, ...]:
        """One vote."""
        return ("scalars",)

    def init(self, params: torch.Tensor, public: Public) -> State:
        """An empty log."""
        return self.start(params, public.seed)

    def plan(self, state: State | None, public: Public) -> Exchange:
        """One exchange per round; a vote is not defined for replies of different steps."""
        return Exchange(phase="scalars")

    def rate(self, state: State) -> float:
        """The step size itself: a vote is no estimate of a gradient."""
        return self.step_size

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """Missed votes."""
        config = {"scalar_steps": 1, "perturbations": 1, "code": "sign"}
        return self.message(state, client, last_version, config, 0 if self.seed_is_step else SEED_BITS)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """One vote."""
        return 1.0

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Mean vote ``[1]``."""
        return {"scalars": weighted_mean(batch, "scalars", state.params.new_zeros(1), public)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """A step of fixed length along the majority's sign."""
        from fedopt.zeroth_order.spsa import feedsign_record

        vote, number = float(released["scalars"].sign()), len(state.bits) - 1
        if vote == 0.0 and self.tie == "plus":
            vote = 1.0
        records = feedsign_record(number, state.seed, vote, self.rate(state))
        return Step(self.advance(state, records, 1, {}))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Cai et al. 2025, FeedSign, arXiv:2501.17610",)
