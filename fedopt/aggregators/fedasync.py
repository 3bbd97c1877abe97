"""FedAsync: every arriving client model is mixed into the global one."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from fedopt.aggregators._stream import Stream
from fedopt.aggregators.base import REJECT, Admission, Reduced, Step, broadcast, fixed_mean
from fedopt.aggregators.staleness.base import Staleness
from fedopt.components import KindOf
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of FedAsync."""

    params: torch.Tensor  # shape [d]
    version: int  # of params
    versions: dict[int, torch.Tensor]  # models that clients in flight started from, [d] each; relative_to current


class FedAsync(Stream):
    """Mix every arriving client model into the global model, less the staler it is.

    With ``rate = alpha * s(staleness)`` and the client's end model ``end = received + update``:

    * ``relative_to: current`` (the paper): ``params <- (1 - rate) * params + rate * end``, computed as
      ``params + rate * update - rate * (params - received)``: it also pulls back towards the model received;
    * ``relative_to: received``: ``params <- params + rate * update``, FedBuff with a buffer of one.

    Guarantees: both agree at staleness 0. Under privacy only ``update`` is private: ``received`` is a released model.

    State: ``current`` keeps one model per version that is still in flight (``forget`` drops the others), at most
    ``max_staleness + 1`` of them where that is set.

    References: Xie, Koyejo, Gupta 2019, Asynchronous Federated Optimization, Algorithm 1, arXiv:1903.03934.

    Differences from the paper: the proximal term is the client's work (``client: proximal``), not the server's.
    """

    alpha: float = Field(0.6, gt=0, le=1, description="mixing weight of a fresh model, in (0, 1]")
    staleness: Annotated[Staleness, KindOf("fedopt.aggregators.staleness")] = Field(
        {"kind": "polynomial", "exponent": 0.5}, validate_default=True, description="staleness weight s of an upload"
    )
    relative_to: Literal["current", "received"] = Field(
        "current", description="mix the client's model (current), or add its update to the model (received)"
    )
    max_staleness: int | None = Field(None, ge=0, description="reject staler uploads, in server steps; null: never")

    @model_validator(mode="after")
    def _mixes(self) -> FedAsync:
        largest = self.alpha * self.staleness.max_weight()
        if largest > 1:
            raise ValueError(f"alpha times the largest staleness weight must be <= 1, got {largest:g}; lower alpha")
        return self

    def weighs_alike(self) -> bool:
        """Only at full mixing."""
        return self.alpha == 1.0

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters."""
        return State(params, 0, self._kept({}, 0, params))

    def _kept(self, versions: dict[int, torch.Tensor], version: int, params: torch.Tensor) -> dict[int, torch.Tensor]:
        if self.relative_to == "received":
            return {}
        oldest = 0 if self.max_staleness is None else version - self.max_staleness
        return {**{v: kept for v, kept in versions.items() if v >= oldest}, version: params}

    def plan(self, state: State, public: Public) -> Exchange:
        """A step per upload."""
        return self.exchange_of(1)

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """``alpha * s(staleness)``; REJECT beyond ``max_staleness``."""
        if self.max_staleness is not None and meta.staleness > self.max_staleness:
            return REJECT
        return self.alpha * self.staleness.weight(meta.staleness)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """``rate * update``, and the pull towards the received model, which is public."""
        largest = self.alpha * self.staleness.max_weight()
        value, bound = fixed_mean(batch, "update", state.params, 1.0, largest)
        if self.relative_to == "current":
            for weight, meta in zip(batch.weights, batch.metas, strict=True):
                value = value - weight * (state.params - self._received(state, meta.version))
        return {"update": (value, bound)}

    def _received(self, state: State, version: int) -> torch.Tensor:
        if version not in state.versions:
            known = ", ".join(map(str, sorted(state.versions)))
            raise ValueError(f"version {version} was forgotten while a client still worked on it; kept: {known}")
        return state.versions[version]

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move, and remember the new version."""
        params, version = state.params + released["update"], state.version + 1
        return Step(State(params, version, self._kept(state.versions, version, params)))

    def forget(self, state: State, in_use: Collection[int]) -> State:
        """Keep the models of versions in flight and the current one."""
        wanted = {*in_use, state.version}
        return state._replace(versions={v: params for v, params in state.versions.items() if v in wanted})

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Xie, Koyejo, Gupta 2019, Asynchronous Federated Optimization, arXiv:1903.03934",)
