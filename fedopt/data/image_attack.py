"""Federated black-box attack: one perturbation that should fool every client's own image model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fedopt.components import KindOf
from fedopt.data._class_slots import class_slots
from fedopt.data._objectives import black_box
from fedopt.data.base import DataSet, FederatedData
from fedopt.rng import key

if TYPE_CHECKING:
    import torch
    from torch import nn


class ImageAttack(DataSet):
    """Untargeted attack on models that clients trained on class-skewed images; only their outputs are known.

    A small convolutional network is trained on all training images of the source, and then by every client on its own
    share of them. For one test image z of class y, ``f_i(u) = logit_y - max of the others`` at
    ``clamp(z + strength (2 u - 1), 0, 1)``, u in [0, 1]^d, d the number of pixel values. The image is broken when the
    mean F(u) < 0: set ``run.target_metric: 0``.

    Images: those of the test set with F >= 0 at the starting point, first those that all models classify rightly, in
    its order; ``image`` picks one.

    References: Shu et al. 2023, arXiv:2308.04077, section 6.2 (MNIST: strength 0.3, share 0.7; start at u = 0, the
    corner of the box, as its authors' program does with ``start: corner``).

    Differences from the paper: every client continues from the common network (models that never saw a class rule it
    out so firmly that no image is left; the program trains one network on successively for CIFAR); Adam; no dropout;
    every channel is perturbed by itself, so d counts all pixel values.
    """

    is_function = True

    clients: int = Field(10, gt=0, description="number of models N")
    source: Annotated[DataSet, KindOf("fedopt.data")] = Field(
        {"kind": "digits", "clients": 1}, validate_default=True, description="image classification data"
    )
    share: float = Field(0.5, gt=0, le=1, description="P of the split by classes: larger is less heterogeneity")
    image: int = Field(0, ge=0, description="which of the usable test images is attacked")
    strength: float = Field(0.3, gt=0, description="largest change of a pixel, whose values are in [0, 1]")
    start: Literal["centre", "corner"] = Field("centre", description="u = 0.5 (no change), or u = 0 (the program's)")
    channels: tuple[int, int] = Field((16, 32), strict=False, description="channels of the two convolutions")
    train_steps: int = Field(300, ge=1, description="Adam steps (rate 0.001, batch 64) of the common network")
    client_steps: int = Field(20, ge=0, description="Adam steps by which every client then trains on on its own images")

    def load(self, seed: int) -> FederatedData:
        """Train the models and choose the image.

        Raises:
            ValueError: no images, or fewer usable ones than asked for.
        """
        import torch

        loaded = self.source.load(seed)
        if loaded.task.kind != "classification" or len(loaded.task.input_shape) != 3:
            raise ValueError("image_attack needs image classification data; change data.source")
        slots = class_slots(loaded.train.targets, self.clients, self.share, seed)
        images, labels = torch.from_numpy(loaded.train.inputs), torch.from_numpy(loaded.train.targets)
        shape, classes = loaded.task.input_shape, loaded.task.num_outputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, "image_attack_models") & _SEEDS)
            common = self._network(shape, classes)
            _train(common, images, labels, self.train_steps)
            models = tuple(self._client_model(common, images[own], labels[own], seed, i) for i, own in enumerate(slots))
        tests, truth = torch.from_numpy(loaded.test.inputs), torch.from_numpy(loaded.test.targets)
        start = 0.5 if self.start == "centre" else 0.0
        usable = _usable(models, tests, truth, self.strength * (2 * start - 1))
        if self.image >= len(usable):
            raise ValueError(
                f"image {self.image} was asked for, but the models leave only {len(usable)} images that are not broken "
                "at the start; train longer (train_steps), let clients differ less (share, client_steps) or lower image"
            )
        chosen = int(usable[self.image])
        objective = AttackObjective(models, tests[chosen], int(truth[chosen]), self.strength, start)
        return black_box(objective, {**loaded.source, "name": f"attack on {loaded.source.get('name', 'images')}"})

    def _network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        first, second = self.channels
        body = nn.Sequential(
            nn.Conv2d(shape[0], first, 3, padding=1), nn.ReLU(), nn.Conv2d(first, second, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        width = second * (shape[1] // 2) * (shape[2] // 2)
        return nn.Sequential(body, nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, classes))

    def _client_model(
        self, common: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int, client: int
    ) -> nn.Module:
        import copy

        import torch

        torch.manual_seed(key(seed, "image_attack_models", client) & _SEEDS)
        model = copy.deepcopy(common)
        _train(model, images, labels, self.client_steps)
        return model.eval().requires_grad_(False)


_SEEDS = 0x7FFF_FFFF_FFFF_FFFF


def _train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    """Adam steps on batches of 64."""
    import torch
    from torch.nn import functional

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        batch = torch.randint(len(labels), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


def _margins(logits: torch.Tensor, truth: Any) -> torch.Tensor:
    """Logit of the true class minus the largest other ``[n]`` of ``[n, classes]``; truth a class or ``[n]``."""
    import torch

    index = torch.as_tensor(truth, device=logits.device).expand(len(logits))[:, None]
    own = logits.gather(1, index)[:, 0]
    return own - logits.scatter(1, index, -torch.inf).amax(1)


def _usable(models: tuple[nn.Module, ...], images: torch.Tensor, truth: torch.Tensor, change: float) -> np.ndarray:
    """Test images that are not broken at the start: first those that every model classifies rightly, then the others.

    Args:
        change: what the starting point adds to every pixel.
    """
    import torch

    with torch.no_grad():
        clean = torch.stack([_margins(model(images), truth) for model in models])
        began = torch.stack([_margins(model((images + change).clamp(0, 1)), truth) for model in models])
    whole, by_all = began.mean(0) >= 0, (clean > 0).all(0)
    found = [torch.nonzero(whole & by_all).flatten(), torch.nonzero(whole & ~by_all).flatten()]
    return np.asarray(torch.cat(found).numpy())


@dataclass(frozen=True)
class AttackObjective:
    """The functions of ``ImageAttack`` (an ``Objective``).

    Args:
        models: one per client, on the CPU.
        image: ``[channels, height, width]``, values in [0, 1].
        label: its class.
        strength: largest change of a pixel.
        start: value of every coordinate of the starting point.
    """

    models: tuple[nn.Module, ...]
    image: torch.Tensor
    label: int
    strength: float
    start: float
    has_gradients: bool = False
    optimum: float | None = None
    lower: float = 0.0
    upper: float = 1.0

    @property
    def dimension(self) -> int:
        """Pixel values of the image."""
        return int(self.image.numel())

    @property
    def num_clients(self) -> int:
        """Number of models."""
        return len(self.models)

    def initial(self, seed: int) -> torch.Tensor:
        """The starting point ``[d]``, the same for every seed."""
        import torch

        return torch.full((self.dimension,), self.start)

    def perturbed(self, points: torch.Tensor) -> torch.Tensor:
        """Images ``[..., channels, height, width]`` of points ``[..., d]``."""
        change = self.strength * (2 * points.float() - 1)
        return (self.image + change.reshape(*points.shape[:-1], *self.image.shape)).clamp(0, 1)

    def values(self, clients: Any, points: torch.Tensor, draw: torch.Tensor | None = None) -> torch.Tensor:
        """Margins at points ``[cohort, queries, d]`` -> ``[cohort, queries]``."""
        import torch

        images = self.perturbed(points.cpu())
        with torch.no_grad():
            rows = [_margins(self.models[int(c)](mine), self.label) for c, mine in zip(clients, images, strict=True)]
        return torch.stack(rows).to(points)

    def gradients(self, clients: Any, points: torch.Tensor) -> torch.Tensor:
        """Not given: the models are black boxes.

        Raises:
            ValueError: always.
        """
        raise ValueError("the attacked models give values only; use a zeroth-order client")

    def value(self, point: Any) -> float:
        """F(point), the mean margin; below 0 the image is broken."""
        import torch

        where = torch.as_tensor(point).detach()
        return float(self.values(range(self.num_clients), where.expand(self.num_clients, 1, -1)).double().mean())
