"""A step back where the mean function did not fall: a wrapper around any aggregator that works in rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import Admission, Method, Reduced, Step, no_bound, refuse_problems, weighted_mean
from fedopt.components import KindOf
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch


class State(NamedTuple):
    """State of the wrapper."""

    params: torch.Tensor  # of the inner state, shape [d]
    inner: Any
    before: tuple[Any, ...]  # the inner state before the step that is being checked; empty: no check is due
    exchange: tuple[Exchange, ...]  # what the inner method wants next, after the check; empty: its plan


class Safeguard(Method):
    """Keeps the old model unless the clients' mean value at the new one is smaller; wraps another aggregator.

    After every new version the same clients are asked for their values at the old and the new model (2 queries, 8 d
    bytes down, 16 bytes up each; a server step of phase ``check``). If the mean did not fall, ``params <- previous``.
    Compared is what the inner method gives as its result. Where that is not its current model (an average of iterates,
    the second sequence of an accelerated method), the whole inner state goes back; else everything but the model stays.

    The authors' program of FZooS does this to every method with the true global function and without counting it; the
    paper does not mention it. Here it is an option that costs its queries and messages; leave it out by default.

    Guarantees: with exact values and everybody taking part the objective never rises.

    References: reference implementation of Shu et al. 2023, arXiv:2308.04077.
    """

    inner: Annotated[Method, KindOf("fedopt.aggregators")] = Field(
        {"kind": "fedavg"}, validate_default=True, description="the aggregator whose steps are checked"
    )

    def problems(self, public: Public) -> tuple[str, ...]:
        """Streams have no cohort to ask again; values have no bound."""
        found = self.inner.problems(public)
        if type(self.inner).files is not Method.files:
            found += ("safeguard would undo steps that the seed log replays; use it with vector messages",)
        if self.inner.plan(None, public).pacing == "stream":
            found += ("safeguard needs an aggregator that works in rounds; a stream has no cohort to ask again",)
        return (*found, no_bound(self, "values of private functions")) if public.is_private else found

    def reply_parts(self) -> tuple[str, ...]:
        """Those of the inner method, and the values at two models."""
        return (*self.inner.reply_parts(), "values")

    def message_parts(self) -> tuple[str, ...]:
        """Those of the inner method."""
        return self.inner.message_parts()

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start the inner method."""
        refuse_problems(self, public)
        return State(params, self.inner.init(params, public), (), ())

    def plan(self, state: State | None, public: Public) -> Exchange:
        """That of the inner method."""
        return self.inner.plan(None if state is None else state.inner, public)

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """Both models in a check, else what the inner method sends."""
        if not state.before:
            return self.inner.payload(state.inner, client, last_version)
        parts = {"params": self.inner.evaluated(state.inner), "previous": self.inner.evaluated(state.before[0])}
        return Message(parts, {"check": True}, 8 * state.params.numel())

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """That of the inner method."""
        return self.inner.admit(state.inner, meta, public)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Mean values ``[2]`` in a check."""
        if not state.before:
            return self.inner.reduce(state.inner, batch, public)
        return {"values": weighted_mean(batch, "values", state.params.new_zeros(2), public)} if batch.metas else {}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Check a new version; after the check go on from the better model."""
        if state.before:
            new, old = released["values"].tolist() if "values" in released else (1.0, 0.0)
            kept = state.inner if new < old else self._back(state)
            done = State(kept.params, kept, (), ())
            return Step(done, new_version=False, exchange=next(iter(state.exchange), None))
        made = self.inner.step(state.inner, released, public)
        before, after = (state.inner,) if made.new_version else (), () if made.exchange is None else (made.exchange,)
        exchange = Exchange(phase="check", cohort="same") if made.new_version else made.exchange
        return Step(State(made.state.params, made.state, before, after), made.new_version, exchange)

    def _back(self, state: State) -> Any:
        if type(self.inner).evaluated is not Method.evaluated:
            return state.before[0]
        return state.inner._replace(params=state.before[0].params)

    def evaluated(self, state: State) -> torch.Tensor:
        """The result of the inner method."""
        return self.inner.evaluated(state.inner)

    def forget(self, state: State, in_use: Collection[int]) -> State:
        """Pass on."""
        return state._replace(inner=self.inner.forget(state.inner, in_use))

    def references(self) -> tuple[str, ...]:
        """Sources of both."""
        return (*self.inner.references(), "reference implementation of Shu et al. 2023, arXiv:2308.04077")
