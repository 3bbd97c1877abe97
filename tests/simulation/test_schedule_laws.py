"""Laws of schedules in whole runs: limits where methods coincide, counts that add up, time that only scales."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import Schedule

import fedopt
from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.fedbuff import FedBuff
from fedopt.aggregators.fedfix import FedFix
from fedopt.devices.compute.constant import Constant
from fedopt.devices.compute.exponential import Exponential
from fedopt.devices.compute.half_normal import HalfNormal
from fedopt.sampling.all import All
from fedopt.sampling.fixed import Fixed
from fedopt.sampling.uniform import Uniform
from fedopt.simulation.session import Session
from scenarios import small


def end(directory: Path, **changes: Any) -> fedopt.Run:
    Session(small(**changes), directory, quiet=True).run()
    return fedopt.open_run(directory)


EVERYBODY = {"sampling": {"kind": "all"}}
INSTANT = {"devices": {"compute": {"kind": "none"}}}
F0 = {"devices": {"compute": {"kind": "ladder", "slowdown_percent": 0}}}
F80 = {"devices": {"compute": {"kind": "ladder", "slowdown_percent": 80}}}
FULL_BUFFER = {"kind": "fedbuff", "buffer_size": 12}


@pytest.mark.parametrize(
    ("devices", "aggregator"),
    [
        (INSTANT, FULL_BUFFER),
        (F0, FULL_BUFFER),
        (F0, {"kind": "fedfix", "server_step_s": 1.0}),
        (F80, {"kind": "fedfix", "server_step_s": 1.0}),
        (F80, {"kind": "fedfix", "server_step_s": 1.7}),
    ],
)
def test_where_an_asynchronous_method_is_fedavg(
    tmp_path: Path, devices: dict[str, Any], aggregator: dict[str, Any]
) -> None:
    run = end(tmp_path / "a", **EVERYBODY, **devices, aggregator=aggregator)
    rounds = end(tmp_path / "b", **EVERYBODY, **devices)
    assert run.rounds.staleness_max.max() == 0 and (run.rounds.participants == 12).all()
    np.testing.assert_allclose(run.rounds.test_loss.dropna(), rounds.rounds.test_loss.dropna(), rtol=1e-5)
    if aggregator["kind"] == "fedbuff":  # sums and divides in the same order: the same bits
        assert run.summary["model_sha256"] == rounds.summary["model_sha256"]


def test_one_client_at_work_with_a_buffer_of_one_is_sequential_training(tmp_path: Path) -> None:
    models = set()
    for exponent in (0.0, 0.5):
        run = end(
            tmp_path / str(exponent),
            sampling={"kind": "uniform", "concurrency": 1},
            aggregator={"kind": "fedbuff", "buffer_size": 1, "staleness": {"kind": "polynomial", "exponent": exponent}},
        )
        assert (run.updates.staleness == 0).all() and run.updates.version.tolist() == list(range(6))
        models.add(run.summary["model_sha256"])
    assert len(models) == 1


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_scaling_all_times_moves_the_clock_and_nothing_else(tmp_path: Path, factor: float) -> None:
    streams = {"sampling": {"kind": "uniform", "concurrency": 6}, "aggregator": {"kind": "fedbuff", "buffer_size": 3}}
    one = end(tmp_path / "a", **streams)
    other = end(tmp_path / "b", **streams, devices={"compute": {"kind": "half_normal", "scale": factor}})
    assert one.summary["model_sha256"] == other.summary["model_sha256"]
    np.testing.assert_allclose(other.rounds.time_s, factor * one.rounds.time_s, rtol=1e-6)


def test_a_version_per_buffer_and_every_admitted_reply_in_one_step() -> None:
    run = Schedule(FedBuff(buffer_size=7), Uniform(concurrency=20), HalfNormal(scale=1.0), clients=50, steps=40)
    admitted = [row for row in run.rows if row["status"] == "admitted"]
    counts = np.bincount([row["step"] for row in admitted], minlength=41)
    assert counts.tolist() == [0] + [7] * 40
    assert [row["step"] for row in run.steps] == list(range(1, 41))
    assert all(row["staleness"] == row["step"] - 1 - row["version"] for row in admitted)


def test_too_stale_replies_fill_no_buffer() -> None:
    run = Schedule(
        FedBuff(buffer_size=5, max_staleness=2), Uniform(concurrency=20), HalfNormal(scale=1.0), clients=50, steps=40
    )
    admitted = [row for row in run.rows if row["status"] == "admitted"]
    rejected = [row for row in run.rows if row["status"] == "rejected"]
    assert len(admitted) == 200 and max(row["staleness"] for row in admitted) == 2
    assert rejected and min(row["staleness"] for row in rejected) == 3 and {r["weight"] for r in rejected} == {0.0}


def test_a_reply_at_the_deadline_counts_and_a_later_one_is_lost() -> None:
    times = Constant(seconds=("1/2", "1", "1.000000001", "2"))
    run = Schedule(FedAvg(), All(deadline_s=1.0), times, clients=4, steps=2)
    assert [row["time_s"] for row in run.steps] == [1.0, 2.0] and [row["lost"] for row in run.steps] == [2, 2]
    ends = {(row["step"], row["client_id"]): (row["status"], row["arrived_s"]) for row in run.rows}
    assert ends == {
        (1, 0): ("admitted", 0.5), (1, 1): ("admitted", 1.0), (1, 2): ("lost", None), (1, 3): ("lost", None),
        (2, 0): ("admitted", 1.5), (2, 1): ("admitted", 2.0), (2, 2): ("lost", None), (2, 3): ("lost", None),
    }  # fmt: skip


def test_of_over_selected_clients_the_first_replies_count_and_the_rest_is_rejected() -> None:
    """Of a tie the smaller ids; before a deadline too, which a round of too few replies waits for."""
    times = Constant(seconds=("1", "1", "1", "1/2"))
    run = Schedule(FedAvg(), Fixed(cohort_size=2, over_selection=2.0, deadline_s=1.5), times, clients=4, steps=1)
    assert {row["client_id"]: row["status"] for row in run.rows} == {
        0: "admitted", 1: "rejected", 2: "rejected", 3: "admitted",
    }  # fmt: skip
    assert run.steps[0]["time_s"] == 1.0 and run.steps[0]["lost"] == 0
    short = Schedule(FedAvg(), Fixed(cohort_size=2, over_selection=2.0, deadline_s=0.75), times, clients=4, steps=1)
    assert [row["client_id"] for row in short.rows if row["status"] == "lost"] == [0, 1, 2]
    assert short.steps[0]["time_s"] == 0.75 and short.steps[0]["participants"] == 1


def test_a_rejected_client_restarts_also_where_others_wait_for_the_step() -> None:
    stale = FedBuff(buffer_size=2, max_staleness=1, restart="at_step")
    run = Schedule(stale, Uniform(concurrency=5), HalfNormal(), clients=12, steps=60)
    assert run.ended.status == "finished" and sum(row["status"] == "rejected" for row in run.rows) > 5
    last, state = [row for row in run.rows if row["status"] == "admitted" and row["step"] == 60], run.server.state
    assert len(state.in_flight) + len(state.arrived) + len(last) == 5  # nobody's slot was lost


def test_a_step_at_the_time_limit_is_made() -> None:
    run = Schedule(FedAvg(), All(), Constant(), clients=2, steps=None, seconds=3.0)
    assert [row["time_s"] for row in run.steps] == [1.0, 2.0, 3.0] and run.ended.status == "finished"


def test_participation_of_exponential_clients_in_fedfix() -> None:
    """1 - exp(-step / mean): 0.2592, 0.4512, 0.7769 for means 1, 0.5, 0.2 and a step of 0.3."""
    steps = 800
    for mean, expected in ((1.0, 0.2592), (0.5, 0.4512), (0.2, 0.7769)):
        run = Schedule(
            FedFix(server_step_s=0.3, weights="gap"), All(), Exponential(mean_s=mean), clients=1, steps=steps
        )
        share = sum(row["status"] == "admitted" for row in run.rows) / steps
        error = (expected * (1 - expected) / steps) ** 0.5
        assert abs(share - expected) < 4 * error, (mean, share, error)
        assert abs(share - 2 * expected / 3) > 4 * error < abs(share - 3 * expected / 2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_properties_of_any_stream(data: st.DataObject) -> None:
    clients = data.draw(st.integers(1, 30), "clients")
    concurrency = data.draw(st.integers(1, clients), "concurrency")
    restart = data.draw(st.sampled_from(["immediately", "at_step"]), "restart")
    # Whoever waits for a step cannot fill the rest of its buffer.
    largest = concurrency if restart == "at_step" else 2 * concurrency
    size = data.draw(st.integers(1, largest), "buffer_size")
    dispatch = data.draw(st.sampled_from(["per_instant", "per_upload"]), "dispatch")
    scale = data.draw(st.sampled_from([0.01, 1.0, 50.0]), "scale")
    dropout = data.draw(st.sampled_from([0.0, 0.4]), "dropout")
    run = Schedule(
        FedBuff(buffer_size=size, restart=restart, dispatch=dispatch),
        Uniform(concurrency=concurrency),
        HalfNormal(scale=scale),
        clients=clients,
        steps=12,
        seed=data.draw(st.integers(0, 1000), "seed"),
        dropout=dropout,
    )
    times = [row["time_s"] for row in run.steps]
    assert run.ended.status == "finished" and times == sorted(times) and len(times) == 12
    admitted = [row for row in run.rows if row["status"] == "admitted"]
    assert np.bincount([row["step"] for row in admitted], minlength=13).tolist() == [0] + [size] * 12
    assert all(row["staleness"] == row["step"] - 1 - row["version"] >= 0 for row in admitted)
    assert {row["status"] for row in run.rows} <= ({"admitted", "lost"} if dropout else {"admitted"})
    # One task of a client at a time, and never more of them than the concurrency.
    moments = sorted([(row["arrived_s"], -1) for row in run.rows] + [(row["dispatched_s"], 1) for row in run.rows])
    assert np.cumsum([change for _, change in moments]).max() <= concurrency
    for client in {row["client_id"] for row in run.rows}:
        spans = sorted((r["dispatched_s"], r["arrived_s"]) for r in run.rows if r["client_id"] == client)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
