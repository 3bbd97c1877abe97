"""Query logs: growth, windows, forks."""

from __future__ import annotations

import pytest
import torch

from fedopt.zeroth_order import query_log


def filled(sizes=(3, 4, 5)) -> tuple[query_log.QueryLog, torch.Tensor, torch.Tensor]:
    total = sum(sizes)
    points = torch.rand(2, total, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = points.sum(-1)
    log, start = query_log.empty(2, 3), 0
    for size in sizes:
        log = query_log.append(log, points[:, start : start + size], values[:, start : start + size])
        start += size
    return log, points, values


def test_growth_keeps_everything_in_order():
    log, points, values = filled()
    assert log.longest == 12 and log.counts.tolist() == [12, 12]
    assert torch.equal(log.points[:, :12], points) and torch.equal(log.values[:, :12], values)
    torch.testing.assert_close(log.norms[:, :12], points.square().sum(-1))


def test_nearest_equals_sorting_by_distance():
    log, points, _ = filled()
    centre = torch.tensor([[0.2, 0.9, 0.4], [0.5, 0.5, 0.5]], dtype=torch.float64)
    window = query_log.nearest(log, centre, 5)
    assert window.mask.all()
    for i in range(2):
        order = (points[i] - centre[i]).norm(dim=1).argsort()[:5]
        assert torch.equal(window.points[i], points[i][order])
    assert query_log.nearest(log, centre, None).values.shape == (2, 12)
    assert query_log.nearest(log, centre, 50).values.shape == (2, 12)


def test_clients_with_shorter_logs_are_masked():
    log, _, _ = filled()
    short = log._replace(counts=torch.tensor([12, 4]))
    window = query_log.nearest(short, torch.zeros(2, 3, dtype=torch.float64), 6)
    assert window.mask.sum(1).tolist() == [6, 4]
    assert query_log.nearest(short, torch.zeros(2, 3, dtype=torch.float64), None).mask.sum(1).tolist() == [12, 4]


def test_rows_is_a_copy():
    log, points, _ = filled()
    fork = log.rows(torch.tensor([1]))
    query_log.append(fork, torch.full((1, 1, 3), 9.0, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    assert torch.equal(log.points[:, :12], points) and torch.equal(fork.points[0, :12], points[1])


def test_an_empty_log_has_no_window():
    with pytest.raises(ValueError, match="no query is logged yet"):
        query_log.nearest(query_log.empty(1, 2), torch.zeros(1, 2), 3)
