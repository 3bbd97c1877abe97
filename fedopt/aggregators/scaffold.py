"""SCAFFOLD, the server's part: averaging with control variates."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import Admission, Method, Reduced, Step, fixed_mean, weighted_mean
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of SCAFFOLD's server."""

    params: torch.Tensor  # x, shape [d]
    control: torch.Tensor  # c, shape [d]


class Scaffold(Method):
    """Averaging with control variates against client drift; needs ``client: scaffold``.

    Sent down: ``params`` and ``control`` (2d floats). Sent up: ``update`` and ``control``, the change of the client's
    control variate. With S the admitted replies and N the population::

        params <- params + server_lr * mean_S update_i
        control <- control + (1/N) sum_S control_i

    Guarantees: without privacy ``control`` is the mean of all clients' control variates at every step, since a
    client's is committed only if its reply is admitted. With all controls 0 it is FedAvg.

    Under privacy both parts are released together; clipping or noise on ``control`` breaks the equality above (the
    server's becomes an estimate), never the privacy.

    References: Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging, Algorithm 1, arXiv:1910.06378.
    """

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
        """One exchange per round; all of the cohort."""
        return Exchange()

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
        """Mean update over the cohort, and the control's change over the population."""
        return {
            "update": weighted_mean(batch, "update", state.params, public),
            "control": fixed_mean(batch, "control", state.control, float(public.num_clients)),
        }

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move the model and the control variate."""
        params = state.params + self.server_lr * released["update"]
        return Step(State(params, state.control + released["control"]))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging, arXiv:1910.06378",)
