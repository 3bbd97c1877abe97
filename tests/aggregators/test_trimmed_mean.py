import pytest
import torch

from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.trimmed_mean import TrimmedMean


def moved(drive, method, rows):
    return drive.step(method, method.init(torch.zeros(len(rows[0])).double(), drive.public), rows).params


def test_by_hand_in_every_coordinate(drive):
    rows = [(1.0, 50.0), (2.0, 1.0), (3.0, 2.0), (6.0, 3.0), (-99.0, -7.0)]
    assert moved(drive, TrimmedMean(trim=0.2), rows).tolist() == [2, 2]


def test_counts_are_exact(drive):
    """0.1 of 30 is 3, and 0.29 of 100 is 29 (28.999... in doubles)."""
    rows = [(0.0,)] * 50 + [(1.0,)] * 21 + [(1e9,)] * 29
    assert moved(drive, TrimmedMean(trim=0.29), rows).item() == pytest.approx(21 / 42)
    # 0.3 of 6 is 1.8: one is dropped at each end, not two
    assert moved(drive, TrimmedMean(trim=0.3), [(0.0,), (1.0,), (3.0,), (4.0,), (7.0,), (9.0,)]).item() == 3.75


def test_no_trimming_is_fedavg(drive):
    rows = [(1.0, 50.0), (2.0, 1.0), (3.5, 2.0)]
    assert torch.allclose(moved(drive, TrimmedMean(trim=0.0), rows), moved(drive, FedAvg(), rows))


def test_no_survivors(drive):
    method = TrimmedMean()
    assert drive.step(method, method.init(drive.vector(3.0), drive.public), []).params.item() == 3


def test_refused_under_privacy(drive_with):
    with pytest.raises(ValueError, match="TrimmedMean declares no sensitivity bound"):
        TrimmedMean().init(torch.zeros(1), drive_with(is_private=True).public)
