"""Local optimisers: the same steps as PyTorch's, downhill, independent per client."""

from __future__ import annotations

import pytest
import torch

from fedopt.zeroth_order import optimizers
from fedopt.zeroth_order.settings import LocalOptimizer


def run(settings: LocalOptimizer, gradients: torch.Tensor) -> torch.Tensor:
    theta = torch.zeros_like(gradients[0])
    state = optimizers.init(theta)
    for gradient in gradients:
        state, displacement = optimizers.step(settings, state, gradient)
        theta = theta + displacement
    return theta


@pytest.mark.parametrize(
    ("settings", "oracle"),
    [
        (LocalOptimizer(rule="sgd", learning_rate=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (
            LocalOptimizer(rule="sgd", learning_rate=0.1, momentum=0.9),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        ),
        (LocalOptimizer(rule="adam", learning_rate=0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
    ],
)
def test_equals_pytorch_for_a_cohort(settings, oracle):
    gradients = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameter = torch.nn.Parameter(torch.zeros(3, 5, dtype=torch.float64))
    optimizer = oracle([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(run(settings, gradients), parameter.detach())


def test_sign_has_unit_steps_against_the_gradient():
    _, displacement = optimizers.step(
        LocalOptimizer(rule="sign", learning_rate=0.5), optimizers.init(torch.zeros(1, 3)), torch.tensor([[2.0, -3, 0]])
    )
    assert displacement.tolist() == [[-0.5, 0.5, 0.0]]


@pytest.mark.parametrize("rule", ["sgd", "sign", "adam"])
def test_nothing_measured_moves_nothing(rule):
    theta = torch.tensor([[1.0, -2.0]])
    state, displacement = optimizers.step(LocalOptimizer(rule=rule), optimizers.init(theta), torch.zeros(1, 2))
    assert not displacement.any()
    assert not optimizers.step(LocalOptimizer(rule=rule), state, torch.zeros(1, 2))[1].any()


@pytest.mark.parametrize("rule", ["sgd", "sign", "adam"])
def test_one_step_on_a_quadratic_goes_down(rule):
    theta = torch.tensor([[1.0, -2.0]])
    _, displacement = optimizers.step(LocalOptimizer(rule=rule, learning_rate=0.01), optimizers.init(theta), theta)
    assert float((theta + displacement).square().sum()) < float(theta.square().sum())


def test_conserve_never_increases_the_value():
    def square(points):
        return points.square().sum(-1)

    theta = torch.tensor([[1.0], [1.0], [0.0]])
    chosen = optimizers.conserve(square, theta, torch.tensor([[-0.5], [0.5], [1.0]]))
    assert chosen.tolist() == [[0.5], [0.5], [0.0]]  # step, step back, stay
    flat = optimizers.conserve(lambda p: p[..., 0] * 0, theta, torch.ones(3, 1))
    assert torch.equal(flat, theta)
