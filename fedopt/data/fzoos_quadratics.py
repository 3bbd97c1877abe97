"""The synthetic black-box functions of FZooS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from fedopt.data._objectives import black_box, noisy, per_client
from fedopt.data.base import DataSet, FederatedData
from fedopt.rng import generator

if TYPE_CHECKING:
    import torch

_BLOCK = 4096  # clients per evaluation of F: bounds memory


class FzoosQuadratics(DataSet):
    """FZooS' synthetic functions on [0, 1]^d with heterogeneity C: quadratic, Ackley or Levy.

    With ``x = 20 u - 10``, for every coordinate j independently ``(a_j^1, ..., a_j^N) ~ Dir(1/N)``, b likewise::

        quadratic  f_i = (sum_j (1 + C (a_j^i - 1/N)) x_j^2 + (1 + C (b_j^i - 1/N)) x_j + 1) / (10 d)
        ackley     f_i = Ackley(s_i * (x - t_i)),  s_i = 0.1 + C (a^i - 1/N),  t_i = C (b^i - 1/N)
        levy       f_i = Levy(s_i * (x - t_i))

    (in ``quadratic`` the final 1 is inside the brackets once, not per coordinate). Guarantees for ``quadratic``: the
    mean of the f_i is ``F = (sum_j (x_j^2 + x_j) + 1) / (10 d)`` for every C, least at ``u_j = 0.475`` with
    ``min F = -1/40 + 1/(10 d)``. The other optima are known for C = 0 only (Ackley 0 at x = 0; Levy 0 at x = 10).
    Ackley uses (20, 0.2, pi); Levy the ``sin^2(pi w + 1)`` form for the middle coordinates. Start: ``u ~ U[0, 1]^d``.

    References: Shu et al. 2023, Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate Gradients,
    section 6.1, arXiv:2308.04077; Ackley and Levy variants as in its authors' implementation.
    """

    is_function = True

    clients: int = Field(5, gt=0, description="number of functions N")
    dimension: int = Field(300, gt=0, description="number of coordinates d")
    heterogeneity: float = Field(5.0, ge=0, description="C; 0 = identical clients; the paper uses 0.5, 5, 50")
    function: Literal["quadratic", "ackley", "levy"] = Field("quadratic", description="family of functions")
    clip: bool = Field(True, description="clip points to [0, 1] inside f (flat outside); false = extend f")
    noise_std: float = Field(0.0, ge=0, description="standard deviation of a query's noise")

    def load(self, seed: int) -> FederatedData:
        """Draw the functions."""
        rng = generator(seed, "fzoos_functions")
        shape = (self.dimension, self.clients)
        shares = [_dirichlet(1.0 / self.clients, shape, rng).T - 1.0 / self.clients for _ in range(2)]
        first, second = (self.heterogeneity * share for share in shares)
        if self.function == "quadratic":
            table = first + 1.0, second + 1.0
        else:
            table = first + 0.1, second
        objective = FzoosObjective(self.function, *table, self.heterogeneity == 0, self.clip, self.noise_std)
        return black_box(objective, {"name": f"FZooS {self.function}", "licence": "generated"})


@dataclass(frozen=True)
class FzoosObjective:
    """The functions of ``FzoosQuadratics`` (an ``Objective``) on the unit cube.

    Args:
        function: quadratic, ackley or levy.
        first, second: quadratic and linear coefficients, or scales and centres ``[clients, d]``.
        is_homogeneous: whether C = 0.
        clip: whether points are clipped to [0, 1] first.
        noise_std: of a query.
    """

    function: str
    first: np.ndarray
    second: np.ndarray
    is_homogeneous: bool
    clip: bool = True
    noise_std: float = 0.0
    has_gradients: bool = True
    lower: float = 0.0
    upper: float = 1.0

    @property
    def dimension(self) -> int:
        """d."""
        return self.first.shape[1]

    @property
    def num_clients(self) -> int:
        """Number of functions."""
        return self.first.shape[0]

    @property
    def optimum(self) -> float | None:
        """Minimum of F over the cube, where it is known."""
        if self.function == "quadratic":
            return -1.0 / 40.0 + 1.0 / (10.0 * self.dimension)
        return 0.0 if self.is_homogeneous else None

    def initial(self, seed: int) -> torch.Tensor:
        """Uniform in the cube ``[d]`` float32."""
        import torch

        return torch.as_tensor(generator(seed, "fzoos_initial").random(self.dimension), dtype=torch.float32)

    def values(self, clients: Any, points: torch.Tensor, draw: torch.Tensor | None = None) -> torch.Tensor:
        """f_i at points ``[cohort, queries, d]`` -> ``[cohort, queries]``; ``draw``: standard normals."""
        first = per_client(self.first, clients, points)[:, None]
        second = per_client(self.second, clients, points)[:, None]
        x = 20.0 * (points.clamp(0.0, 1.0) if self.clip else points) - 10.0
        if self.function == "quadratic":
            exact = ((first * x * x + second * x).sum(dim=-1) + 1.0) / (10.0 * self.dimension)
        else:
            exact = (_ackley if self.function == "ackley" else _levy)(first * (x - second))
        return noisy(exact, self.noise_std, draw)

    def gradients(self, clients: Any, points: torch.Tensor) -> torch.Tensor:
        """Exact gradients with respect to u at points ``[cohort, d]``; 0 in clipped coordinates outside the cube."""
        import torch

        with torch.enable_grad():
            free = points.detach().clone().requires_grad_(True)
            (found,) = torch.autograd.grad(self.values(clients, free[:, None]).sum(), free)
        return found

    def value(self, point: Any) -> float:
        """F(point), without noise, in float64."""
        import torch

        where, total = torch.as_tensor(point).detach().to(torch.float64), 0.0
        for start in range(0, self.num_clients, _BLOCK):
            ids = np.arange(start, min(start + _BLOCK, self.num_clients))
            total += float(self.values(ids, where.expand(len(ids), 1, -1)).sum())
        return total / self.num_clients


def _ackley(z: torch.Tensor) -> torch.Tensor:
    """Ackley's function over the last axis: 0 at the origin."""
    import torch

    root = z.square().mean(dim=-1).clamp_min(1e-30).sqrt()  # the clamp keeps the gradient finite at the origin
    return 20.0 + math.e - 20.0 * torch.exp(-0.2 * root) - torch.exp(torch.cos(math.pi * z).mean(dim=-1))


def _levy(z: torch.Tensor) -> torch.Tensor:
    """Levy's function over the last axis, middle terms without the first coordinate: 0 where all z are 1."""
    import torch

    w = 1.0 + (z - 1.0) / 4.0
    middle = w[..., 1:-1]
    inner = ((middle - 1.0) ** 2 * (1.0 + 10.0 * torch.sin(math.pi * middle + 1.0) ** 2)).sum(dim=-1)
    last = w[..., -1]
    return torch.sin(math.pi * w[..., 0]) ** 2 + inner + (last - 1.0) ** 2 * (1.0 + torch.sin(2 * math.pi * last) ** 2)


def _dirichlet(alpha: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Rows ~ Dir(alpha), from log-gamma draws, so that small alpha does not underflow."""
    logs = np.log(rng.standard_gamma(alpha + 1.0, shape)) + np.log1p(-rng.random(shape)) / alpha
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
