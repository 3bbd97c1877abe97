"""Quadratic functions as clients, with known optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from fedopt.data._objectives import black_box, noisy, per_client
from fedopt.data.base import DataSet, FederatedData
from fedopt.rng import generator

if TYPE_CHECKING:
    import torch


class Quadratics(DataSet):
    """Client i holds ``f_i(x) = 0.5 * sum_j h_ij (x_j - c_ij)^2``: exact gradients, known optimum, optional noise.

    Centres c and curvatures h are listed or drawn: ``c_ij ~ N(0, center_std^2)``, ``h_ij`` log-uniform between
    ``curvature_min`` and ``curvature_max``. ``F = mean_i f_i`` is least at ``x_j = sum_i h_ij c_ij / sum_i h_ij``. With
    centres 0, 1, 2, 3, 10 in one dimension, unbiased weights end at 3.2 (FedFix, arXiv:2206.10189).
    """

    is_function = True

    clients: int = Field(5, gt=0, description="number of functions")
    dimension: int = Field(1, gt=0, description="number of coordinates d")
    centers: tuple[float | tuple[float, ...], ...] | None = Field(
        None, strict=False, description="centre of every client: a number (all coordinates) or d numbers; null = drawn"
    )
    curvatures: tuple[float | tuple[float, ...], ...] | None = Field(
        None, strict=False, description="curvature of every client: a number or d numbers, each > 0; null = drawn"
    )
    center_std: float = Field(1.0, ge=0, description="standard deviation of drawn centres; 0 = identical clients")
    curvature_min: float = Field(1.0, gt=0, description="smallest drawn curvature")
    curvature_max: float = Field(1.0, gt=0, description="largest drawn curvature")
    noise_std: float = Field(0.0, ge=0, description="standard deviation of a query's noise")
    start: float = Field(0.0, description="value of every coordinate of the starting point")

    @model_validator(mode="after")
    def _shapes_fit(self) -> Quadratics:
        for name in ("centers", "curvatures"):
            given = getattr(self, name)
            if given is not None and len(given) != self.clients:
                raise ValueError(f"{name} has {len(given)} entries; it needs one per client ({self.clients})")
            for row in given or ():
                if isinstance(row, tuple) and len(row) != self.dimension:
                    raise ValueError(f"an entry of {name} has {len(row)} numbers; dimension is {self.dimension}")
        if self.curvatures is not None and min(np.min(row) for row in self.curvatures) <= 0:
            raise ValueError("curvatures must be > 0")
        if self.curvature_max < self.curvature_min:
            raise ValueError(
                f"curvature_max {self.curvature_max} is below curvature_min {self.curvature_min}; raise the former"
            )
        return self

    def load(self, seed: int) -> FederatedData:
        """Draw what is not listed."""
        shape, rng = (self.clients, self.dimension), generator(seed, "quadratics")
        centers = rng.normal(0.0, self.center_std, shape)
        span = self.curvature_max / self.curvature_min
        curvatures = self.curvature_min * span ** rng.random(shape)
        if self.centers is not None:
            centers = _rows(self.centers, shape)
        if self.curvatures is not None:
            curvatures = _rows(self.curvatures, shape)
        objective = QuadraticObjective(centers, curvatures, self.noise_std, self.start)
        return black_box(objective, {"name": "quadratics", "licence": "generated"})


@dataclass(frozen=True)
class QuadraticObjective:
    """The functions of ``Quadratics`` (an ``Objective``).

    Args:
        centers, curvatures: ``[clients, d]`` float64.
        noise_std: of a query.
        start: value of every coordinate at the start.
    """

    centers: np.ndarray
    curvatures: np.ndarray
    noise_std: float = 0.0
    start: float = 0.0
    has_gradients: bool = True

    @property
    def dimension(self) -> int:
        """d."""
        return self.centers.shape[1]

    @property
    def num_clients(self) -> int:
        """Number of functions."""
        return self.centers.shape[0]

    def minimizer(self, importance: np.ndarray | None = None) -> np.ndarray:
        """Where ``sum_i p_i f_i`` is least ``[d]`` float64; uniform importance p if None."""
        p = np.full(self.num_clients, 1.0 / self.num_clients) if importance is None else importance
        weights = p[:, None] * self.curvatures
        return (weights * self.centers).sum(axis=0) / weights.sum(axis=0)

    @property
    def optimum(self) -> float:
        """Minimum of F."""
        return self._mean_value(self.minimizer())

    def initial(self, seed: int) -> torch.Tensor:
        """The starting point ``[d]``, the same for every seed."""
        import torch

        return torch.full((self.dimension,), self.start, dtype=torch.float32)

    def values(self, clients: Any, points: torch.Tensor, draw: torch.Tensor | None = None) -> torch.Tensor:
        """f_i at points ``[cohort, queries, d]`` -> ``[cohort, queries]``; ``draw``: standard normals."""
        apart = points - per_client(self.centers, clients, points)[:, None]
        curvatures = per_client(self.curvatures, clients, points)[:, None]
        return noisy(0.5 * (curvatures * apart * apart).sum(dim=-1), self.noise_std, draw)

    def gradients(self, clients: Any, points: torch.Tensor) -> torch.Tensor:
        """Exact gradients at points ``[cohort, d]``."""
        apart = points - per_client(self.centers, clients, points)
        return per_client(self.curvatures, clients, points) * apart

    def value(self, point: Any) -> float:
        """F(point), without noise."""
        return self._mean_value(np.asarray(point.detach().cpu() if hasattr(point, "detach") else point, np.float64))

    def _mean_value(self, point: np.ndarray) -> float:
        return float((0.5 * self.curvatures * (point - self.centers) ** 2).sum(axis=1).mean())


def _rows(given: tuple[float | tuple[float, ...], ...], shape: tuple[int, int]) -> np.ndarray:
    return np.stack([np.broadcast_to(np.asarray(row, dtype=np.float64), shape[1:]) for row in given])
