"""LEAF's synthetic(alpha, beta) logistic data."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedopt.data.base import ClientIndex, DataSet, Examples, FederatedData
from fedopt.rng import generator
from fedopt.types import Task


class Synthetic(DataSet):
    """synthetic(alpha, beta): every client has its own logistic model (alpha) and its own inputs (beta).

    For client i: ``u_i ~ N(0, alpha^2)``, ``W_i, b_i ~ N(u_i, 1)`` per entry; ``B_i ~ N(0, beta^2)``, ``v_ij ~
    N(B_i, 1)``; inputs ``x ~ N(v_i, diag(j^-1.2))``, class ``argmax(x W_i + b_i)``. Sizes ``floor(LogNormal(4, 2)) +
    50``. The last ``test_fraction`` of every client's examples is its local test share; all of them form the test set.
    ``iid`` gives all clients one model and one input mean per client (entries equal to B_i; with beta = 0 all zero).

    References: Li et al. 2020, Federated Optimization in Heterogeneous Networks (FedProx), section 5.1,
    arXiv:1812.06127, after Shamir et al. 2014 and LEAF, arXiv:1812.01097. alpha and beta are standard deviations as in
    the authors' generator; the paper's notation reads as variances (the same for 0 and 1).
    """

    clients: int = Field(30, gt=0, description="number of clients")
    alpha: float = Field(1.0, ge=0, description="how much the clients' models differ, standard deviation")
    beta: float = Field(1.0, ge=0, description="how much the clients' inputs differ, standard deviation")
    iid: bool = Field(False, description="one model for all clients")
    dimension: int = Field(60, gt=0, description="inputs")
    classes: int = Field(10, gt=1, description="classes")
    size_log_mean: float = Field(4.0, description="mean of the logarithm of the client size")
    size_log_std: float = Field(2.0, ge=0, description="standard deviation of the logarithm of the client size")
    size_min: int = Field(50, ge=2, description="added to every client's size, examples")
    size_max: int | None = Field(None, ge=2, description="largest client, examples; null = no limit")
    test_fraction: float = Field(0.1, gt=0, lt=1, description="local test share of every client")
    public: tuple[str, ...] = Field((), strict=False, description="what of the split everybody may know")

    def load(self, seed: int) -> FederatedData:
        """Generate; every client has its own random stream, so adding clients does not change the others."""
        parts = [self._client(client, seed) for client in range(self.clients)]
        cuts = [len(y) - min(max(round(len(y) * self.test_fraction), 1), len(y) - 1) for _, y in parts]
        train = self._examples([(x[:c], y[:c]) for (x, y), c in zip(parts, cuts, strict=True)])
        test = self._examples([(x[c:], y[c:]) for (x, y), c in zip(parts, cuts, strict=True)])
        sizes = np.array([len(y) for _, y in parts])
        task = Task("classification", (self.dimension,), self.classes)
        name = f"synthetic({self.alpha}, {self.beta}){' iid' if self.iid else ''}"
        return FederatedData(
            task,
            train,
            test,
            _consecutive(np.array(cuts)),
            _consecutive(sizes - np.array(cuts)),
            class_names=tuple(map(str, range(self.classes))),
            source={"name": name, "licence": "generated"},
        )

    def _client(self, client: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = generator(seed, "synthetic", client)
        size = int(rng.lognormal(self.size_log_mean, self.size_log_std)) + self.size_min
        size = size if self.size_max is None else min(size, self.size_max)
        model_mean, input_mean = rng.normal(0.0, self.alpha), rng.normal(0.0, self.beta)
        own = generator(seed, "synthetic_common") if self.iid else rng
        model_mean = 0.0 if self.iid else model_mean
        weights = own.normal(model_mean, 1.0, (self.dimension, self.classes))
        bias = own.normal(model_mean, 1.0, self.classes)
        spread = 0.0 if self.iid else 1.0
        means = rng.normal(input_mean, spread, self.dimension)
        stds = np.arange(1, self.dimension + 1) ** -0.6
        inputs = rng.normal(means, stds, (size, self.dimension))
        return inputs.astype(np.float32), np.argmax(inputs @ weights + bias, axis=1).astype(np.int64)

    def _examples(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> Examples:
        groups = np.repeat(np.arange(self.clients), [len(y) for _, y in parts])
        return Examples(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]), groups)


def _consecutive(sizes: np.ndarray) -> ClientIndex:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return ClientIndex(offsets, np.arange(offsets[-1], dtype=np.int64))
