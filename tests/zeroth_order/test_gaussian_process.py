"""Derived Gaussian processes against finite differences, dense algebra and their own invariants."""

from __future__ import annotations

import itertools

import pytest
import torch

from fedopt.zeroth_order import gaussian_process as gp

KERNELS = ("squared_exponential", "matern52")
COHORT, N, D = 3, 10, 4


def data(seed: int = 0, n: int = N, d: int = D) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(COHORT, n, d, generator=generator, dtype=torch.float64)
    return points, 7 + 3 * torch.sin(3 * points).sum(-1)


def fitted(kernel: str, ridge: float = 1e-4, **options) -> gp.Surrogate:
    points, values = data(**options)
    return gp.fit(points, values, kernel, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), ridge)


@pytest.mark.parametrize("kernel", KERNELS)
def test_slope_is_the_derivative_of_the_kernel(kernel):
    x = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([0.1, 0.4, -0.3], dtype=torch.float64)
    length = torch.tensor(0.7, dtype=torch.float64)
    value, slope = gp.kernel_value_and_slope(kernel, (x - other).square().sum(), length)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(gradient, slope.detach() * (x - other).detach())


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_equals_finite_differences_of_the_mean(kernel):
    surrogate = fitted(kernel)
    x = torch.rand(COHORT, 2, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    made, step = gp.gradient(surrogate, x), 1e-5
    for axis in range(D):
        shift = step * torch.eye(D, dtype=torch.float64)[axis]
        difference = (gp.mean(surrogate, x + shift) - gp.mean(surrogate, x - shift)) / (2 * step)
        torch.testing.assert_close(made[..., axis], difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_batched_fit_equals_dense_formulas_per_client(kernel):
    points, values = data()
    surrogate = fitted(kernel)
    x = points[:, :1] + 0.1
    for i, length in enumerate((0.5, 1.0, 2.0)):
        squared = (points[i][:, None] - points[i]).square().sum(-1)
        matrix, _ = gp.kernel_value_and_slope(kernel, squared, torch.tensor(length, dtype=torch.float64))
        matrix = matrix + 1e-4 * torch.eye(N, dtype=torch.float64)
        low, span = values[i].min(), values[i].max() - values[i].min()
        alpha = torch.linalg.solve(matrix, (values[i] - low) / span)
        difference = x[i] - points[i]
        _, slope = gp.kernel_value_and_slope(
            kernel, difference.square().sum(-1), torch.tensor(length, dtype=torch.float64)
        )
        jacobian = slope[:, None] * difference
        torch.testing.assert_close(gp.gradient(surrogate, x)[i, 0], span * (alpha @ jacobian), rtol=1e-6, atol=1e-8)
        kappa = float(gp.prior_curvature(kernel, torch.tensor(length, dtype=torch.float64)))
        dense = kappa * torch.eye(D, dtype=torch.float64) - jacobian.T @ torch.linalg.solve(matrix, jacobian)
        torch.testing.assert_close(gp.gradient_covariance(surrogate, x[:, 0])[i], dense, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_covariance_is_the_mixed_derivative_of_the_posterior(kernel):
    """Prior part by autodiff of the kernel in both arguments; also symmetric and positive semi-definite."""
    length = torch.tensor(0.8, dtype=torch.float64)

    def k(a, b):
        return gp.kernel_value_and_slope(kernel, (a - b).square().sum(), length)[0]

    x = torch.tensor([0.2, 0.5], dtype=torch.float64)
    near = x + 1e-7  # the Matern kernel's square root has no derivative at 0
    mixed = torch.func.jacrev(torch.func.grad(k, 0), 1)(x, near)
    torch.testing.assert_close(
        mixed, gp.prior_curvature(kernel, length) * torch.eye(2, dtype=torch.float64), rtol=1e-4, atol=1e-5
    )
    covariance = gp.gradient_covariance(fitted(kernel), data()[0][:, 0])
    torch.testing.assert_close(covariance, covariance.mT)
    assert float(torch.linalg.eigvalsh(covariance).min()) > -1e-9


@pytest.mark.parametrize("kernel", KERNELS)
def test_cheap_trace_equals_the_trace_and_first_partial_the_corner(kernel):
    surrogate = fitted(kernel)
    x = torch.rand(COHORT, 5, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dense = torch.stack([gp.gradient_covariance(surrogate, x[:, q]) for q in range(5)], 1)
    trace = dense.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(gp.trace_uncertainty(surrogate, x), trace, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(gp.first_partial_uncertainty(surrogate, x), dense[..., 0, 0], rtol=1e-7, atol=1e-8)


def test_a_new_point_never_raises_the_trace():
    points, values = data(n=12)
    x = torch.full((COHORT, 1, D), 0.4, dtype=torch.float64)
    length = torch.ones(COHORT, dtype=torch.float64)
    traces = [
        gp.trace_uncertainty(gp.fit(points[:, :n], values[:, :n], "matern52", length, 1e-4), x) for n in range(1, 13)
    ]
    for before, after in itertools.pairwise(traces):
        assert torch.all(after <= before + 1e-9)
    assert torch.all(traces[-1] < 0.9 * traces[0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_spectral_norm_cannot_rank_candidates_while_there_are_fewer_points_than_dimensions(kernel):
    surrogate = fitted(kernel, n=6, d=9)
    near, far = data(n=6, d=9)[0][:, 0] + 0.01, torch.full((COHORT, 9), 3.0, dtype=torch.float64)
    kappa = gp.prior_curvature(kernel, surrogate.lengthscale)
    for x in (near, far):
        torch.testing.assert_close(torch.linalg.matrix_norm(gp.gradient_covariance(surrogate, x), 2), kappa)
    traces = [gp.trace_uncertainty(surrogate, x[:, None])[:, 0] for x in (near, far)]
    assert torch.all(traces[0] < traces[1])


def test_masked_rows_have_no_influence():
    points, values = data()
    length = torch.ones(COHORT, dtype=torch.float64)
    mask = torch.ones(COHORT, N, dtype=torch.bool)
    mask[:, 7:] = False
    spoiled, wild = points.clone(), values.clone()
    spoiled[:, 7:], wild[:, 7:] = 0.5, 1e6
    x = torch.rand(COHORT, 3, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    short = gp.fit(points[:, :7], values[:, :7], "matern52", length, 1e-4)
    masked = gp.fit(spoiled, wild, "matern52", length, 1e-4, mask)
    for function in (gp.gradient, gp.mean, gp.trace_uncertainty, gp.first_partial_uncertainty):
        torch.testing.assert_close(function(masked, x), function(short, x))
    choices = (0.1, 1.0, 5.0)
    torch.testing.assert_close(
        gp.choose_lengthscale(spoiled, wild, "matern52", choices, 1e-4, mask),
        gp.choose_lengthscale(points[:, :7], values[:, :7], "matern52", choices, 1e-4),
    )


def test_gradient_scales_with_the_outputs_and_ignores_their_offset():
    points, values = data()
    length = torch.ones(COHORT, dtype=torch.float64)
    one = gp.gradient(gp.fit(points, values, "squared_exponential", length, 1e-4), points[:, :1])
    two = gp.gradient(gp.fit(points, 5 * values + 100, "squared_exponential", length, 1e-4), points[:, :1])
    torch.testing.assert_close(two, 5 * one, rtol=1e-8, atol=1e-8)
    equal = gp.gradient(gp.fit(points, values * 0 + 3, "squared_exponential", length, 1e-4), points[:, :1])
    assert torch.all(equal == 0)


def test_recovers_a_linear_gradient():
    points, _ = data(n=12)
    slope = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    length = torch.full((COHORT,), 30.0, dtype=torch.float64)
    surrogate = gp.fit(points, points @ slope, "squared_exponential", length, 1e-12)
    made = gp.gradient(surrogate, torch.full((COHORT, 1, 4), 0.5, dtype=torch.float64))[:, 0]
    assert float((made - slope).norm(dim=1).max() / slope.norm()) < 1e-3


def test_marginal_likelihood_picks_the_scale_that_made_the_data():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(COHORT, 60, 1, generator=generator, dtype=torch.float64)
    truth = torch.tensor([0.05, 0.2, 1.0], dtype=torch.float64)
    values = torch.sin(points[..., 0] / truth[:, None] * 1.5)
    choices = (0.01, 0.05, 0.2, 1.0, 5.0)
    chosen = gp.choose_lengthscale(points, values, "squared_exponential", choices, 1e-6)
    assert torch.all((chosen / truth).log2().abs() < 2.4) and chosen[0] < chosen[1] < chosen[2]
    # The batched value is the density of the scaled outputs, up to the constant all choices share.
    fine = torch.logspace(-2, 0.5, 60, dtype=torch.float64).tolist()
    chosen = gp.choose_lengthscale(points, values, "squared_exponential", fine, 1e-2)
    for i in range(COHORT):
        y = gp.scale_outputs(values, torch.ones_like(values, dtype=torch.bool))[0][i]
        densities = []
        for length in fine:
            matrix = torch.exp(-torch.cdist(points[i], points[i]).square() / (2 * length**2))
            matrix = matrix + 1e-2 * torch.eye(60, dtype=torch.float64)
            normal = torch.distributions.MultivariateNormal(torch.zeros(60, dtype=torch.float64), matrix)
            densities.append(float(normal.log_prob(y)))
        assert float(chosen[i]) == fine[densities.index(max(densities))]
