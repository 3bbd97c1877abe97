"""Estimators: unbiased, with the second moments of the card; counters; exact cases."""

from __future__ import annotations

import pytest
import torch

from fedopt import rng
from fedopt.zeroth_order.estimators import coordinate_estimate, draw, estimate, evaluate, factor, forward_gradient

D = 12
HESSIAN = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
HESSIAN = HESSIAN @ HESSIAN.T / D
LINEAR = torch.randn(D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
POINT = torch.randn(D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
GRADIENT = HESSIAN @ POINT + LINEAR
KINDS = ("gaussian", "rademacher", "sphere", "orthogonal", "coordinate")


def quadratic(points: torch.Tensor) -> torch.Tensor:
    return 0.5 * ((points @ HESSIAN) * points).sum(-1) + points @ LINEAR


def samples(kind: str, count: int, repeats: int, scheme: str = "central", radius: float = 1e-3) -> torch.Tensor:
    """Independent estimates ``[repeats, d]``: a cohort of clients with one key each."""
    keys = [rng.key(0, "estimates", i) for i in range(repeats)]
    directions = draw(kind, D, keys, count)
    return estimate(quadratic, POINT.expand(repeats, -1), directions, radius, scheme, factor(kind, D)).gradient


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_unbiased_on_a_quadratic_and_wrong_factors_are_rejected(kind, scheme):
    made = samples(kind, 2, 1500, scheme)
    errors = made.std(0) / len(made) ** 0.5
    distances = [float((((scale * made.mean(0)) - GRADIENT) / errors).abs().max()) for scale in (1, 2 / 3, 3 / 2)]
    assert distances[0] < 4 and min(distances[1:]) > 6


def test_orthogonal_without_the_factor_is_d_times_too_small():
    made = samples("orthogonal_unscaled", 3, 1500)
    errors = made.std(0) / len(made) ** 0.5
    assert float(((made.mean(0) - GRADIENT / D) / errors).abs().max()) < 4
    assert torch.allclose(made * D, samples("orthogonal", 3, 1500))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        ("gaussian", lambda n: (D + n + 1) / n),
        ("rademacher", lambda n: (D + n - 1) / n),
        ("sphere", lambda n: (D + n - 1) / n),
        ("orthogonal", lambda n: D / n),
        ("coordinate", lambda n: (D + n - 1) / n),
    ],
)
def test_second_moments(kind, count, moment):
    squares = samples(kind, count, 1500).square().sum(1) / GRADIENT.square().sum()
    error = float(squares.std()) / len(squares) ** 0.5 + 1e-9
    assert abs(float(squares.mean()) - moment(count)) < 4 * error
    for wrong in (2 / 3, 3 / 2):
        assert abs(float(squares.mean()) * wrong - moment(count)) > 4 * error


def test_one_point_is_unbiased_but_noisy():
    made = samples("rademacher", 1, 20_000, "one_point", radius=0.5)
    errors = made.std(0) / len(made) ** 0.5
    assert float(((made.mean(0) - GRADIENT) / errors).abs().max()) < 4.5
    assert float(made.var(0).sum()) > 5 * float(samples("rademacher", 1, 2000).var(0).sum())


def test_central_difference_on_a_quadratic_does_not_depend_on_the_radius():
    narrow, wide = samples("gaussian", 2, 10, radius=1e-3), samples("gaussian", 2, 10, radius=10.0)
    torch.testing.assert_close(narrow, wide, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(samples("gaussian", 2, 10, "forward", 1e-3), samples("gaussian", 2, 10, "forward", 10.0))


def test_all_orthogonal_directions_give_the_gradient():
    made = samples("orthogonal", D, 3)
    torch.testing.assert_close(made, GRADIENT.expand(3, -1), rtol=1e-8, atol=1e-8)


def test_coordinate_estimate_is_exact_and_shares_add_up():
    points = POINT.expand(2, -1)
    radius = 1e-2
    made = coordinate_estimate(quadratic, points, radius)
    torch.testing.assert_close(made.gradient[0], GRADIENT + radius / 2 * HESSIAN.diagonal(), rtol=1e-9, atol=1e-9)
    assert made.queries == D + 1
    shares = [torch.arange(0, 5), torch.arange(5, D)]
    parts = [coordinate_estimate(quadratic, points, radius, share).gradient for share in shares]
    assert torch.all(parts[0][:, 5:] == 0)
    torch.testing.assert_close(parts[0] + parts[1], made.gradient)
    central = coordinate_estimate(quadratic, points, 3.0, central=True)
    torch.testing.assert_close(central.gradient[1], GRADIENT, rtol=1e-9, atol=1e-9)
    assert central.queries == 2 * D


def test_distinct_coordinates_are_the_coordinate_estimate():
    keys, points = [rng.key(0, "distinct", i) for i in range(400)], POINT.expand(400, -1)
    some = draw("distinct_coordinates", D, keys, 4)
    assert torch.equal(some.sum(2), torch.ones(400, 4)) and float(some.sum(1).max()) == 1
    sparse = estimate(quadratic, points, some, 1e-2, "forward", factor("distinct_coordinates", D, 4)).gradient
    for row in range(3):
        wanted = coordinate_estimate(quadratic, points[:1], 1e-2, some[row].sum(0).nonzero().flatten()).gradient[0]
        torch.testing.assert_close(sparse[row], wanted)
    kept = (some.sum(1).mean(0) - 4 / D) / (4 / D * (1 - 4 / D) / 400) ** 0.5
    assert float(kept.abs().max()) < 4
    assert not torch.equal(some, draw("distinct_coordinates", D, keys, 4, first_index=4))
    whole = draw("distinct_coordinates", D, keys[:1], D)
    full = estimate(quadratic, POINT[None], whole, 1e-2, "central", factor("distinct_coordinates", D, D)).gradient
    torch.testing.assert_close(full[0], GRADIENT, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="there are 12 coordinates, asked for 13"):
        draw("distinct_coordinates", D, keys, 13)


def test_forward_gradient_is_the_directional_derivative():
    keys = [rng.key(0, "jvp", i) for i in range(1500)]
    directions = draw("gaussian", D, keys, 1)
    made = forward_gradient(quadratic, POINT.expand(len(keys), -1), directions)
    torch.testing.assert_close(made.slopes[:, 0], directions[:, 0] @ GRADIENT)
    central = estimate(quadratic, POINT.expand(len(keys), -1), directions, 1e-4, "central")
    torch.testing.assert_close(made.gradient, central.gradient, rtol=1e-5, atol=1e-5)
    squares = made.gradient.square().sum(1) / GRADIENT.square().sum()
    assert abs(float(squares.mean()) - (D + 2)) < 4 * float(squares.std()) / len(keys) ** 0.5
    assert float(made.base[0]) == pytest.approx(float(quadratic(POINT)))
    several = draw("gaussian", D, keys, 3)
    mean = torch.stack([forward_gradient(quadratic, POINT.expand(len(keys), -1), several[:, k, None]).gradient
                        for k in range(3)]).mean(0)  # fmt: skip
    together = forward_gradient(quadratic, POINT.expand(len(keys), -1), several)
    torch.testing.assert_close(together.gradient, mean)
    assert together.queries == 3


def test_different_data_for_the_two_evaluations_inflates_the_variance():
    """Guards the rule that both evaluations see one batch: noise of variance s^2 adds s^2 / (2 r^2) per slope."""
    noise = torch.Generator().manual_seed(0)
    radius, std = 0.1, 0.3

    def noisy(points):
        return quadratic(points) + std * torch.randn(points.shape[:2], generator=noise, dtype=torch.float64)

    keys = [rng.key(0, "noise", i) for i in range(4000)]
    directions, points = draw("rademacher", D, keys, 1), POINT.expand(4000, -1)
    extra = estimate(noisy, points, directions, radius, "central").slopes.var()
    extra = float(extra - estimate(quadratic, points, directions, radius, "central").slopes.var())
    assert extra == pytest.approx(std**2 / (2 * radius**2), rel=0.2)


@pytest.mark.parametrize(("scheme", "queries"), [("forward", 6), ("central", 10), ("one_point", 5)])
def test_query_counters_count_calls(scheme, queries):
    asked = []

    def counted(points):
        asked.append(points.shape[1])
        return quadratic(points)

    directions = draw("gaussian", D, [1, 2], 5)
    whole = estimate(counted, POINT.expand(2, -1), directions, 0.1, scheme)
    assert asked == [queries] and whole.queries == queries
    asked.clear()
    parts = estimate(counted, POINT.expand(2, -1), directions, 0.1, scheme, queries_per_call=4)
    assert sum(asked) == queries and max(asked) == 4
    torch.testing.assert_close(parts.gradient, whole.gradient)


def test_refusals():
    with pytest.raises(ValueError, match="smoothing radius must be > 0, got 0"):
        estimate(quadratic, POINT[None], torch.ones(1, 1, D, dtype=torch.float64), 0)
    with pytest.raises(ValueError, match=r"returned shape \(1, 2, 3\) for points \(1, 2, 3\)"):
        evaluate(lambda points: points, torch.zeros(1, 2, 3))
