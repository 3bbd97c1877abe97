"""SGD, FedProx and SCAFFOLD clients: steps, rates, normalisers and algebra."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fedopt.clients._local_training import normalizer
from fedopt.clients.dp_sgd import DpSgd
from fedopt.clients.proximal import Proximal
from fedopt.clients.scaffold import Scaffold
from fedopt.clients.sgd import Sgd
from fedopt.data.base import ClientIndex, Examples, FederatedData
from fedopt.engine.base import Cohort
from fedopt.engine.engine import CohortEngine
from fedopt.models.base import Model
from fedopt.types import Message, Task

SIZES = (6, 11, 0, 9)


class Line(Model):
    """Linear regression."""

    def build(self, task):
        return nn.Sequential(nn.Linear(3, 1))


def engine(formulation="auto"):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(sum(SIZES), 3)).astype(np.float32)
    targets = (inputs @ [[1.0], [-2.0], [0.5]] + 0.3).astype(np.float32)
    lists = np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1])
    examples = Examples(inputs, targets)
    data = FederatedData(Task("regression", (3,), 1), examples, examples, ClientIndex.from_lists(lists))
    return CohortEngine(Line(), data, formulation=formulation)


def cohort(work, made, version=0, states=None, **parts):
    messages = (Message({"params": made.initial_parameters(), **parts}, {"version": version}),) * len(SIZES)
    steps = tuple(work.planned_steps(n, m) for n, m in zip(SIZES, messages, strict=True))
    return Cohort((0, 1, 2, 3), (0,) * 4, messages, steps, 0, states=states)


def rows(work, made, **options):
    return work.work(cohort(work, made, **options), made).parts["update"].rows()


def test_planned_steps():
    empty, told = Message({}), Message({}, {"local_steps": 7})
    assert Sgd(batch_size=10).planned_steps(25, empty) == 3
    assert Sgd(batch_size=10, epochs=2).planned_steps(25, empty) == 6
    assert Sgd(batch_size="full", epochs=4).planned_steps(25, empty) == 4
    assert Sgd(steps=9).planned_steps(25, empty) == 9
    assert Sgd(batch_size=10).planned_steps(0, empty) == 0
    assert Scaffold(steps=9).planned_steps(25, told) == 7
    private = DpSgd(batch_size=5, steps=7)
    assert private.planned_steps(25, told) == private.planned_steps(25, empty) == 7
    with pytest.raises(
        ValueError, match="asks for 7 local steps, but every step of dp_sgd is paid for and 2 were plann"
    ):
        DpSgd(batch_size=5, steps=2).planned_steps(25, told)
    assert Sgd(batch_size="full").batch_size_of(25) == 25 and Sgd(batch_size=10).batch_size_of(4) == 4


@pytest.mark.parametrize(
    "options, text",
    [
        ({"epochs": 1, "steps": 2}, "give epochs or steps, not both"),
        ({"batch_size": 0}, "batch_size must be >= 1 or full, got 0"),
        ({"nesterov": True}, "nesterov needs momentum > 0"),
    ],
)
def test_bad_settings(options, text):
    with pytest.raises(ValidationError, match=text):
        Sgd(**options)


def test_rate_schedules():
    assert Sgd(lr=0.1, lr_decay=0.5).rate_at(3) == pytest.approx(0.0125)
    cosine = Sgd(lr=0.2, schedule="cosine", schedule_versions=10)
    assert [cosine.rate_at(v) for v in (0, 5, 10, 99)] == pytest.approx([0.2, 0.1, 0.0, 0.0], abs=1e-12)


def test_rate_follows_the_start_version():
    """With one step the update is proportional to the rate of the version the client started from."""
    made, work = engine(), Sgd(steps=1, lr_decay=0.5)
    torch.testing.assert_close(rows(work, made, version=2), 0.25 * rows(work, made))


def test_normalizer_golden_values():
    assert normalizer(5, 0.9) == pytest.approx(13.1441)
    assert normalizer(10, 0.5) == 18.001953125
    assert normalizer(1, 0.7) == 1.0 and normalizer(6) == 6.0
    assert normalizer(4, shrink=0.1) == pytest.approx((1 - 0.9**4) / 0.1)
    assert Proximal(lr=0.5, mu=0.2).normalizer(4) == pytest.approx((1 - 0.9**4) / 0.1)


@pytest.mark.parametrize("nesterov", [False, True])
def test_normalizer_is_the_displacement_along_a_constant_gradient(nesterov):
    """Against torch.optim.SGD with a gradient of one."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.8, nesterov=nesterov)
    for _ in range(5):
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert -parameter.item() / 0.1 == pytest.approx(Sgd(momentum=0.8, nesterov=nesterov).normalizer(5), rel=1e-5)


def test_one_step_goes_down():
    made, work = engine(), Sgd(lr=0.05, batch_size="full", steps=1)
    start, moved = made.initial_parameters(), rows(work, made)
    before = made.evaluate_clients(start, [0])
    after = made.evaluate_clients(start + moved[0], [0])
    assert after.losses[0] < before.losses[0]
    assert (moved[2] == 0).all(), "a client without examples does not move"


def test_proximal_limits():
    """mu = 0 is sgd; one step is sgd for any mu; a large mu holds the model at the start."""
    made = engine()
    torch.testing.assert_close(rows(Proximal(mu=0.0, epochs=2), made), rows(Sgd(epochs=2), made))
    torch.testing.assert_close(rows(Proximal(mu=5.0, steps=1), made), rows(Sgd(steps=1), made))
    held, free = rows(Proximal(mu=19.0, lr=0.05, steps=40), made), rows(Sgd(lr=0.05, steps=40), made)
    assert held.norm() < 0.2 * free.norm()


def test_scaffold_first_round_is_sgd():
    made = engine()
    zero = torch.zeros(made.spec.size)
    torch.testing.assert_close(rows(Scaffold(epochs=2), made, control=zero), rows(Sgd(epochs=2), made))


def test_scaffold_controls_by_hand():
    """Option II: c_i+ = c_i - c - update / (K lr), and the reply is the change; option I: the full gradient."""
    made = engine()
    server = torch.linspace(-0.2, 0.3, made.spec.size)
    states = {"control": torch.arange(4.0)[:, None] * torch.full((4, made.spec.size), 0.05)}
    work = Scaffold(lr=0.1, batch_size=4)
    task = cohort(work, made, states=states, control=server)
    reply = work.work(task, made)
    update, change = reply.parts["update"].rows(), reply.parts["control"].rows()
    for row in (0, 1, 3):
        expected = states["control"][row] - server - update[row] / (task.steps[row] * 0.1)
        torch.testing.assert_close(reply.states["control"][row], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(change[row], expected - states["control"][row], rtol=1e-4, atol=1e-5)
    assert torch.equal(reply.states["control"][2], states["control"][2]), "no examples: no change"
    for decay in (0.0, 0.5):  # the penalty is part of what the local steps descend along
        first = Scaffold(lr=0.1, batch_size=4, option="I", weight_decay=decay)
        controls = first.work(cohort(first, made, states=states, control=server), made).states["control"]
        full = rows(Sgd(lr=1.0, batch_size="full", steps=1, weight_decay=decay), made)
        torch.testing.assert_close(controls[[0, 1, 3]], -full[[0, 1, 3]], rtol=1e-4, atol=1e-5)


def test_scaffold_correction_has_the_right_sign():
    """With c_i = own gradient and c = 0 the first corrected full-batch step does not move."""
    made = engine()
    own = -rows(Sgd(lr=1.0, batch_size="full", steps=1), made)
    zero = torch.zeros(made.spec.size)
    moved = rows(Scaffold(batch_size="full", steps=1), made, states={"control": own}, control=zero)
    assert moved.norm() < 1e-5 * own.norm()


def test_scaffold_needs_the_control():
    made = engine()
    with pytest.raises(ValueError, match="needs the server's control variate; use aggregator"):
        rows(Scaffold(), made)


def test_bytes_and_states():
    spec = engine().spec
    assert Sgd().reply_bytes(spec, Message({}), 3) == 16 and Scaffold().reply_bytes(spec, Message({}), 3) == 32
    assert Scaffold().initial_state(spec) == {"control": 4} and Proximal().initial_state(spec) == {}


class Quadratics:
    """f_i(y) = curvature_i / 2 |y - centre_i|^2."""

    dimension, num_clients, has_gradients, optimum = 2, 2, True, None
    curvature = torch.tensor([1.0, 3.0])
    centres = torch.tensor([[0.0, 1.0], [2.0, -1.0]])

    def initial(self, seed):
        return torch.ones(2)

    def values(self, clients, points, draw=None):
        return 0.5 * self.curvature[clients, None] * (points - self.centres[clients, None]).square().sum(-1)

    def gradients(self, clients, points):
        return self.curvature[clients, None] * (points - self.centres[clients])

    def value(self, point):
        return float(self.values(torch.arange(2), point.expand(2, 1, -1)).mean())


def quadratic_engine():
    nothing = Examples(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    index = ClientIndex(np.zeros(3, np.int64), np.zeros(0, np.int64))
    task = Task("black_box", (2,), 1)
    return CohortEngine(None, FederatedData(task, nothing, nothing, index, objective=Quadratics()))


def test_sgd_on_an_objective_uses_its_gradients():
    """y_K - centre = (1 - lr * curvature)^K (x - centre), per client, with different numbers of steps."""
    made = quadratic_engine()
    start = made.initial_parameters()
    task = Cohort((1, 0), (0, 0), (Message({"params": start}),) * 2, (3, 5), 0)
    moved = Sgd(lr=0.1, steps=5).work(task, made).parts["update"].rows()
    for row, (client, factor) in enumerate([(1, 0.7**3), (0, 0.9**5)]):
        expected = (factor - 1.0) * (start - Quadratics.centres[client])
        torch.testing.assert_close(moved[row], expected)
    assert made.description()["formulation"] == "objective" and made.metric_goal == "min"


def test_scaffold_reaches_the_federated_optimum_where_fedavg_is_biased():
    """Quadratics of different curvature, exact gradients, five local steps (card: server-optimizers, section 3)."""
    optimum = (Quadratics.curvature[:, None] * Quadratics.centres).sum(0) / Quadratics.curvature.sum()
    made = quadratic_engine()

    def run(work, rounds=300):
        point, server, own = made.initial_parameters(), torch.zeros(2), torch.zeros(2, 2)
        for _ in range(rounds):
            message = Message({"params": point, "control": server})
            states = {"control": own} if isinstance(work, Scaffold) else None
            reply = work.work(Cohort((0, 1), (0, 0), (message,) * 2, (5, 5), 0, states=states), made)
            point = point + reply.parts["update"].rows().mean(0)
            if reply.states:
                server, own = server + reply.parts["control"].rows().mean(0), reply.states["control"]
        return (point - optimum).norm().item()

    assert run(Scaffold(lr=0.1, steps=5)) < 1e-4
    assert run(Sgd(lr=0.1, steps=5)) > 0.05


def test_objective_without_gradients_is_refused():
    made = quadratic_engine()
    made.formulation._objective = SimpleNamespace(has_gradients=False)
    with pytest.raises(ValueError, match="values only; use a zeroth-order client"):
        Sgd(steps=1).work(Cohort((0,), (0,), (Message({"params": torch.ones(2)}),), (1,), 0), made)
