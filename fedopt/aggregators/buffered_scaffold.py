"""SCAFFOLD without rounds: control variates with buffered asynchronous averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators._stream import Stream
from fedopt.aggregators.base import Admission, Reduced, Step, fixed_mean
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of the server."""

    params: torch.Tensor  # x, shape [d]
    control: torch.Tensor  # c, shape [d]


class BufferedScaffold(Stream):
    """A step per ``buffer_size`` uploads, with control variates against client drift; needs ``client: scaffold``.

    Sent down: ``params`` and ``control`` of the newest version (2d floats). Sent up: ``update`` and ``control``, the
    change of the client's control variate. With K = ``buffer_size``, B the buffer and N the population::

        params <- params + server_lr * (1/K) sum_B update_i
        control <- control + (1/N) sum_B control_i

    Guarantees: every reply counts with weight 1, so without privacy ``control`` is the mean of all clients' control
    variates at every step, however stale the replies are. With K = concurrency, equal durations and per_instant
    dispatch it is ``scaffold`` with rounds of K clients.

    References: Karimireddy et al. 2020, SCAFFOLD, Algorithm 1, arXiv:1910.06378; Nguyen et al. 2022, Federated Learning
    with Buffered Asynchronous Aggregation, Algorithm 1, arXiv:2106.06639.

    Differences from the papers: 1. The combination is neither paper's; it has no theorem here. 2. No staleness weight,
    because a client's control variate is its own whole one.
    """

    buffer_size: int = Field(10, ge=1, description="uploads K per server step, >= 1")
    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")

    def message_parts(self) -> tuple[str, ...]:
        """The model and the server's control variate."""
        return ("params", "control")

    def reply_parts(self) -> tuple[str, ...]:
        """Change of model and of control variate."""
        return ("update", "control")

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters, control 0."""
        return State(params, params.new_zeros(params.shape))

    def plan(self, state: State, public: Public) -> Exchange:
        """A step per K uploads."""
        return self.exchange_of(self.buffer_size)

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model and the server's control variate."""
        return Message(
            parts={"params": state.params, "control": state.control},
            num_bytes=4 * (state.params.numel() + state.control.numel()),
        )

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1."""
        return 1.0

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Mean update over the buffer, and the control's change over the population."""
        return {
            "update": fixed_mean(batch, "update", state.params, float(self.buffer_size)),
            "control": fixed_mean(batch, "control", state.control, float(public.num_clients)),
        }

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move the model and the control variate."""
        params = state.params + self.server_lr * released["update"]
        return Step(State(params, state.control + released["control"]))

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging, arXiv:1910.06378",
            "Nguyen et al. 2022, Federated Learning with Buffered Asynchronous Aggregation, arXiv:2106.06639",
        )
