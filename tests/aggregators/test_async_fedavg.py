import pytest

from fedopt.aggregators.async_fedavg import AsyncFedAvg
from fedopt.types import Count


def test_plan_is_a_step_per_upload_with_the_named_switches(drive_with):
    drive = drive_with(seconds_per_task=[1.0] * 4)
    method = AsyncFedAvg(dispatch="per_upload", restart="at_step")
    exchange = method.plan(method.init(drive.vector(0.0), drive.public), drive.public)
    assert exchange.close == Count(1)
    assert (exchange.pacing, exchange.dispatch, exchange.restart) == ("stream", "per_upload", "at_step")


def test_identical_weight_moves_by_the_whole_update(drive):
    method = AsyncFedAvg(weights="identical", server_lr=0.5)
    assert drive.step(method, method.init(drive.vector(1.0), drive.public), [(4.0,)]).params.item() == 3


def test_unbiased_weight_moves_by_its_share(drive_with):
    drive = drive_with(seconds_per_task=[1.0, 0.5, 0.5, 0.25])
    method = AsyncFedAvg()
    rate = 1 + 2 + 2 + 4
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(8.0,)], [drive.meta(3)])
    assert state.params.item() == pytest.approx(8.0 * 0.25 * rate / 4)


def test_unknown_durations_are_refused(drive):
    with pytest.raises(ValueError, match="use gap"):
        AsyncFedAvg().init(drive.vector(0.0), drive.public)


@pytest.mark.parametrize(
    "method, largest",
    [
        (AsyncFedAvg(weights="identical"), 1.0),
        (AsyncFedAvg(weights="unbiased"), 1.0 * 9 / 4),
        (AsyncFedAvg(weights="gap", max_correction=2.0), 2 / 4),
    ],
)
def test_private_bounds(drive_with, method, largest):
    drive = drive_with(seconds_per_task=[1.0, 0.5, 0.5, 0.25], is_private=True)
    state = method.init(drive.vector(0.0), drive.public)
    batch = drive.admitted(method, state, [(1.0,)], [drive.meta(0, gap=50)], clipped=1.0)
    value, bound = method.reduce(state, batch, drive.public)["update"]
    assert bound.l2 == pytest.approx(largest)
    assert value.item() == pytest.approx(largest)
