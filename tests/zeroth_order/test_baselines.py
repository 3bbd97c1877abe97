"""FedZO, FedProx-ZO, SCAFFOLD-ZO: counters, reductions to FedZO, what each adds."""

from __future__ import annotations

import itertools

import pytest
import torch

from fedopt.zeroth_order import baselines
from fedopt.zeroth_order.settings import FiniteDifferenceSettings, LocalOptimizer

CLIENTS, D = 4, 6
CENTRES = torch.rand(CLIENTS, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.full((CLIENTS, D), 0.5, dtype=torch.float64)
KEYS = baselines.round_keys(0, range(CLIENTS), 1)
SGD = LocalOptimizer(rule="sgd", learning_rate=0.05)


def objective(points: torch.Tensor) -> torch.Tensor:
    return (points - CENTRES[: len(points), None]).square().sum(-1)


def settings(**options) -> FiniteDifferenceSettings:
    return FiniteDifferenceSettings(**{"local_steps": 4, "count": 3, "optimizer": SGD, **options})


def test_counts_are_those_of_the_card():
    assert FiniteDifferenceSettings().queries_per_round() == 211
    scaffold = FiniteDifferenceSettings(method="scaffold1")
    assert scaffold.queries_per_round() == 211 + 21 and scaffold.queries_per_round(count_control=False) == 211
    assert scaffold.queries_per_round(corrected=False) == 211
    assert 5 * 50 * 211 == 52_750


@pytest.mark.parametrize("scheme", ["forward", "central", "one_point"])
def test_counter_equals_the_calls(scheme):
    asked = []

    def counted(points):
        asked.append(points.shape[1])
        return objective(points)

    chosen = settings(scheme=scheme)
    phase = baselines.local_phase(START, counted, chosen, KEYS)
    assert phase.queries == sum(asked) == chosen.queries_per_round()
    torch.testing.assert_close(phase.last_value, objective(phase.points[:, None])[:, 0])


def test_fedprox_without_its_term_and_scaffold_without_correction_are_fedzo():
    fedzo = baselines.local_phase(START, objective, settings(), KEYS)
    prox = baselines.local_phase(START, objective, settings(method="fedprox", proximal=0.0), KEYS)
    first = baselines.local_phase(START, objective, settings(method="fedprox"), KEYS, first_round=True)
    alone = baselines.control_correction(fedzo.mean_estimate[:1], fedzo.mean_estimate[:1].mean(0))
    scaffold = baselines.local_phase(START[:1], objective, settings(method="scaffold2"), KEYS[:1], alone)
    drift = torch.ones(CLIENTS, D, dtype=torch.float64)
    start = baselines.local_phase(START, objective, settings(method="scaffold1"), KEYS, drift, first_round=True)
    assert torch.equal(fedzo.points, start.points)
    assert torch.equal(fedzo.points, prox.points) and torch.equal(fedzo.points, first.points)
    assert torch.equal(fedzo.points[:1], scaffold.points)


def test_one_sgd_step_is_the_averaged_gradient():
    phase = baselines.local_phase(START, objective, settings(local_steps=1), KEYS)
    made = baselines.estimate_at(START, objective, settings(), KEYS)
    torch.testing.assert_close(phase.points.mean(0), START[0] - 0.05 * made.gradient.mean(0))
    torch.testing.assert_close(phase.mean_estimate, made.gradient)


def test_every_local_step_has_directions_of_its_own_and_the_control_is_their_mean():
    """The loop by hand: SCAFFOLD-II's next c_i is the mean of the T uncorrected estimates."""
    correction = torch.linspace(-1, 1, D, dtype=torch.float64).expand(CLIENTS, -1)
    phase = baselines.local_phase(START, objective, settings(method="scaffold2"), KEYS, correction)
    points, made = START, []
    for turn in range(4):
        made.append(baselines.estimate_at(points, objective, settings(), KEYS, turn))
        points = (points - 0.05 * (made[-1].gradient + correction)).clamp(0, 1)
    torch.testing.assert_close(phase.points, points)
    torch.testing.assert_close(phase.mean_estimate, torch.stack([m.gradient for m in made]).mean(0))
    again = [baselines.estimate_at(START, objective, settings(), KEYS, turn).gradient for turn in range(3)]
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(again, 2))


def test_the_proximal_term_pulls_back():
    free = baselines.local_phase(START, objective, settings(), KEYS).points - START
    held = baselines.local_phase(START, objective, settings(method="fedprox", proximal=5.0), KEYS).points - START
    assert torch.all(held.norm(dim=1) < free.norm(dim=1))


def test_scaffold_at_the_start_gives_all_clients_one_gradient_with_shared_directions():
    shared = [KEYS[0]] * CLIENTS
    control = baselines.estimate_at(START, objective, settings(), shared).gradient
    correction = baselines.control_correction(control, control.mean(0))
    corrected = baselines.estimate_at(START, objective, settings(), shared).gradient + correction
    torch.testing.assert_close(corrected, control.mean(0).expand(CLIENTS, -1))
    assert float(correction.sum(0).norm()) < 1e-12 and float(correction.norm(dim=1).min()) > 1e-3


def test_a_wrong_sign_of_the_correction_drifts_apart():
    control = baselines.estimate_at(START, objective, settings(count=D), KEYS).gradient
    spread = []
    for sign in (1, 0, -1):
        correction = sign * baselines.control_correction(control, control.mean(0))
        phase = baselines.local_phase(START, objective, settings(method="scaffold1", count=D), KEYS, correction)
        spread.append(float(phase.points.std(0).norm()))
    assert spread[0] < 0.2 * spread[1] < spread[1] < spread[2]


def test_reference_estimate_is_d_times_smaller_which_only_adam_forgives():
    proper, unscaled = settings(), settings(directions="orthogonal_unscaled")
    a = baselines.estimate_at(START, objective, proper, KEYS).gradient
    b = baselines.estimate_at(START, objective, unscaled, KEYS).gradient
    torch.testing.assert_close(a, D * b)
    adam = LocalOptimizer(learning_rate=0.01)
    fast = baselines.local_phase(START, objective, settings(optimizer=adam), KEYS)
    slow = baselines.local_phase(START, objective, settings(optimizer=adam, directions="orthogonal_unscaled"), KEYS)
    torch.testing.assert_close(fast.points, slow.points, atol=1e-6, rtol=1e-6)
    reference = FiniteDifferenceSettings.reference("fedprox")
    assert (reference.directions, reference.project) == ("orthogonal_unscaled", False)


@pytest.mark.parametrize("kind", ["orthogonal", "distinct_coordinates"])
def test_forward_gradients_along_a_whole_frame_are_the_gradient(kind):
    made = baselines.estimate_at(START, objective, settings(scheme="jvp", directions=kind, count=D), KEYS)
    torch.testing.assert_close(made.gradient, 2 * (START - CENTRES))


@pytest.mark.parametrize("kind", ["coordinate", "distinct_coordinates"])
def test_one_point_refuses_directions_whose_mean_is_not_zero(kind):
    """Their estimate would be f(x) / radius in every coordinate, whatever the slope."""
    with pytest.raises(ValueError, match=f"directions of mean zero, which {kind} are not.*use scheme: central"):
        settings(scheme="one_point", directions=kind)
    settings(scheme="central", directions=kind)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "sphere", "orthogonal"])
def test_one_point_finds_the_slope_of_a_raised_function(kind):
    """Ten above a line: the mean of many estimates is the slope of the line, not the height."""
    slope = torch.tensor([3.0, -1.0, 0.5, 2.0, -2.0, 1.0], dtype=torch.float64)
    keys = baselines.round_keys(3, range(4000), 1)
    chosen = settings(scheme="one_point", directions=kind, count=4, radius=1.0)
    made = baselines.estimate_at(torch.zeros(4000, D).double(), lambda x: 10 + x @ slope, chosen, keys).gradient
    error = made.std(0) / 4000**0.5
    assert float(((made.mean(0) - slope) / error).abs().max()) < 4.5
    assert float(((1.5 * made.mean(0) - slope) / error).abs().max()) > 4.5


def test_projection():
    far = settings(optimizer=LocalOptimizer(rule="sgd", learning_rate=5.0))
    inside = baselines.local_phase(START, objective, far, KEYS).points
    assert float(inside.min()) >= 0 and float(inside.max()) <= 1
    assert (
        float(
            baselines.local_phase(START, objective, far.model_copy(update={"project": False}), KEYS).points.abs().max()
        )
        > 1
    )
