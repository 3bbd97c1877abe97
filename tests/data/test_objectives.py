"""Functions as clients: optima, gradients, identities of the FZooS card."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedopt.data.fzoos_quadratics import FzoosQuadratics
from fedopt.data.quadratics import Quadratics

torch.set_num_threads(1)


def _gradient_error(objective, points):
    """Largest difference between the gradients and central differences, in float64."""
    clients, step = list(range(objective.num_clients)), 1e-5
    exact = objective.gradients(clients, points)
    shifts = step * torch.eye(objective.dimension, dtype=torch.float64)
    up, down = (objective.values(clients, points[:, None] + sign * shifts) for sign in (1, -1))
    return float((exact - (up - down) / (2 * step)).abs().max() / exact.abs().max())


def test_five_client_quadratic_by_hand():
    objective = Quadratics(centers=(0.0, 1.0, 2.0, 3.0, 10.0)).load(0).objective
    assert objective.minimizer() == pytest.approx([3.2])
    assert objective.minimizer(np.array([0, 0, 0, 0.5, 0.5])) == pytest.approx([6.5])
    assert objective.optimum == pytest.approx(6.28) and objective.value(torch.tensor([3.2])) == pytest.approx(6.28)
    assert objective.values([0, 4], torch.tensor([[[1.0]], [[1.0]]])).tolist() == [[0.5], [40.5]]
    assert objective.gradients([0, 4], torch.tensor([[1.0], [1.0]])).tolist() == [[1.0], [-9.0]]


def test_one_gradient_step_goes_down():
    objective = Quadratics(clients=4, dimension=6, curvature_min=0.5, curvature_max=4.0).load(1).objective
    start = objective.initial(0)
    mean = objective.gradients([0, 1, 2, 3], start.expand(4, -1)).mean(dim=0)
    assert objective.value(start - 0.1 * mean) < objective.value(start)
    assert objective.gradients([0, 1, 2, 3], torch.tensor(objective.minimizer()).expand(4, -1)).mean(
        dim=0
    ).abs().max() == pytest.approx(0.0, abs=1e-12)
    assert (objective.curvatures >= 0.5).all() and (objective.curvatures <= 4.0).all()


def test_query_noise_has_the_given_size():
    objective = Quadratics(clients=2, centers=(0, 0), noise_std=0.3).load(0).objective
    draws = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    noisy = objective.values([0, 1], torch.zeros(2, 5000, 1), draws)
    assert noisy.std().item() == pytest.approx(0.3, rel=0.05) and not objective.values([0], torch.zeros(1, 1, 1)).any()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValidationError, match="centers has 2 entries; it needs one per client"):
        Quadratics(clients=3, centers=(0, 1))
    with pytest.raises(ValidationError, match="has 1 numbers; dimension is 2"):
        Quadratics(clients=1, dimension=2, centers=((1.0,),))
    with pytest.raises(ValidationError, match="curvatures must be > 0"):
        Quadratics(clients=2, curvatures=(1, -1))


@pytest.mark.parametrize("heterogeneity", [0.0, 0.5, 5.0, 50.0])
def test_fzoos_mean_function_does_not_depend_on_heterogeneity(heterogeneity):
    objective = FzoosQuadratics(dimension=300, heterogeneity=heterogeneity).load(2).objective
    u = torch.as_tensor(np.random.default_rng(0).random(300))
    x = 20 * u - 10
    assert objective.value(u) == pytest.approx(float((x * x + x).sum() + 1) / 3000, abs=1e-12)
    assert objective.value(torch.full((300,), 0.475, dtype=torch.float64)) == pytest.approx(-0.0246667, abs=1e-7)
    assert objective.optimum == pytest.approx(-1 / 40 + 1 / 3000)


def test_fzoos_start_and_heterogeneity_ratio():
    data = FzoosQuadratics(dimension=3000, heterogeneity=5.0).load(0)
    objective = data.objective
    assert data.task.kind == "black_box" and data.clients.num_clients == 5
    assert objective.value(objective.initial(0)) == pytest.approx(10 / 3, rel=0.1)
    gradients = objective.gradients(range(5), objective.initial(0).double().expand(5, -1))
    mean = gradients.mean(dim=0)
    ratio = float((gradients - mean).square().sum(dim=1).mean() / mean.square().sum())
    assert ratio == pytest.approx(0.08 * 25, rel=0.15)


@pytest.mark.parametrize("function", ["quadratic", "ackley", "levy"])
def test_fzoos_gradients_match_differences_and_clipping_is_flat(function):
    objective = FzoosQuadratics(dimension=7, function=function, heterogeneity=2.0).load(0).objective
    points = torch.as_tensor(np.random.default_rng(1).uniform(0.1, 0.9, (5, 7)))
    assert _gradient_error(objective, points) < 1e-6
    outside = points.clone()
    outside[:, 0] = 1.3
    assert not objective.gradients(range(5), outside)[:, 0].any()


def test_ackley_and_levy_have_their_known_optima():
    ackley = FzoosQuadratics(dimension=6, function="ackley", heterogeneity=0.0).load(0).objective
    assert ackley.optimum == 0.0 and ackley.value(torch.full((6,), 0.5)) == pytest.approx(0.0, abs=1e-9)
    levy = FzoosQuadratics(dimension=6, function="levy", heterogeneity=0.0).load(0).objective
    assert levy.optimum == 0.0 and levy.value(torch.ones(6)) == pytest.approx(0.0, abs=1e-9)
    assert levy.value(torch.full((6,), 0.3)) > 1.0
    assert FzoosQuadratics(function="levy").load(0).objective.optimum is None


@pytest.mark.parametrize("function", ["ackley", "levy"])
def test_ackley_and_levy_by_their_formulas(function):
    """The formulas once more in NumPy, at random points and for every client's own scales and centres."""
    objective = FzoosQuadratics(dimension=6, function=function, heterogeneity=2.0, clients=3).load(0).objective
    points = np.random.default_rng(0).random((3, 4, 6))
    found = objective.values(range(3), torch.as_tensor(points)).numpy()
    for client in range(3):
        assert np.ptp(objective.first[client]) > 0.1 and np.ptp(objective.second[client]) > 0.1
        for query in range(4):
            z = objective.first[client] * (20 * points[client, query] - 10 - objective.second[client])
            if function == "ackley":
                first = -20 * np.exp(-0.2 * np.sqrt((z**2).mean()))
                wanted = first - np.exp(np.cos(np.pi * z).mean()) + 20 + np.e
            else:
                w = 1 + (z - 1) / 4
                wanted = np.sin(np.pi * w[0]) ** 2 + (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)
                wanted += sum((v - 1) ** 2 * (1 + 10 * np.sin(np.pi * v + 1) ** 2) for v in w[1:-1])
            assert found[client, query] == pytest.approx(wanted, rel=1e-12)
