import pytest
import torch

from fedopt.aggregators.median import Median


def moved(drive, rows):
    return drive.step(Median(), Median().init(torch.zeros(len(rows[0])).double(), drive.public), rows).params


def test_odd_and_even_by_hand(drive):
    assert moved(drive, [(1.0, 5.0), (2.0, -1.0), (100.0, 0.0)]).tolist() == [2, 0]
    assert moved(drive, [(1.0,), (2.0,), (4.0,), (100.0,)]).tolist() == [3]


def test_a_minority_cannot_leave_the_honest_range(drive):
    honest = [(1.0,), (1.5,), (2.0,)]
    for bad in (-1e30, 1e30):
        assert 1 <= moved(drive, [*honest, (bad,), (bad,)]).item() <= 2


def test_no_survivors(drive):
    assert drive.step(Median(), Median().init(drive.vector(3.0), drive.public), []).params.item() == 3


def test_refused_under_privacy(drive_with):
    with pytest.raises(ValueError, match=r"Median declares no sensitivity bound .* remove the privacy section"):
        Median().init(torch.zeros(1), drive_with(is_private=True).public)
