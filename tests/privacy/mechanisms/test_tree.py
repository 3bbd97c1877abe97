"""Tree aggregation: nodes, prefix variances, restarts, refusal of repeated participation."""

from __future__ import annotations

import pytest
import torch
from privacy_cohorts import SeededNoise, assert_only_this_scale, scenario

from fedopt.privacy.mechanisms.tree import Tree
from fedopt.privacy.releases import TreeEvent
from fedopt.sampling.base import SamplingClaim
from fedopt.types import Bound, Public

DIMENSION = 4000
PUBLIC = Public(100, 10.0, is_private=True, dimension=DIMENSION)


def prefixes(mechanism, steps, seed=0):
    """Noise of every prefix ``[steps, d]`` (the values released are zero)."""
    state, total, found = mechanism.init(DIMENSION, PUBLIC), torch.zeros(DIMENSION), []
    for step in range(1, steps + 1):
        reduced = {"update": (torch.zeros(DIMENSION), Bound(0.5))}
        release = mechanism.release(reduced, 1, step, state, SeededNoise(seed), PUBLIC)
        state, total = release.state, total + release.values["update"]
        found.append(total)
    return torch.stack(found)


def prepared(steps=16, **settings):
    return Tree(clipping_norm=1.0, **settings).prepared(scenario(steps), PUBLIC)


def test_a_prefix_carries_one_node_per_set_bit():
    found = prefixes(prepared(noise_multiplier=2.0), 16)
    for step in (1, 2, 3, 7, 8, 11, 16):
        assert_only_this_scale(found[step - 1], 2.0 * 0.5 * step.bit_count() ** 0.5)


def test_variance_reduction_averages_nodes_with_their_children():
    found = prefixes(prepared(noise_multiplier=2.0, variance_reduction=True), 8)
    for step, level in ((1, 0), (2, 1), (4, 2), (8, 3)):
        assert_only_this_scale(found[step - 1], (1 / (2 - 2.0**-level)) ** 0.5)


@pytest.mark.parametrize("steps, height", [(1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11)])
def test_a_participation_touches_height_nodes(steps, height):
    mechanism = prepared(steps, noise_multiplier=10.0)
    assert mechanism.event(PUBLIC) == TreeEvent(10.0, height)


def test_restarting_every_release_is_independent_noise():
    mechanism = prepared(8, noise_multiplier=2.0, restart_every=1)
    found = prefixes(mechanism, 8)
    steps = torch.diff(torch.cat([torch.zeros(1, DIMENSION), found]), dim=0)
    assert_only_this_scale(steps, 1.0)
    correlation = torch.corrcoef(steps) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.1
    assert mechanism.event(PUBLIC) == TreeEvent(2.0, 1)


def test_no_noise_keeps_every_value():
    assert float(prefixes(prepared(noise_multiplier=0.0), 4).abs().max()) == 0.0


def test_a_client_twice_in_a_tree_is_refused():
    tree = Tree(noise_multiplier=1.0, restart_every=10)
    assert "min_separation: 10" in tree.problems(scenario(100))[0]
    assert tree.problems(scenario(100, SamplingClaim("separated", 1.0, 9)))
    assert not tree.problems(scenario(100, SamplingClaim("separated", 1.0, 10)))
    assert not tree.problems(scenario(100, max_participations=1))


BOTH = {"update": Bound(1.0), "control": Bound(0.5)}


@pytest.mark.parametrize(
    "later",
    [
        {**BOTH, "update": Bound(2.0)},
        {**BOTH, "control": Bound(0.6)},
        {"update": Bound(1.0)},
        {**BOTH, "c": Bound(1.0)},
    ],
)
def test_a_part_whose_bound_changes_within_a_tree_is_refused(later):
    """In any part: noise of an earlier release is part of later ones, so it must have been made for their bound."""
    mechanism = prepared(noise_multiplier=1.0, restart_every=2)
    value = torch.zeros(DIMENSION)

    def release(bounds, step, state):
        reduced = {name: (value, bound) for name, bound in bounds.items()}
        return mechanism.release(reduced, 1, step, state, SeededNoise(), PUBLIC).state

    first = release(BOTH, 1, mechanism.init(DIMENSION, PUBLIC))
    with pytest.raises(ValueError, match="the same sensitivity in every release"):
        release(later, 2, first)
    second = release(BOTH, 2, first)
    release(later, 3, second)  # a new tree
