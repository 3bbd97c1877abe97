"""Central Gaussian: clipping, scale, order, refusals, joint parts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_cohorts import SeededNoise, assert_only_this_scale, one_release

from fedopt.engine.base import DenseUpdates
from fedopt.privacy.base import ClientContext
from fedopt.privacy.mechanisms._parts import clip
from fedopt.privacy.mechanisms.gaussian import Gaussian
from fedopt.privacy.releases import GaussianEvent, NonPrivateEvent
from fedopt.types import Bound, Public


def test_no_noise_and_infinite_bound_keep_every_bit():
    rows = torch.randn(7, 50, generator=torch.Generator().manual_seed(1))
    release, _ = one_release(Gaussian(clipping_norm=math.inf, noise_multiplier=0.0), rows)
    plain = DenseUpdates(rows).weighted_sum(torch.ones(7, dtype=torch.float64)) / 7
    assert torch.equal(release.values["update"], plain)
    assert isinstance(release.events[0], NonPrivateEvent)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 10.0))
def test_clipping_bounds_keeps_direction_and_zero(seed, norm):
    rows = torch.randn(5, 9, generator=torch.Generator().manual_seed(seed)) * 10
    rows[0] = 0
    clipped, metrics = clip({"update": DenseUpdates(rows)}, norm)
    after = clipped["update"].rows().double()
    assert bool((after.norm(dim=1) <= norm * (1 + 1e-6)).all())
    assert torch.equal(after[0], torch.zeros(9, dtype=torch.float64))
    cosine = torch.nn.functional.cosine_similarity(after[1:], rows[1:].double())
    assert torch.allclose(cosine, torch.ones_like(cosine), atol=1e-5)
    within = metrics["norm"] <= norm
    assert torch.equal(clipped["update"].rows()[within], rows[within])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_one_client_moves_the_value_by_at_most_its_bound(seed):
    """Neighbouring cohorts: one contribution zeroed out, or replaced by another one."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(4, 6, generator=draw) * 5
    weights = torch.rand(4, generator=draw).tolist()
    mechanism = Gaussian(clipping_norm=0.7, noise_multiplier=0.0)
    public = Public(4, 3.0, is_private=True, dimension=6)
    base = one_release(mechanism, rows, weights=weights, public=public)[0].values["update"]
    limit = 0.7 * max(weights) / 3.0 * (1 + 1e-5)
    zeroed, replaced = rows.clone(), rows.clone()
    zeroed[2] = 0
    replaced[2] = -100 * rows[2] + 1
    moved = one_release(mechanism, zeroed, weights=weights, public=public)[0].values["update"]
    swapped = one_release(mechanism, replaced, weights=weights, public=public)[0].values["update"]
    assert float((base - moved).norm()) <= limit
    assert float((base - swapped).norm()) <= 2 * limit


@pytest.mark.parametrize(("norm", "wanted"), [(1.0, 1 / 9), (2.0, 2 / 9), (5.0, 5 / 9), (9.0, 1.0), (20.0, 1.0)])
def test_clipping_moves_the_stationary_point(norm, wanted):
    """Koloskova et al. 2023: 0.9 of the records at 0 and 0.1 at 10; clipped gradients vanish at C / 9, not at the 1
    that squared error asks for, however small the step. From C = 9 on nothing is clipped."""
    records, x = torch.tensor([0.0] * 9 + [10.0]), torch.zeros(1)
    for _ in range(2000):
        clipped, metrics = clip({"gradient": DenseUpdates((x - records)[:, None])}, norm)
        x = x - 0.05 * clipped["gradient"].rows().mean(0)
    assert float(x) == pytest.approx(wanted, rel=1e-4)
    if norm != 9:
        assert float(metrics["clipped"].mean()) == pytest.approx(0.1 if norm < 9 else 0.0)


def test_clipping_at_one_is_the_normalised_gradient_of_m_ngp():
    """g / max(1, |g|): unchanged below norm 1, and a large gradient's scale does not matter."""
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(5)) * torch.linspace(0.05, 3, 50)[:, None]
    clipped = clip({"gradient": DenseUpdates(rows)}, 1.0)[0]["gradient"].rows()
    norms = rows.norm(dim=1, keepdim=True)
    assert torch.allclose(clipped, rows / norms.clamp_min(1.0), rtol=2e-6, atol=0)
    assert torch.equal(clipped[norms[:, 0] <= 1], rows[norms[:, 0] <= 1]) and bool((norms > 1).any())
    larger = clip({"gradient": DenseUpdates(rows * 7)}, 1.0)[0]["gradient"].rows()
    assert torch.allclose(larger[norms[:, 0] > 1], clipped[norms[:, 0] > 1], rtol=1e-5)


def test_two_parts_are_clipped_together():
    parts = {"update": DenseUpdates(torch.full((1, 4), 3.0)), "control": DenseUpdates(torch.full((1, 4), 4.0))}
    clipped, metrics = clip(parts, 1.0)
    assert float(metrics["norm"]) == pytest.approx(10.0)
    joint = math.hypot(float(clipped["update"].norms()), float(clipped["control"].norms()))
    assert joint == pytest.approx(1.0, rel=1e-5)


def test_noise_has_the_scale_of_the_bound_the_value_reports():
    mechanism = Gaussian(clipping_norm=2.0, noise_multiplier=1.5)
    public = Public(40, 10.0, is_private=True, dimension=20_000)
    value = torch.zeros(20_000)
    reduced = {"update": (value, Bound(0.5)), "control": (value, Bound(0.01))}
    release = mechanism.release(reduced, 3, 1, mechanism.init(1, public), SeededNoise(), public)
    assert_only_this_scale(release.values["update"], 0.75)
    assert_only_this_scale(release.values["control"], 0.015)
    assert release.facts["noise_std"] == pytest.approx(0.75)
    assert release.events == (GaussianEvent(1.5),)


def test_an_empty_cohort_is_noise_only():
    mechanism = Gaussian(clipping_norm=1.0, noise_multiplier=1.0)
    public = Public(100, 20.0, is_private=True, dimension=20_000)
    release, _ = one_release(mechanism, torch.zeros(0, 20_000), public=public)
    assert_only_this_scale(release.values["update"], 1 / 20)


def test_noise_is_never_used_twice(noise):
    mechanism = Gaussian(clipping_norm=1.0, noise_multiplier=1.0)
    public = Public(10, 10.0, is_private=True, dimension=1000)
    reduced = {"update": (torch.zeros(1000), Bound(1.0)), "control": (torch.zeros(1000), Bound(1.0))}
    first = mechanism.release(reduced, 1, 1, None, noise, public).values
    second = mechanism.release(reduced, 1, 2, None, noise, public).values
    again = mechanism.release(reduced, 1, 1, None, noise, public).values
    drawn = [first["update"], first["control"], second["update"], second["control"]]
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.2
    assert torch.equal(first["update"], again["update"])


def test_a_value_without_a_bound_is_refused(noise):
    mechanism = Gaussian(noise_multiplier=1.0)
    public = Public(1, 1.0)
    with pytest.raises(ValueError, match=r"declares no sensitivity bound.*use fedavg"):
        mechanism.release({"update": (torch.zeros(3), None)}, 1, 1, None, noise, public)
    with pytest.raises(ValueError, match=r"infinite bound; set a finite clipping_norm"):
        mechanism.release({"update": (torch.zeros(3), Bound(math.inf))}, 1, 1, None, noise, public)
    with pytest.raises(ValueError, match=r"give it, or privacy.target_epsilon"):
        Gaussian().next_events(None, public)


def test_weights_do_not_change_the_multiplier(noise):
    """The bound follows the largest weight, and the noise follows the bound."""
    mechanism = Gaussian(clipping_norm=1.0, noise_multiplier=1.0)
    heavy, _ = one_release(mechanism, torch.zeros(2, 5000), weights=[5.0, 1.0])
    assert heavy.facts["noise_std"] == pytest.approx(5.0 / 2)


def test_streamed_blocks_are_clipped_alike():
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(3)) * 4
    mechanism, public = Gaussian(clipping_norm=1.0, noise_multiplier=0.0), Public(6, 6.0, dimension=8)
    whole = mechanism.on_client({"u": DenseUpdates(rows)}, _context(range(6), public), None).parts["u"].rows()
    first = mechanism.on_client({"u": DenseUpdates(rows[:2])}, _context(range(2), public), None).parts["u"].rows()
    assert torch.equal(whole[:2], first)


def _context(clients, public):
    clients = tuple(clients)
    return ClientContext(clients, (0,) * len(clients), 1, SeededNoise(), public, (1.0,) * len(clients))
