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

    Every client trains a small convolutional network on its own share of the source's training images. For one test
    image z of class y, ``f_i(u) = logit_y - max of the others`` at ``clamp(z + strength (2 u - 1), 0, 1)``, u in
    [0, 1]^d, d the number of pixel values. The image is broken when the mean F(u) < 0: set ``run.target_metric: 0``.

    Images: those of the test set that all models classify rightly, in its order (if there is none: those of positive
    mean margin); ``image`` picks one.

    References: Shu et al. 2023, arXiv:2308.04077, section 6.2 (MNIST: strength 0.3, share 0.7; start at u = 0, the
    corner of the box, as its authors' program does with ``start: corner``).

    Differences from the paper: models start independently (the program trains one network on successively for CIFAR),
    by Adam; no dropout.
    """

    clients: int = Field(10, gt=0, description="number of models N")
    source: Annotated[DataSet, KindOf("fedopt.data")] = Field(
        {"kind": "digits", "clients": 1}, validate_default=True, description="image classification data"
    )
    share: float = Field(0.5, gt=0, le=1, description="P of the split by classes: larger is less heterogeneity")
    image: int = Field(0, ge=0, description="which of the usable test images is attacked")
    strength: float = Field(0.3, gt=0, description="largest change of a pixel, whose values are in [0, 1]")
    start: Literal["centre", "corner"] = Field("centre", description="u = 0.5 (no change), or u = 0 (the program's)")
    channels: tuple[int, int] = Field((16, 32), strict=False, description="channels of the two convolutions")
    train_steps: int = Field(300, ge=1, description="Adam steps (rate 0.001, batch 64) of every client's training")

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
            models = tuple(
                self._train(images[own], labels[own], shape, classes, seed, i) for i, own in enumerate(slots)
            )
        tests, truth = torch.from_numpy(loaded.test.inputs), torch.from_numpy(loaded.test.targets)
        usable = _usable(models, tests, truth)
        if self.image >= len(usable):
            raise ValueError(f"image {self.image} was asked for, but the models leave only {len(usable)} usable images")
        chosen = int(usable[self.image])
        start = 0.5 if self.start == "centre" else 0.0
        objective = AttackObjective(models, tests[chosen], int(truth[chosen]), self.strength, start)
        return black_box(objective, {**loaded.source, "name": f"attack on {loaded.source.get('name', 'images')}"})

    def _train(
        self, images: torch.Tensor, labels: torch.Tensor, shape: tuple[int, ...], classes: int, seed: int, client: int
    ) -> nn.Module:
        """One client's network."""
        import torch
        from torch import nn
        from torch.nn import functional

        torch.manual_seed(key(seed, "image_attack_models", client) & 0x7FFF_FFFF_FFFF_FFFF)
        first, second = self.channels
        body = nn.Sequential(
            nn.Conv2d(shape[0], first, 3, padding=1), nn.ReLU(), nn.Conv2d(first, second, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        width = second * (shape[1] // 2) * (shape[2] // 2)
        model = nn.Sequential(body, nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, classes))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(self.train_steps):
            batch = torch.randint(len(labels), (64,))
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        return model.eval().requires_grad_(False)


def _margins(logits: torch.Tensor, truth: Any) -> torch.Tensor:
    """Logit of the true class minus the largest other ``[n]`` of ``[n, classes]``; truth a class or ``[n]``."""
    import torch

    index = torch.as_tensor(truth, device=logits.device).expand(len(logits))[:, None]
    own = logits.gather(1, index)[:, 0]
    return own - logits.scatter(1, index, -torch.inf).amax(1)


def _usable(models: tuple[nn.Module, ...], images: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Test images that every model classifies rightly; failing that, those of positive mean margin."""
    import torch

    with torch.no_grad():
        margins = torch.stack([_margins(model(images), truth) for model in models])
    everybody = torch.nonzero((margins > 0).all(0)).flatten()
    found = everybody if len(everybody) else torch.nonzero(margins.mean(0) > 0).flatten()
    return np.asarray(found.numpy())


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
