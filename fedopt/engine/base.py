"""The cohort as a tensor axis: what client work asks of the engine, and what it gives back.

Importing this module does not import torch, so that settings files may use its types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fedopt.engine.update_batch import ConcatUpdates, DenseUpdates, UpdateBatch, concatenated
from fedopt.rng import TorchDraws, torch_generator

if TYPE_CHECKING:
    import numpy as np
    import torch

    from fedopt.data.base import FederatedData
    from fedopt.types import Message, ParamSpec

__all__ = [
    "BatchPlan",
    "Cohort",
    "CohortReply",
    "ConcatUpdates",
    "DenseUpdates",
    "Engine",
    "ExampleClipping",
    "LocalRule",
    "TrainResult",
    "UpdateBatch",
    "concatenated",
]


@dataclass(frozen=True)
class Cohort:
    """Tasks that are computed together, possibly from different model versions.

    Args:
        clients: client ids ``[rows]``.
        tasks: how many tasks each client was given before; with the client id it names the random streams.
        messages: what each client received; equal versions share the same tensors.
        states: client state before the work, named tensors ``[rows, d_part]``, or None.
        steps: local steps of each row, as announced at dispatch.
        seed: run seed, or in a deployment under privacy a secret one: names batches and everything else that is not
            public.
        phase: name of the exchange.
        public_seed: names what server and clients must draw alike, such as directions; None is ``seed``.
    """

    clients: tuple[int, ...]
    tasks: tuple[int, ...]
    messages: tuple[Message, ...]
    steps: tuple[int, ...]
    seed: int
    phase: str = "train"
    states: Mapping[str, torch.Tensor] | None = None
    public_seed: int | None = None

    def __len__(self) -> int:
        return len(self.clients)

    @property
    def shared_seed(self) -> int:
        """Seed of what everybody must draw alike."""
        return self.seed if self.public_seed is None else self.public_seed

    def stacked(self, part: str) -> torch.Tensor:
        """A message part of every row ``[rows, d_part]``."""
        import torch

        distinct, index = self.distinct(part)
        return distinct[0].expand(len(self), -1) if len(distinct) == 1 else torch.stack(distinct)[index]

    def distinct(self, part: str) -> tuple[list[torch.Tensor], list[int]]:
        """The distinct tensors of a message part, and which one each row received."""
        seen: dict[int, int] = {}
        tensors: list[torch.Tensor] = []
        index = []
        for message in self.messages:
            tensor = message.parts[part]
            if id(tensor) not in seen:
                seen[id(tensor)] = len(tensors)
                tensors.append(tensor)
            index.append(seen[id(tensor)])
        return tensors, index


@dataclass(frozen=True)
class CohortReply:
    """What a cohort sends back.

    Args:
        parts: name -> batch with one row per cohort member; ``update`` is end minus start.
        states: client state after the work, as in ``Cohort.states``; committed only if the reply is admitted.
        metrics: simulator-only numbers per row, for example ``train_loss`` (mean over the local steps).
        queries: function evaluations per row (zeroth order), else None.
    """

    parts: Mapping[str, UpdateBatch]
    states: Mapping[str, torch.Tensor] | None = None
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)
    queries: tuple[int, ...] | None = None


@dataclass(frozen=True)
class BatchPlan:
    """Which examples every local step of every row uses.

    Args:
        indices: ``[rows, max_steps, batch]`` int64 into the training examples; padding repeats one of the same
            client's, or is 0 where it has none.
        counts: real examples of every batch ``[rows, max_steps]`` int64; 0 beyond a row's steps, and for an empty
            Poisson batch.
        steps: local steps of each row ``[rows]``.
        denominators: what the summed gradient is divided by ``[rows, max_steps]``; ``counts`` for the usual mean,
            a public constant under example-level privacy.
    """

    indices: np.ndarray
    counts: np.ndarray
    steps: np.ndarray
    denominators: np.ndarray


@dataclass(frozen=True)
class ExampleClipping:
    """Per-example clipping and noise inside local training (DP-SGD).

    Args:
        clipping_norm: C > 0, of one example's gradient.
        noise_std: standard deviation added to the *sum* of clipped gradients, per coordinate.
        style: flat (min(1, C/norm)), or automatic (C/(norm + stability)).
        per_layer: C_l of every parameter tensor, or None for one norm over all.
        stability: gamma of automatic clipping.
        noise_purpose: name of the noise stream; never a public one.
        noise: source of the noise (``fedopt.privacy.base.Noise``); None in a simulation, whose streams are seeded.
        difference_clipping_norm: largest norm of a difference of one example's gradients at two points, over the
            distance of the points (gradient-difference work), or None.
    """

    clipping_norm: float
    noise_std: float
    style: str = "flat"
    per_layer: tuple[float, ...] | None = None
    stability: float = 0.01
    noise_purpose: str = "dp_sgd_noise"
    difference_clipping_norm: float | None = None
    noise: Any = None

    def draws(self, device: Any, seed: int, client: int, task: int) -> Any:
        """Stream of the noise of one client's task (``fedopt.privacy.base.Draws``)."""
        if self.noise is not None:
            return self.noise.example_draws(device, self.noise_purpose, client, task)
        return TorchDraws(torch_generator(device, seed, self.noise_purpose, client, task))


@dataclass(frozen=True)
class LocalRule:
    """Local training as data, so that every formulation implements the same thing.

    Per step t with mean mini-batch gradient g at y: ``g += weight_decay*y + proximal*(y - start) + correction``;
    if clipped: ``g *= min(1, gradient_clip/|g|)``; ``buffer = momentum*buffer + g`` (first step: ``buffer = g``);
    ``y -= rate_t * (g + momentum*buffer if nesterov else buffer)``.

    Args:
        rates: learning rate of every row and step ``[rows, max_steps]``.
        momentum: in [0, 1).
        nesterov: look-ahead form of torch.optim.SGD.
        weight_decay: L2 coefficient >= 0.
        proximal: mu >= 0 (FedProx).
        gradient_clip: bound on the mean gradient's norm, or None.
        correction: constant vector added to every gradient ``[rows, d]`` (SCAFFOLD: c - c_i), or None.
        example_clipping: DP-SGD inside the client, or None.
    """

    rates: torch.Tensor
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    proximal: float = 0.0
    gradient_clip: float | None = None
    correction: torch.Tensor | None = None
    example_clipping: ExampleClipping | None = None


class TrainResult(Protocol):
    """Result of local training: ``updates`` (UpdateBatch) and ``losses`` ``[rows]`` (mean over steps)."""

    updates: Any
    losses: torch.Tensor


class Engine(Protocol):
    """What client work may ask for.

    Attributes:
        device: torch device.
        spec: names and shapes of the flat parameter vector.
        data: the federated data.
        seed: run seed.
    """

    device: torch.device
    spec: ParamSpec
    data: FederatedData
    seed: int

    def plan_batches(
        self,
        cohort: Cohort,
        batch_size: int | Literal["full"],
        order: Literal["shuffled", "sampled", "poisson"] = "shuffled",
        sampling_probability: float | None = None,
        denominator: float | None = None,
    ) -> BatchPlan:
        """Batches of every row for ``cohort.steps`` (see ``fedopt.engine.batches``); steps only for black-box tasks."""
        ...

    def train(self, cohort: Cohort, rule: LocalRule, plan: BatchPlan) -> TrainResult:
        """Local training of a cohort by the chosen formulation."""
        ...

    def example_losses(self, parameters: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Losses of examples, no gradient: parameters ``[rows, d]``, indices ``[rows, batch]`` -> ``[rows, batch]``."""
        ...

    @property
    def loss_values(self) -> Any:
        """Losses as values of the parameters (``fedopt.engine.values.LossValues``), for zeroth-order work."""
        ...
