"""Metrics of a trained model that have no gradient, as functions of a change of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fedopt.components import KindOf
from fedopt.data._class_slots import class_slots
from fedopt.data._objectives import black_box
from fedopt.data.base import DataSet, Examples, FederatedData
from fedopt.rng import generator, key

if TYPE_CHECKING:
    import torch

_POINTS = 64  # perturbed models evaluated together


class ModelMetric(DataSet):
    """One minus a macro metric of a perturbed, trained network on every client's own test data.

    A network (``hidden`` layers with ReLU) is trained with cross entropy on half of the source's examples; the other
    half is dealt to the clients with class skew. ``f_i(u) = 1 - metric_i(theta + half_width (2 u - 1))`` for u in
    [0, 1]^d, d the number of parameters, from u = 0.5 (no change). The metric is the mean over the classes that client
    i holds of precision, recall, F1 or Jaccard index; a class never predicted counts 0.

    The paper: Covertype, hidden [30, 14], 7 clients, half_width 0.2, d = 2189. Its program drops one class by counting
    labels from 0; this does not.

    References: Shu et al. 2023, arXiv:2308.04077, section 6.3.
    """

    is_function = True

    clients: int = Field(3, gt=0, description="number of clients N")
    source: Annotated[DataSet, KindOf("fedopt.data")] = Field(
        {"kind": "tabular_sklearn", "name": "wine", "clients": 1},
        validate_default=True,
        description="classification data with real-valued inputs; its own partition is not used",
    )
    metric: Literal["precision", "recall", "f1", "jaccard"] = Field("f1", description="macro metric to raise")
    share: float = Field(0.3, gt=0, le=1, description="P of the split by classes: larger is less heterogeneity")
    hidden: tuple[int, ...] = Field((8,), strict=False, description="units of each hidden layer")
    half_width: float = Field(0.2, gt=0, description="largest change of a parameter")
    train_steps: int = Field(200, ge=0, description="full-batch Adam steps (rate 0.01) before the problem starts")

    def load(self, seed: int) -> FederatedData:
        """Train the network and deal the test half.

        Raises:
            ValueError: not a classification source with real inputs.
        """
        loaded = self.source.load(seed)
        if loaded.task.kind != "classification" or not np.issubdtype(loaded.train.inputs.dtype, np.floating):
            raise ValueError("model_metric needs a classification source with real-valued inputs; change data.source")
        inputs = np.concatenate([loaded.train.inputs, loaded.test.inputs]).reshape(
            len(loaded.train) + len(loaded.test), -1
        )
        labels = np.concatenate([loaded.train.targets, loaded.test.targets])
        order = generator(seed, "model_metric_split").permutation(len(labels))
        train, test = np.array_split(order, 2)
        sizes = (inputs.shape[1], *self.hidden, loaded.task.num_outputs)
        theta = _train(Examples(inputs[train], labels[train]), sizes, self.train_steps, seed)
        slots = class_slots(labels[test], self.clients, self.share, seed)
        held = tuple((inputs[test][own].astype(np.float32), labels[test][own]) for own in slots)
        objective = MetricObjective(theta, sizes, held, self.metric, self.half_width)
        return black_box(objective, {**loaded.source, "name": f"{self.metric} on {loaded.source.get('name', 'data')}"})


@dataclass(frozen=True)
class MetricObjective:
    """The functions of ``ModelMetric`` (an ``Objective``).

    Args:
        theta: trained parameters ``[d]``.
        sizes: units of all layers, inputs and outputs included.
        held: inputs ``[n_i, features]`` and labels ``[n_i]`` of every client.
        metric: its name.
        half_width: largest change of a parameter.
    """

    theta: torch.Tensor
    sizes: tuple[int, ...]
    held: tuple[tuple[np.ndarray, np.ndarray], ...]
    metric: str
    half_width: float
    has_gradients: bool = False
    optimum: float | None = None
    lower: float = 0.0
    upper: float = 1.0

    @property
    def dimension(self) -> int:
        """d."""
        return int(self.theta.numel())

    @property
    def num_clients(self) -> int:
        """Number of functions."""
        return len(self.held)

    def initial(self, seed: int) -> torch.Tensor:
        """No change: 0.5 everywhere ``[d]``."""
        import torch

        return torch.full((self.dimension,), 0.5)

    def values(self, clients: Any, points: torch.Tensor, draw: torch.Tensor | None = None) -> torch.Tensor:
        """f_i at points ``[cohort, queries, d]`` -> ``[cohort, queries]``."""
        import torch

        rows = []
        for client, mine in zip([int(c) for c in clients], points, strict=True):
            inputs, labels = (torch.from_numpy(part).to(points.device) for part in self.held[client])
            parts = [self._of_client(inputs, labels, block) for block in mine.split(_POINTS)]
            rows.append(torch.cat(parts))
        return torch.stack(rows).to(points.dtype)

    def _of_client(self, inputs: torch.Tensor, labels: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Values ``[queries]`` at points ``[queries, d]`` on examples ``[n, features]``."""
        import torch

        theta = self.theta.to(points.device) + self.half_width * (2 * points.float() - 1)
        predicted = _logits(theta, self.sizes, inputs).argmax(-1)  # [queries, n]
        present = torch.unique(labels)
        right = (labels == present[:, None]).float()  # [classes, n]
        said = (predicted[:, None] == present[:, None]).float()  # [queries, classes, n]
        hits, claims, real = (said * right).sum(-1), said.sum(-1), right.sum(-1)
        below = {
            "precision": claims,
            "recall": real.expand_as(hits),
            "f1": claims + real,
            "jaccard": claims + real - hits,
        }
        top = 2 * hits if self.metric == "f1" else hits
        return 1 - (top / below[self.metric].clamp_min(1)).mean(-1)

    def gradients(self, clients: Any, points: torch.Tensor) -> torch.Tensor:
        """There are none.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"the metric {self.metric} has no gradient; use a zeroth-order client")

    def value(self, point: Any) -> float:
        """F(point)."""
        import torch

        where = torch.as_tensor(point).detach()
        return float(self.values(range(self.num_clients), where.expand(self.num_clients, 1, -1)).double().mean())


def _logits(theta: torch.Tensor, sizes: tuple[int, ...], inputs: torch.Tensor) -> torch.Tensor:
    """Outputs ``[models, n, classes]`` of networks with parameters ``[models, d]``."""
    import torch

    found, place = inputs.expand(len(theta), -1, -1), 0
    for layer, (wide, out) in enumerate(pairwise(sizes)):
        weight = theta[:, place : place + wide * out].view(-1, wide, out)
        bias = theta[:, place + wide * out : place + (wide + 1) * out]
        place += (wide + 1) * out
        found = torch.baddbmm(bias[:, None, :], found, weight)
        found = found.relu() if layer < len(sizes) - 2 else found
    return found


def _train(examples: Examples, sizes: tuple[int, ...], steps: int, seed: int) -> torch.Tensor:
    """Parameters ``[d]`` after full-batch Adam on the cross entropy."""
    import torch
    from torch.nn import functional

    made = torch.Generator().manual_seed(key(seed, "model_metric_initial") & 0x7FFF_FFFF_FFFF_FFFF)
    pieces = []
    for wide, out in pairwise(sizes):
        pieces += [torch.randn(wide * out, generator=made) * (2.0 / wide) ** 0.5, torch.zeros(out)]
    theta = torch.cat(pieces)[None].requires_grad_(True)
    inputs = torch.from_numpy(examples.inputs.astype(np.float32))
    labels = torch.from_numpy(examples.targets.astype(np.int64))
    optimizer = torch.optim.Adam([theta], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(_logits(theta, sizes, inputs)[0], labels).backward()
        optimizer.step()
    return theta.detach()[0]
