"""Adaptive clipping: the identity of the two noises, the quantile, the scales."""

from __future__ import annotations

import pytest
import torch
from privacy_cohorts import SeededNoise, assert_only_this_scale, one_release

from fedopt.privacy.mechanisms.adaptive_gaussian import INDICATOR, AdaptiveGaussian, State
from fedopt.privacy.releases import GaussianEvent
from fedopt.types import Bound, Public

PUBLIC = Public(1000, 100.0, is_private=True, dimension=20_000)


@pytest.mark.parametrize("z", [0.1, 0.5, 1.0, 4.0, 30.0])
def test_both_noises_together_are_one_gaussian(z):
    mechanism = AdaptiveGaussian(noise_multiplier=z)
    update, count = mechanism.update_multiplier(PUBLIC), mechanism.count_std(PUBLIC)
    assert update**-2 + 0.25 / count**2 == pytest.approx(z**-2)
    assert mechanism.next_events(State(1.0), PUBLIC) == (GaussianEvent(z),)


def test_values_of_the_card():
    assert AdaptiveGaussian(noise_multiplier=1.0).update_multiplier(PUBLIC) == pytest.approx(1.005038, abs=1e-6)
    assert AdaptiveGaussian(noise_multiplier=0.5).update_multiplier(PUBLIC) == pytest.approx(0.500626, abs=1e-6)


def test_too_little_count_noise_is_refused():
    with pytest.raises(ValueError, match=r"count_noise must be > 0.5 noise_multiplier = 1, got 0.5"):
        AdaptiveGaussian(noise_multiplier=2.0, count_noise=0.5).update_multiplier(PUBLIC)


def test_an_empty_contribution_moves_the_count_by_one():
    """Under zero_out_one +1/2 takes the place of -1/2: 1/sigma_u^2 + 1/sigma_b^2 = 1/z^2."""
    from types import SimpleNamespace

    for relation, moved in (("zero_out_one", 1.0), ("add_or_remove_one", 0.5), ("replace_one", 0.5)):
        made = AdaptiveGaussian(noise_multiplier=1.0).prepared(
            SimpleNamespace(privacy=SimpleNamespace(relation=relation)), PUBLIC
        )
        count, update = made.count_std(PUBLIC), made.update_multiplier(PUBLIC)
        assert update**-2 + (moved / count) ** 2 == pytest.approx(1.0)


def test_the_update_noise_has_its_scale():
    mechanism = AdaptiveGaussian(noise_multiplier=1.0, count_noise=0.6)
    reduced = {"update": (torch.zeros(20_000), Bound(0.3)), INDICATOR: (torch.zeros(1), Bound(0.005))}
    release = mechanism.release(reduced, 5, 1, State(1.0), SeededNoise(), PUBLIC)
    assert_only_this_scale(release.values["update"], 0.3 * (1 - 1 / 1.44) ** -0.5)
    assert set(release.values) == {"update"}


def test_the_count_noise_has_its_scale():
    mechanism = AdaptiveGaussian(noise_multiplier=1.0, count_noise=10.0, clipping_rate=1.0)
    moves = []
    for step in range(400):
        reduced = {"update": (torch.zeros(1), Bound(1.0)), INDICATOR: (torch.zeros(1), Bound(0.005))}
        state = mechanism.release(reduced, 5, step, State(1.0), SeededNoise(), PUBLIC).state
        moves.append(-torch.tensor(state.clipping_norm).log())
    assert_only_this_scale(torch.stack(moves), 10.0 / 100)


def test_the_norm_converges_to_the_quantile_without_noise():
    norms = torch.linspace(0.1, 10.0, 100)
    rows = torch.zeros(100, 3)
    rows[:, 0] = norms
    mechanism = AdaptiveGaussian(noise_multiplier=0.0, quantile=0.7, initial_clipping_norm=0.1)
    state = mechanism.init(3, PUBLIC)
    for step in range(300):
        release, _ = one_release(mechanism, rows, state=state, step=step)
        state = release.state
    assert state.clipping_norm == pytest.approx(7.0, abs=0.3)


def test_the_indicator_obeys_its_bound():
    _, result = one_release(AdaptiveGaussian(noise_multiplier=1.0), torch.randn(9, 5))
    assert float(result.parts[INDICATOR].rows().abs().max()) == 0.5
