import pytest
import torch

from fedopt.aggregators.scaffold import Scaffold

CENTRES, CURVATURES = (0.0, 2.0, 4.0, 10.0), (1.0, 0.5, 2.0, 1.5)


def local(x, client, control, own, steps, rate):
    """Exact local steps and option II's new control variate."""
    y = x
    for _ in range(steps):
        y = y - rate * (CURVATURES[client] * (y - CENTRES[client]) - own + control)
    return y - x, own - control + (x - y) / (steps * rate)


def run(drive, rounds, steps, cohorts, corrected=True, rate=0.05):
    method = Scaffold()
    state, own = method.init(drive.vector(0.0), drive.public), [0.0] * 4
    for n in range(rounds):
        cohort = cohorts[n % len(cohorts)]
        results = [local(state.params.item(), i, state.control.item(), own[i], steps, rate) for i in cohort]
        changes = [(new - own[i],) if corrected else (0.0,) for i, (_, new) in zip(cohort, results, strict=True)]
        if corrected:
            for i, (_, new) in zip(cohort, results, strict=True):
                own[i] = new
        state = drive.step(
            method, state, [(u,) for u, _ in results], [drive.meta(i) for i in cohort],
            control=torch.tensor(changes, dtype=torch.float64),
        )  # fmt: skip
        yield state, own


OPTIMUM = sum(a * c for a, c in zip(CURVATURES, CENTRES, strict=True)) / sum(CURVATURES)


def test_payload_carries_both_parts_and_their_bytes(drive):
    message = Scaffold().payload(Scaffold().init(drive.vector(0.0, 1.0), drive.public), 0, None)
    assert set(message.parts) == {"params", "control"} and message.num_bytes == 16


def test_control_is_the_mean_of_the_clients_controls(drive):
    for state, own in run(drive, 30, 5, [[0, 1], [2], [1, 2, 3]]):
        assert state.control.item() == pytest.approx(sum(own) / 4)


def test_removes_client_drift(drive):
    corrected = [state for state, _ in run(drive, 400, 10, [[0, 1, 2, 3]])][-1].params.item()
    drifting = [state for state, _ in run(drive, 400, 10, [[0, 1, 2, 3]], corrected=False)][-1].params.item()
    assert corrected == pytest.approx(OPTIMUM, abs=1e-6)
    assert abs(drifting - OPTIMUM) > 0.05


def test_one_local_step_with_everybody_is_gradient_descent(drive):
    x = 0.0
    for state, _ in run(drive, 20, 1, [[0, 1, 2, 3]]):
        x -= 0.05 * sum(a * (x - c) for a, c in zip(CURVATURES, CENTRES, strict=True)) / 4
        assert state.params.item() == pytest.approx(x)


def test_private_bounds_of_both_parts(drive_with):
    drive = drive_with(is_private=True, num_clients=40, expected_cohort=5)
    method = Scaffold()
    state = method.init(drive.vector(0.0), drive.public)
    batch = drive.admitted(method, state, [(1.0,)], clipped=1.0, control=torch.ones(1, 1, dtype=torch.float64))
    reduced = method.reduce(state, batch, drive.public)
    assert {name: bound.l2 for name, (_, bound) in reduced.items()} == pytest.approx(
        {"update": 1 / 5, "control": 1 / 40}
    )
    assert {name: value.item() for name, (value, _) in reduced.items()} == pytest.approx(
        {"update": 1 / 5, "control": 1 / 40}
    )
