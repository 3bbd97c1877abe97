from fractions import Fraction

import pytest

from fedopt.aggregators.delayed_nesterov import DelayedNesterov


def trajectory(drive, method, updates):
    state = method.init(drive.vector(1.0), drive.public)
    models = []
    for update in updates:
        state = drive.step(method, state, [(update,)])
        models.append(state.params.item())
    return models


def nesterov(start, updates, rate, beta):
    """Nesterov momentum as in torch.optim.SGD(nesterov=True, dampening=0), on gradients (start minus end)."""
    model, momentum, models = start, 0.0, []
    for update in updates:
        gradient = -update
        momentum = beta * momentum + gradient
        model -= rate * (gradient + beta * momentum)
        models.append(model)
    return models


UPDATES = [0.5, -1.0, 2.0, 0.25, 1.0, -3.0, 0.5, 0.75]


@pytest.mark.parametrize("activation", [0.0, 0.3, 1.0])
def test_delay_one_is_nesterov(drive, activation):
    method = DelayedNesterov(delay=1, activation=activation, beta=0.9, server_lr=0.3)
    assert trajectory(drive, method, UPDATES) == pytest.approx(nesterov(1.0, UPDATES, 0.3, 0.9))


def test_without_activation_n_uploads_are_one_step_on_their_mean(drive):
    method = DelayedNesterov(delay=4, beta=0.9, server_lr=0.3)
    means = [sum(UPDATES[:4]) / 4, sum(UPDATES[4:]) / 4]
    assert trajectory(drive, method, UPDATES)[3::4] == pytest.approx(nesterov(1.0, means, 0.3, 0.9))


def test_activation_differs_between_the_momentum_changes(drive):
    """With c > 0 the intermediate steps use the old momentum, so the equality above does not hold."""
    method = DelayedNesterov(delay=4, beta=0.9, server_lr=0.3, activation=0.25)
    means = [sum(UPDATES[:4]) / 4, sum(UPDATES[4:]) / 4]
    assert trajectory(drive, method, UPDATES)[7] != pytest.approx(nesterov(1.0, means, 0.3, 0.9)[1], rel=1e-3)


def test_activation_by_hand(drive):
    method = DelayedNesterov(delay=2, beta=0.5, server_lr=1.0, activation=0.25)
    state = method.init(drive.vector(0.0), drive.public)
    for update in (2.0, 4.0):
        state = drive.step(method, state, [(update,)])
    # m = 3; first step 0.25*0.5*0 + 1, second (1 - 0.5 + 0.25)*0.5*3 + 2
    assert (state.momentum.item(), state.params.item()) == (3, 1 + 0.75 * 0.5 * 3 + 2)
    state = drive.step(method, state, [(2.0,)])
    assert state.params.item() == 4.125 + 0.25 * 0.5 * 3 + 1


def test_beta_zero_is_sgd_with_rate_over_n(drive):
    method = DelayedNesterov(delay=4, beta=0.0, server_lr=0.4)
    models, x = trajectory(drive, method, UPDATES), 1.0
    for model, update in zip(models, UPDATES, strict=True):
        x += 0.1 * update
        assert model == pytest.approx(x)


def test_four_equal_updates_with_plain_nesterov_are_amplified(drive):
    beta, rate = 0.9, 1.0
    moved = trajectory(drive, DelayedNesterov(delay=1, beta=beta, server_lr=rate), [1.0] * 4)[-1] - 1.0
    assert moved == pytest.approx(4 + 4 * beta + 3 * beta**2 + 2 * beta**3 + beta**4)
    assert moved == pytest.approx(12.1441)


def test_dynamic_local_updates_in_the_payload(drive_with):
    speeds = (10, 5, 4, 1)
    for durations in ([Fraction(1, v) for v in speeds], [1 / v for v in speeds]):
        drive = drive_with(seconds_for_equal_work=durations)
        method = DelayedNesterov(fastest_local_steps=50)
        state = method.init(drive.vector(0.0), drive.public)
        steps = [method.payload(state, i, None).config["local_steps"] for i in range(4)]
        assert steps == [50, 25, 20, 5]
    equal = drive_with(seconds_for_equal_work=[0.1] * 4)
    assert DelayedNesterov(fastest_local_steps=7).init(equal.vector(0.0), equal.public).local_steps == (7,) * 4


def test_slow_clients_take_at_least_one_step(drive_with):
    drive = drive_with(seconds_for_equal_work=[1, 1, 1, 100])
    assert DelayedNesterov(fastest_local_steps=5).init(drive.vector(0.0), drive.public).local_steps[3] == 1


def test_payload_is_plain_without_dynamic_updates(drive):
    method = DelayedNesterov()
    assert method.payload(method.init(drive.vector(0.0), drive.public), 0, None).config == {}


def test_refusals(drive):
    with pytest.raises(ValueError, match=r"needs known durations"):
        DelayedNesterov(fastest_local_steps=5).init(drive.vector(0.0), drive.public)
    with pytest.raises(ValueError, match=r"activation must be <= 1/delay = 0.25, got 0.3"):
        DelayedNesterov(delay=4, activation=0.3)
