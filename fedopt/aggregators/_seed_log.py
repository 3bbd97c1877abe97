"""What the scalar methods share: a log of (key, scalars) that moves the model, and what a client lacks of it in bytes.

A simulated client is handed the model itself; what is counted is the smaller of the log records it has missed and the
weights. ``replay`` shows that the records give the very bits it was handed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import Method
from fedopt.types import Message

if TYPE_CHECKING:
    import torch

    from fedopt.zeroth_order.seed_log import Record

DirectionKind = Literal["rademacher", "gaussian", "sphere", "coordinate"]
SEED_BITS = 64


class State(NamedTuple):
    """State of a method that moves its model by records."""

    params: torch.Tensor  # shape [d]
    records: tuple[Record, ...]  # everything that moved the model, in order
    bits: tuple[int, ...]  # bits of all records before version v, for v = 0 .. current
    sent: dict[
        int, tuple[tuple[int, int], ...]
    ]  # client -> (version, bits) of its scalars in every step it was part of
    seed: int  # of the public directions


class SeedLogMethod(Method):
    """Abstract: an aggregator whose model is the initial one plus a log of records."""

    step_size: float = Field(
        1e-3,
        gt=0,
        description="step per unit of estimated gradient; directions of length 1 (sphere, coordinate) carry their "
        "factor d besides",
    )
    directions: DirectionKind = Field(
        "rademacher", description="entries of a direction: rademacher has the same bits on CPU and CUDA"
    )
    join: Literal["cheaper", "log", "weights"] = Field(
        "cheaper", description="how a client catches up: the missed records, the weights (4 d bytes), or what is less"
    )

    def start(self, params: torch.Tensor, seed: int) -> State:
        """State before the first step."""
        return State(params, (), (0,), {}, seed)

    def rate(self, state: State) -> float:
        """Step per scalar, as clients are told: with the factor that makes scalar times direction an estimate."""
        from fedopt.zeroth_order.estimators import factor

        return self.step_size * factor(self.directions, state.params.numel())

    def message(
        self, state: State, client: int, last_version: int | None, config: dict[str, Any], extra_bits: int
    ) -> Message:
        """The model, counted as what the client lacks of it plus ``extra_bits``.

        A new client knows the initial model (it follows from the seed, or everybody has it) and replays all records.
        """
        missed = state.bits[-1] - state.bits[last_version or 0]
        # Nobody need be told its own; several of its tasks may have been applied since its last message.
        missed -= sum(own for version, own in state.sent.get(client, ()) if version >= (last_version or 0))
        weights = 0 if last_version == len(state.bits) - 1 else 32 * state.params.numel()
        bits = {"log": missed, "weights": weights, "cheaper": min(missed, weights)}[self.join]
        shared = {"directions": self.directions, "step_size": self.rate(state)}
        return Message({"params": state.params}, {**shared, **config}, -(-(bits + extra_bits) // 8))

    def advance(self, state: State, records: list[Record], bits: int, sent: dict[int, int]) -> State:
        """The model after more records, and what they cost to hear about."""
        from fedopt.zeroth_order.seed_log import apply_

        params = apply_(state.params.clone(), self.directions, records) if records else state.params
        return state._replace(
            params=params,
            records=state.records + tuple(records),
            bits=(*state.bits, state.bits[-1] + bits),
            sent={**state.sent, **{c: (*state.sent.get(c, ()), (len(state.bits) - 1, own)) for c, own in sent.items()}},
        )

    def files(self, state: State) -> dict[str, bytes]:
        """``seed_log.bin``: with the scenario's initial model it rebuilds the final one bit for bit."""
        from fedopt.zeroth_order.seed_log import SeedLog

        log = SeedLog(self.directions, state.params.numel()).extend(state.records)
        return {"seed_log.bin": log.to_bytes()}
