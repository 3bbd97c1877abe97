"""Banded matrix mechanism: the noise is C^-1 Z, its sensitivity, one band, resuming."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from privacy_cohorts import SeededNoise, assert_only_this_scale, scenario

from fedopt.privacy.mechanisms.banded_matrix import BandedMatrix
from fedopt.privacy.releases import MatrixEvent
from fedopt.sampling.base import SamplingClaim
from fedopt.types import Bound, Public

PUBLIC = Public(100, 10.0, is_private=True, dimension=2000)


def prepared(steps, separation=None, limit=1, **settings):
    claim = SamplingClaim("separated", 1.0, separation) if separation else None
    return BandedMatrix(clipping_norm=1.0, **settings).prepared(scenario(steps, claim, limit), PUBLIC)


def released_noise(mechanism, steps):
    state, found = mechanism.init(2000, PUBLIC), []
    for step in range(1, steps + 1):
        reduced = {"update": (torch.zeros(2000), Bound(0.25))}
        release = mechanism.release(reduced, 1, step, state, SeededNoise(), PUBLIC)
        state = release.state
        found.append(release.values["update"])
    return torch.stack(found).double()


def encoder(mechanism, steps):
    column = np.zeros(steps)
    found = mechanism.coefficients()
    column[: len(found)] = found[:steps]
    return np.array([[column[i - j] if i >= j else 0.0 for j in range(steps)] for i in range(steps)])


def test_encoding_the_released_noise_gives_independent_noise():
    steps, mechanism = 12, prepared(12, bands=4, noise_multiplier=3.0)
    independent = torch.from_numpy(encoder(mechanism, steps)) @ released_noise(mechanism, steps)
    assert_only_this_scale(independent, 3.0 * mechanism.sensitivity() * 0.25)
    correlation = torch.corrcoef(independent) - torch.eye(steps)
    assert float(correlation.abs().max()) < 0.12


@pytest.mark.parametrize("separation, limit, bands", [(3, 2, 3), (2, 4, 2), (3, 3, 8), (1, 5, 4), (4, 1, 4)])
def test_sensitivity_equals_the_worst_pattern(separation, limit, bands):
    steps = 9
    mechanism = prepared(steps, separation, limit, bands=bands, noise_multiplier=1.0)
    matrix = encoder(mechanism, steps)
    worst = 0.0
    for size in range(1, limit + 1):
        for pattern in itertools.combinations(range(steps), size):
            if all(b - a >= separation for a, b in itertools.pairwise(pattern)):
                worst = max(worst, float(np.linalg.norm(matrix[:, list(pattern)].sum(1))))
    assert mechanism.sensitivity() == pytest.approx(worst)


def test_square_root_coefficients_and_one_band():
    assert prepared(8, bands=4, noise_multiplier=1.0).coefficients().tolist() == [1, 1 / 2, 3 / 8, 5 / 16]
    independent = released_noise(prepared(6, bands=1, noise_multiplier=2.0), 6)
    assert_only_this_scale(independent, 0.5)
    assert float((torch.corrcoef(independent) - torch.eye(6)).abs().max()) < 0.12
    full = prepared(1024, bands=1024, noise_multiplier=1.0)
    assert full.sensitivity() == pytest.approx(1.80902, abs=1e-5)


def test_the_whole_run_is_one_event():
    mechanism = prepared(10, bands=4, noise_multiplier=2.0)
    sensitivity = mechanism.sensitivity()
    assert mechanism.planned_events(10, 1, PUBLIC, None) == ((MatrixEvent(2.0 * sensitivity, sensitivity), 1),)


def test_sums_carry_less_noise_than_independent_noise_of_the_same_epsilon():
    steps = 64
    correlated = released_noise(prepared(steps, bands=64, noise_multiplier=1.0), steps).sum(0)
    independent = released_noise(prepared(steps, bands=1, noise_multiplier=1.0), steps).sum(0)
    assert float(correlated.std()) < 0.5 * float(independent.std())


@pytest.mark.parametrize("later", [{"update": 2.0, "control": 0.5}, {"update": 1.0, "control": 0.4}, {"update": 1.0}])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_part_whose_bound_changes_during_the_run_is_refused(later, bands):
    mechanism, value = prepared(8, bands=bands, noise_multiplier=1.0), torch.zeros(20)

    def release(bounds, state):
        return mechanism.release({n: (value, Bound(b)) for n, b in bounds.items()}, 1, 1, state, SeededNoise(), PUBLIC)

    state = release({"update": 1.0, "control": 0.5}, mechanism.init(20, PUBLIC)).state
    assert release({"update": 1.0, "control": 0.5}, state).values.keys() == {"update", "control"}
    with pytest.raises(ValueError, match="banded_matrix needs the same sensitivity in every release"):
        release(later, state)


def test_participations_without_separation_are_refused():
    assert "separated" in BandedMatrix().problems(scenario(10))[0]
    assert not BandedMatrix().problems(scenario(10, SamplingClaim("separated", 1.0, 4)))
    assert "run.server_steps" in BandedMatrix().problems(scenario(None, max_participations=1))[0]
