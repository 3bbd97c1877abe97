"""Cohorts whose updates do not fit the memory: reduced chunk after chunk, to the same sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedopt.simulation.computation import Computation
from fedopt.simulation.session import Session
from scenarios import small

ROW_GIB = 4 * 650 / 2**30  # one update of logistic regression on 8x8 digits
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"sampling": {"kind": "all"}},
    # A tick with few arrivals computes what arrives next as well.
    "fedfix": {"sampling": {"kind": "all"}, "aggregator": {"kind": "fedfix", "server_step_s": 0.7}},
    # A client that starts again before it was collected needs its state, so its first reply is computed then.
    "buffered_scaffold": {
        "sampling": {"kind": "uniform", "concurrency": 10},
        "client": {"kind": "scaffold", "lr": 0.2, "batch_size": 20, "epochs": 1},
        "aggregator": {"kind": "buffered_scaffold", "buffer_size": 7},
    },
}


def model_after(directory: Path, rows: float, chunk: int, **changes: Any) -> torch.Tensor:
    """Parameters after a run whose memory holds this many updates."""
    session = Session(small(engine__chunk=chunk, engine__memory_gib=rows * ROW_GIB, **changes), directory, quiet=True)
    session.run()
    return session.parts.scenario.aggregator.evaluated(session.parts.server.state.method)


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replies of every cohort that was reduced in a stream, and how many of them were computed before."""
    found: list[tuple[int, int]] = []
    collect = Computation.collect

    def watched(self: Computation, command: Any, *rest: Any) -> Any:
        ready = sum(self.pending[meta.dispatch_id].reply is not None for meta in command.metas)
        result = collect(self, command, *rest)
        if any(part._batch is None for part in result[0].batch.parts.values()):
            found.append((len(command.metas), ready))
        return result

    monkeypatch.setattr(Computation, "collect", watched)
    return found


@pytest.mark.parametrize(("method", "chunk"), [("fedavg", 3), ("fedfix", 3), ("buffered_scaffold", 1)])
def test_a_stream_gives_the_sum_of_the_whole_cohort(
    tmp_path: Path, method: str, chunk: int, streamed: list[tuple[int, int]]
) -> None:
    expected = model_after(tmp_path / "whole", 1000, chunk, **METHODS[method])
    assert not streamed
    found = model_after(tmp_path / "streamed", 6.01, chunk, **METHODS[method])
    assert len(streamed) >= 4 and any(ready for _, ready in streamed) == (method != "fedavg")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_who_needs_every_update_is_told_that_they_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reduced in a stream .* raise it, or use a smaller cohort or a mean"):
        model_after(tmp_path, 6.01, 3, sampling={"kind": "all"}, aggregator={"kind": "median"})
