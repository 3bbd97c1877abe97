"""Feature shift: every client sees its examples through its own rotation and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fedopt.components import Section
from fedopt.data.base import ClientIndex, Examples, FederatedData
from fedopt.rng import generator, key


class FeatureShift(Section):
    """Per-client change of the inputs: quarter turns of images and additive Gaussian noise.

    Client i of N is turned by ``90 * (r_i)`` degrees, ``r_i = i mod rotations`` (``ladder``) or uniform (``random``),
    and gets independent noise of standard deviation ``noise_std * (i + 1) / N`` (``ladder``) or ``noise_std * U(0, 1)``
    (``random``, one draw per client).

    References: Li et al. 2022, Federated Learning on Non-IID Data Silos, noise-based feature imbalance,
    arXiv:2102.02079 (it gives the variance, not the standard deviation, the factor i / N); Ghosh et al. 2020, rotated
    clients, arXiv:2006.04088.
    """

    rotations: Literal[1, 2, 4] = Field(1, description="distinct turns: 1 none, 2 by 180 degrees, 4 by 90 degrees")
    noise_std: float = Field(0.0, ge=0, description="largest client noise, standard deviation in input units")
    assignment: Literal["ladder", "random"] = Field("ladder", description="strength by client id, or drawn per client")


@dataclass(frozen=True)
class Shift:
    """The feature shift of a population, a pure function of (client, example).

    Args:
        turns: quarter turns of every client ``[clients]``, 0..3.
        noise_stds: noise of every client ``[clients]``, standard deviation.
        seed: run seed.
    """

    turns: np.ndarray
    noise_stds: np.ndarray
    seed: int

    def apply(self, client: int, inputs: np.ndarray, indices: np.ndarray, part: str = "train") -> np.ndarray:
        """Inputs as the client sees them; an example looks the same in every batch.

        Args:
            client: client id.
            inputs: ``[n, *input_shape]`` float32.
            indices: which examples these are ``[n]``; they name the noise.
            part: ``train`` or ``test``: separate noise.
        """
        turned = np.rot90(inputs, k=int(self.turns[client]), axes=(-2, -1)) if self.turns[client] else inputs
        std = float(self.noise_stds[client])
        if std == 0.0:
            return np.ascontiguousarray(turned, dtype=np.float32)
        width = int(np.prod(turned.shape[1:]))
        noise = _normals(key(self.seed, f"feature_noise_{part}", client), indices, width)
        return (turned + std * noise.reshape(turned.shape)).astype(np.float32)

    def materialise(self, data: FederatedData) -> FederatedData:
        """Data with the shift written into the examples and ``transforms = None``.

        Examples held by one client are replaced in place; where clients share examples, every client gets its own
        copies (memory grows with the total number of held examples; copies of test examples join the pooled test
        set). Test examples of nobody are dealt over the clients' views in turn, so that the pooled test set has the
        population's mixture of shifts.
        """
        nobody = ClientIndex(np.zeros(len(self.turns) + 1, dtype=np.int64), np.zeros(0, dtype=np.int64))
        train, clients = self._written(data.train, data.clients, "train")
        test, client_tests = self._written(data.test, data.client_tests or nobody, "test")
        tests = None if data.client_tests is None else client_tests
        return replace(data, train=train, clients=clients, test=test, client_tests=tests, transforms=None)

    def _written(self, examples: Examples, index: ClientIndex, part: str) -> tuple[Examples, ClientIndex]:
        shared = len(np.unique(index.indices)) < len(index.indices)
        inputs = np.array(examples.inputs, dtype=np.float32)
        if part == "test":
            self._deal_rest(inputs, np.zeros(0, dtype=np.int64) if shared else index.indices)
        copies = np.empty((len(index.indices), *inputs.shape[1:]), dtype=np.float32) if shared else inputs
        for client in np.flatnonzero(index.sizes()):
            own = index.of(int(client))
            where = np.arange(index.offsets[client], index.offsets[client + 1]) if shared else own
            copies[where] = self.apply(int(client), examples.inputs[own], own, part)
        if not shared:
            return replace(examples, inputs=inputs), index
        keep = np.arange(len(examples) if part == "test" else 0)
        chosen = np.concatenate([keep, index.indices]).astype(np.int64)
        groups = None if examples.groups is None else examples.groups[chosen]
        written = Examples(np.concatenate([inputs[keep], copies]), examples.targets[chosen], groups)
        return written, ClientIndex(index.offsets, len(keep) + np.arange(len(index.indices), dtype=np.int64))

    def _deal_rest(self, inputs: np.ndarray, owned: np.ndarray) -> None:
        """Write the views of clients 0, 1, ... in turn into the test inputs that nobody owns (changes ``inputs``)."""
        rest = np.setdiff1d(np.arange(len(inputs)), owned)
        for client in range(min(len(self.turns), len(rest))):
            rows = rest[client :: len(self.turns)]
            inputs[rows] = self.apply(client, inputs[rows], rows, "test")


def shift_of(settings: FeatureShift, input_shape: tuple[int, ...], clients: int, seed: int) -> Shift:
    """Each client's turn and noise.

    Raises:
        ValueError: the inputs cannot be turned; says what to change.
    """
    if settings.rotations > 1 and len(input_shape) < 3:
        raise ValueError(
            f"feature_shift.rotations turns images (channels, height, width); these inputs have shape {input_shape}: "
            "set rotations: 1"
        )
    if settings.rotations == 4 and input_shape[-1] != input_shape[-2]:
        raise ValueError(f"inputs of shape {input_shape} are not square: set feature_shift.rotations to 1 or 2")
    ids, rng = np.arange(clients), generator(seed, "feature_shift")
    if settings.assignment == "random":
        turns, strengths = rng.integers(settings.rotations, size=clients), rng.random(clients)
    else:
        turns, strengths = ids % settings.rotations, (ids + 1) / clients
    return Shift(turns * (4 // settings.rotations) % 4, settings.noise_std * strengths, seed)


def _normals(stream: int, indices: np.ndarray, width: int) -> np.ndarray:
    """Standard normals ``[n, width]`` as a pure function of (stream, example, position): SplitMix64 and Box-Muller."""
    counters = indices.astype(np.uint64)[:, None] * np.uint64(width) + np.arange(width, dtype=np.uint64)
    bits: Any = counters * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream & 0xFFFF_FFFF_FFFF_FFFF)  # wraps
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = bits ^ (bits >> np.uint64(31))
    high, low = (bits >> np.uint64(32)).astype(np.float64), (bits & np.uint64(0xFFFF_FFFF)).astype(np.float64)
    return np.sqrt(-2.0 * np.log((high + 0.5) / 2.0**32)) * np.cos(2.0 * np.pi * low / 2.0**32)
