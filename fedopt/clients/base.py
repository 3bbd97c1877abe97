"""Client work: what a client does between receiving a message and replying."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fedopt.components import Settings

if TYPE_CHECKING:
    import numpy as np
    import torch

    from fedopt.engine.base import Cohort, CohortReply, Engine, ExampleClipping
    from fedopt.types import Message, ParamSpec


class ClientWork(Settings):
    """Base of client work. Pure in (cohort, seed): no evolving values in self.

    ``sends`` names the parts a reply can have; the aggregator must not need others. ``receives`` names those it needs
    of the server's message.
    """

    sends: ClassVar[tuple[str, ...]] = ("update",)
    receives: ClassVar[tuple[str, ...]] = ("params",)

    @abstractmethod
    def planned_steps(self, num_examples: int, message: Message) -> int:
        """Local steps of a client with ``num_examples``; decides its duration, so it must not look at values."""

    @abstractmethod
    def batch_size_of(self, num_examples: int) -> int:
        """Examples per local step, for the device model."""

    @abstractmethod
    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """Exact bytes of the reply on the wire."""

    def planned_queries(self, message: Message, steps: int, task: int) -> int:
        """Function values that a client asks for in its ``task``-th task (from 0), for a reply that is then not used.

        0 for work with gradients. For a used reply ``CohortReply.queries`` says what was asked for.
        """
        return 0

    @abstractmethod
    def normalizer(self, steps: int) -> float:
        """|a_i|_1 of FedNova: how far a constant unit gradient moves the model in ``steps`` steps, over lr."""

    @abstractmethod
    def initial_state(self, spec: ParamSpec) -> Mapping[str, int | None]:
        """Sizes of the per-client state tensors kept between tasks (zero at first); empty when stateless.

        None: a tensor of any shape and type that may change from task to task, empty at first.
        """

    @abstractmethod
    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Do the work of a whole cohort at once."""

    def problems(self, aggregator: Any, dimension: int | None) -> tuple[tuple[str, str], ...]:
        """Why this work cannot be done, as (option, message with a remedy); empty if it can. Asked before a run.

        Args:
            aggregator: the scenario's ``Method``, whose parts of messages and replies are this client's.
            dimension: d, or None where only loaded data say so.
        """
        return ()

    def unable(self, engine: Engine) -> tuple[str, ...]:
        """What this work needs that the loaded data do not have, with a remedy; empty if nothing. Asked before a run.

        Args:
            engine: with the data, and the model if there is one.
        """
        return ()

    def warnings(self, sizes: np.ndarray) -> tuple[str, ...]:
        """What a run is warned of, given the numbers of examples ``[clients]`` of a simulation."""
        return ()

    def protected(self, clipping: ExampleClipping) -> ClientWork:
        """The same work with every example's gradient clipped and noise added, for example-level privacy.

        Raises:
            ValueError: this work cannot; says which can.
        """
        raise ValueError(
            f"client {type(self).kind()} has no per-example clipping, so its mechanism cannot protect examples; use "
            "client: {kind: dp_sgd}"
        )


def without_examples(work: ClientWork, engine: Engine) -> tuple[str, ...]:
    """The refusal of work on examples where the task is a function of a point; empty elsewhere."""
    if engine.data.objective is None:
        return ()
    return (
        f"{work.kind()} works on examples, but these data are functions of a point; use data with examples, such as "
        "digits, or another client",
    )


def stack_states(states: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Per-client states as one tensor per name ``[rows, size]``, or a list of tensors where their shapes differ."""
    import torch

    if not states:
        return {}
    columns = {name: [state[name] for state in states] for name in states[0]}
    return {
        name: torch.stack(column) if len({(part.shape, part.dtype) for part in column}) == 1 else column
        for name, column in columns.items()
    }


def too_large_denominator(batch_size: int, probability: float | None, sizes: np.ndarray) -> tuple[str, ...]:
    """The warning that no client's Poisson batch comes near the constant by which its sum is divided."""
    largest = 0.0 if probability is None or not len(sizes) else probability * float(sizes.max())
    if not largest or batch_size <= 2 * largest:
        return ()
    return (
        f"client.batch_size is {batch_size}, by which sums are divided, but with client.sampling_probability "
        f"{probability:g} no client expects more than {largest:g} examples in a batch: its replies are at least "
        f"{batch_size / largest:.0f} times too small; set batch_size to the expected batch",
    )
