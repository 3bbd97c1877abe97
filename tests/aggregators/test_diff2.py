"""The server of DIFF2 by hand: what it makes of rounds in which replies are missing."""

from __future__ import annotations

import pytest

from fedopt.aggregators.diff2 import Diff2

METHOD = Diff2(restart_every=3, server_lr=0.5)


def restarted(drive, *gradients):
    """After a restart from 4 in which these gradients arrived."""
    rows = drive.vector(*gradients)[:, None]
    return drive.step(METHOD, METHOD.init(drive.vector(4.0), drive.public), list(rows.tolist()), gradient=rows)


def test_a_restart_with_losses_averages_over_those_that_arrived(drive):
    state = restarted(drive, 1.0, 3.0)  # two of four
    assert (state.params.item(), state.previous.item(), state.estimate.item()) == (3.0, 4.0, 2.0)
    assert state.since_restart == 0 and METHOD.plan(state, drive.public).phase == "restart"


def test_a_difference_is_the_mean_slope_times_the_distance_and_after_a_loss_comes_a_restart(drive):
    state = restarted(drive, 1.0, 3.0, 2.0, 2.0)
    assert (state.params.item(), state.since_restart) == (3.0, 1)  # estimate 2
    assert METHOD.payload(state, 0, None).parts.keys() == {"params", "previous"}
    slopes = drive.vector(1.0, 2.0, 3.0, 6.0)[:, None]
    full = drive.step(METHOD, state, slopes.tolist(), slope=slopes)
    assert (full.estimate.item(), full.params.item(), full.since_restart) == (2.0 + 12 / 4, 0.5, 2)
    short = drive.step(METHOD, state, slopes[:2].tolist(), slope=slopes[:2])
    assert (short.estimate.item(), short.since_restart) == (2.0 + 3 / 4, 0)
    assert drive.step(METHOD, full, slopes.tolist(), slope=slopes).since_restart == 0  # rounds 1, 4, 7 ... restart


@pytest.mark.parametrize("due", ["gradient", "slope"])
def test_a_round_without_replies_moves_nothing(drive, due):
    """In a difference round too: the old estimate is of another point."""
    state = METHOD.init(drive.vector(4.0), drive.public)
    if due == "slope":
        state = restarted(drive, 1.0, 3.0, 2.0, 2.0)
    after = drive.step(METHOD, state, [], **{due: drive.vector()[:, None]})
    assert after.params.item() == state.params.item() and after.since_restart == 0
