"""Methods (aggregators): frozen settings, explicit state, pure functions between them.

A method never sees a clock, a network or a random generator. The server drives it::

    state = method.init(params, public)
    exchange = method.plan(state, public)
    message = method.payload(state, client, last_version)
    weight  = method.admit(state, meta, public)          # metadata only
    reduced = method.reduce(state, batch, public)        # name -> (value, Bound | None)
    outcome = method.step(state, released, public)       # sees only released values
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fedopt.components import Settings
from fedopt.types import Bound, Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch

HOLD: Literal["hold"] = "hold"
REJECT: Literal["reject"] = "reject"
Admission = float | Literal["hold", "reject"]
Importance = Literal["uniform", "num_examples"]
Reduced = dict[str, "tuple[torch.Tensor, Bound | None]"]


class Step(NamedTuple):
    """Result of ``Method.step``.

    Args:
        state: the new state; ``state.params`` is the current model.
        new_version: whether a new model version exists (False between the two exchanges of one round).
        exchange: the next exchange; None repeats ``plan``.
    """

    state: Any
    new_version: bool = True
    exchange: Exchange | None = None


class Method(Settings):
    """Base of aggregators. States are NamedTuples whose first field is ``params`` ``[d]``."""

    @abstractmethod
    def init(self, params: torch.Tensor, public: Public) -> Any:
        """State before the first step, for initial parameters ``[d]``."""

    @abstractmethod
    def plan(self, state: Any, public: Public) -> Exchange:
        """The exchange that starts a round (or keeps the stream running)."""

    @abstractmethod
    def payload(self, state: Any, client: int, last_version: int | None) -> Message:
        """What this client is sent now; ``last_version`` is the last one it received, None if it is new."""

    @abstractmethod
    def admit(self, state: Any, meta: ReplyMeta, public: Public) -> Admission:
        """Weight of a reply in the coming step, HOLD for a later step, or REJECT. Metadata only, never values."""

    @abstractmethod
    def reduce(self, state: Any, batch: ReplyBatch, public: Public) -> Reduced:
        """Combine the admitted replies; every value with how far one unit can move it (None: not releasable)."""

    @abstractmethod
    def step(self, state: Any, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move the model, from released values and public state only."""

    def reply_parts(self) -> tuple[str, ...]:
        """Names of the parts that this method takes from replies; the client's work must send them."""
        return ("update",)

    def message_parts(self) -> tuple[str, ...]:
        """Names of the parts that this method's messages to clients have."""
        return ("params",)

    def weighs_alike(self) -> bool:
        """Whether all replies of a step go into one sum with weight 1, where importance and staleness are constant.

        Noise in shares and shuffled messages need that: a sum of fewer replies would carry less noise than is charged.
        """
        return True

    def evaluated(self, state: Any) -> torch.Tensor:
        """Parameters to evaluate and to save ``[d]``; the current model unless the method says otherwise."""
        return state.params

    def references(self) -> tuple[str, ...]:
        """Sources of the method, for the report."""
        return ()

    def files(self, state: Any) -> dict[str, bytes]:
        """Further files of a finished run's directory, by name: what the method keeps besides its model."""
        return {}

    def problems(self, public: Public) -> tuple[str, ...]:
        """Why this method cannot run with these public facts, each with a remedy; empty if it can.

        Asked before a run starts, so that a refusal (no sensitivity bound, unknown durations) costs no training.
        """
        return ()

    def forget(self, state: Any, in_use: Collection[int]) -> Any:
        """State without what only replies to other versions would need.

        Args:
            in_use: every version that a client in flight started from, and the current one.
        """
        return state


def refuse_problems(method: Method, public: Public) -> None:
    """Raise what ``method.problems`` says.

    Raises:
        ValueError: all problems together.
    """
    found = method.problems(public)
    if found:
        raise ValueError("; ".join(found))


def no_bound(method: Method, reason: str, instead: str = "fedavg, fedavgm or fedbuff") -> str:
    """Refusal of a method whose reduced value has no sensitivity bound; ``instead`` goes with the same clients."""
    return (
        f"{type(method).__name__} declares no sensitivity bound ({reason}), so its result cannot be released under "
        f"privacy; use {instead}, or remove the privacy section"
    )


def broadcast(params: torch.Tensor) -> Message:
    """The usual payload: the current model, 4 bytes a parameter."""
    return Message(parts={"params": params}, num_bytes=4 * params.numel())


def raw_importance(importance: Importance, public: Public, client: int) -> float:
    """Unnormalised importance of a client: 1, or its number of examples.

    Raises:
        ValueError: number of examples asked for but not public.
    """
    if importance == "uniform":
        return 1.0
    if public.num_examples is None:
        raise ValueError("weights by num_examples need data.public to contain num_examples; use uniform weights")
    return float(public.num_examples[client])


def total_importance(importance: Importance, public: Public) -> float:
    """Sum of ``raw_importance`` over the population."""
    if importance == "uniform":
        return float(public.num_clients)
    raw_importance(importance, public, 0)
    assert public.num_examples is not None
    return float(public.num_examples.sum())


def max_importance(importance: Importance, public: Public) -> float:
    """Largest ``raw_importance`` of the population: a public bound of a client's weight."""
    if importance == "uniform":
        return 1.0
    raw_importance(importance, public, 0)
    assert public.num_examples is not None
    return float(public.num_examples.max())


def mean_importance(importance: Importance, public: Public) -> float:
    """Mean ``raw_importance`` of the population: the public scale of a client's weight."""
    return total_importance(importance, public) / public.num_clients


def weighted_sum(batch: ReplyBatch, part: str, like: torch.Tensor) -> torch.Tensor:
    """``sum_i weight_i * row_i`` of the admitted replies; zeros shaped like ``like`` when there are none."""
    import torch

    if not batch.metas:
        return torch.zeros_like(like)
    return batch.part(part).weighted_sum(torch.tensor(batch.weights, dtype=torch.float64))


def fixed_mean(
    batch: ReplyBatch, part: str, like: torch.Tensor, denominator: float, max_weight: float = 1.0
) -> tuple[torch.Tensor, Bound]:
    """``sum_i weight_i * row_i / denominator`` and how far one client can move it.

    Args:
        denominator: a public constant > 0, never a count of what arrived.
        max_weight: public upper bound of a weight.
    """
    inner, factor = batch.bound(part), max_weight / denominator
    value = weighted_sum(batch, part, like) / denominator
    return value, Bound(inner.l2 * factor, inner.l1 * factor, inner.linf * factor)


def weighted_mean(
    batch: ReplyBatch,
    part: str,
    like: torch.Tensor,
    public: Public,
    max_weight: float = 1.0,
    mean_weight: float = 1.0,
) -> tuple[torch.Tensor, Bound | None]:
    """Mean of the admitted replies with their weights, and how far one client can move it.

    Without privacy the denominator is the sum of the arrived weights. Under privacy it is the public constant
    ``expected_cohort * mean_weight``: what arrived would itself depend on the data. ``max_weight`` and
    ``mean_weight`` are the public upper bound and population mean of a weight.
    """
    if public.is_private:
        return fixed_mean(batch, part, like, public.expected_cohort * mean_weight, max_weight)
    total, arrived = weighted_sum(batch, part, like), sum(batch.weights)
    return (total / arrived if arrived > 0 else total), None


def importance_mean(
    batch: ReplyBatch, part: str, like: torch.Tensor, public: Public, importance: Importance
) -> tuple[torch.Tensor, Bound | None]:
    """``weighted_mean`` of replies that ``admit`` weighted by ``raw_importance``."""
    return weighted_mean(
        batch, part, like, public, max_importance(importance, public), mean_importance(importance, public)
    )
