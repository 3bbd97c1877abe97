"""Mini-batch SGD and accelerated gradient descent on a quadratic: down, projected, averaged, faster."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fedopt.aggregators.accelerated_gradient import AcceleratedGradient
from fedopt.aggregators.minibatch_sgd import MinibatchSgd
from fedopt.engine.base import DenseUpdates
from fedopt.types import Bound, Public

PUBLIC = Public(1, 1.0)
CURVATURE = torch.tensor([1.0, 0.01])


def run(method, steps, start=(10.0, 10.0)):
    """Minimise ``1/2 x' diag(curvature) x`` with exact gradients as minus the update."""
    state, points = method.init(torch.tensor(start), PUBLIC), []
    for _ in range(steps):
        update = -CURVATURE * method.payload(state, 0, None).parts["params"]
        batch = SimpleNamespace(
            metas=(0,),
            weights=(1.0,),
            part=lambda name, update=update: DenseUpdates(update[None]),
            bound=lambda name: Bound(1.0),
        )
        released = {name: value for name, (value, _) in method.reduce(state, batch, PUBLIC).items()}
        state = method.step(state, released, PUBLIC).state
        points.append(state.params)
    return method.evaluated(state), points


def value(point):
    return float((CURVATURE * point * point).sum() / 2)


def test_one_step_goes_down_and_is_gradient_descent():
    last, points = run(MinibatchSgd(server_lr=0.5, average=False), 1)
    assert torch.allclose(last, torch.tensor([5.0, 9.95])) and torch.equal(last, points[0])
    first, _ = run(AcceleratedGradient(server_lr=0.5), 1)
    assert value(first) < value(torch.tensor([10.0, 10.0]))


def test_the_average_iterate_is_the_mean_of_all():
    averaged, points = run(MinibatchSgd(server_lr=0.5), 7)
    assert torch.allclose(averaged, torch.stack(points).mean(0))


@pytest.mark.parametrize("method", [MinibatchSgd(server_lr=1.0, radius=2.0), AcceleratedGradient(radius=2.0)])
def test_iterates_stay_in_the_ball_around_the_start(method):
    last, points = run(method, 60)
    start = torch.tensor([10.0, 10.0])
    assert max(float((point - start).norm()) for point in [*points, last]) <= 2.0 + 1e-5


def test_three_sequences_by_hand():
    """Curvature 1, start 10, eta 0.4: eta_t = 0.2, 0.4, 0.6 and a_t = 1, 2/3, 1/2."""
    ends, points = zip(*(run(AcceleratedGradient(server_lr=0.4), steps) for steps in (1, 2, 3)), strict=True)
    # t = 0: clients at 10, mirror 10 - 0.2 * 10 = 8, aggregate 8
    # t = 1: clients at 8, mirror 8 - 0.4 * 8 = 4.8, aggregate 8 / 3 + 2 / 3 * 4.8
    # t = 2: clients at the mean of that and 4.8, mirror 4.8 - 0.6 * (their point)
    second = 8 / 3 + 2 / 3 * 4.8
    asked = (second + 4.8) / 2
    third = (second + 4.8 - 0.6 * asked) / 2
    assert [float(end[0]) for end in ends] == pytest.approx([8.0, second, third])
    assert [float(point[0]) for point in points[1]] == pytest.approx([8.0, asked])


def test_acceleration_has_its_rate():
    """f(x_t) - f* <= 4 L |x_0 - x*|^2 / (t (t + 1)), and plain descent of the same rate is far behind."""
    accelerated, _ = run(AcceleratedGradient(server_lr=0.5), 100)
    plain, _ = run(MinibatchSgd(server_lr=0.5, average=False), 100)
    assert value(accelerated) <= 4 * 200.0 / (100 * 101)
    assert value(accelerated) < value(plain) / 5
