"""Messages of the scalar methods end to end: exact bytes with absences, losses, joins and tasks that were cut short."""

from __future__ import annotations

import pytest
import torch
from zeroth_order_runs import COMFL, QUADRATICS, SPSA, STREAM, D, N, Quick

from fedopt.zeroth_order import message_costs as costs


def test_decomfl_bytes_with_everybody_and_with_absences():
    aggregator, steps = {**COMFL, "local_steps": 2, "perturbations": 5, "join": "log"}, 5
    run = Quick(SPSA, aggregator, steps=steps)
    for i, row in enumerate(run.updates):
        cost = costs.decomfl(2, 5, missed_rounds=int(i >= N))
        assert (row["uplink_bytes"], row["downlink_bytes"]) == (cost.uplink_bytes, cost.downlink_bytes)
    away = Quick(SPSA, aggregator, steps=steps, sampling={"kind": "fixed", "cohort_size": 1})
    last: dict[int, int] = {}
    for row in away.updates:
        missed = row["version"] - last.get(row["client_id"], 0)
        assert row["downlink_bytes"] == costs.decomfl(2, 5, missed).downlink_bytes
        last[row["client_id"]] = row["version"]


def test_one_byte_and_feedsign_bytes():
    run = Quick(SPSA, {"kind": "one_byte", "count": 3, "step_size": 0.01}, steps=4)
    cost = costs.just_one_byte(own=3, received=3 * (N - 1), peers=1)
    assert {row["uplink_bytes"] for row in run.updates} == {cost.uplink_bytes}
    assert [row["downlink_bytes"] for row in run.updates[N:]] == [cost.downlink_bytes] * (3 * N)
    votes = Quick(SPSA, {"kind": "feedsign", "step_size": 0.01}, steps=3)
    assert {row["uplink_bytes"] for row in votes.updates} == {1}
    assert {row["downlink_bytes"] for row in votes.updates[N:]} == {1}


def test_cut_short_tasks_send_ask_and_count_less():
    run = Quick(
        SPSA, {"kind": "one_byte", "count": 4, "step_size": 0.01}, steps=2,
        devices={"work": {"kind": "fixed_fraction", "low": 0.5, "high": 0.5}},
    )  # fmt: skip
    assert {(row["queries"], row["uplink_bytes"]) for row in run.updates} == {(4, 2)}
    assert all(len(record.scalars) == 2 for record in run.state.records)
    whole = Quick(SPSA, {"kind": "one_byte", "count": 2, "step_size": 0.01}, steps=1)
    assert torch.equal(whole.params, replay_first_step(run))


def replay_first_step(run: Quick) -> torch.Tensor:
    """The model after the first step of a scalar method."""
    from fedopt.zeroth_order.seed_log import apply_

    first = [record for record in run.state.records if record.step == 0]
    return apply_(run.start.clone(), "rademacher", first)


@pytest.mark.parametrize("kind", ["decomfl", "one_byte", "feedsign", "fedkseed"])
def test_bytes_with_joins_absences_and_losses(kind):
    """Every download is what the client lacked: replayed here from who took part when; newcomers lack everything."""
    clients, client = 6, SPSA if kind != "fedkseed" else {"kind": "fedkseed", "steps": 3}
    method = {"decomfl": {"perturbations": 3}, "one_byte": {"count": 2}, "fedkseed": {"candidates": 9}}.get(kind, {})
    aggregator = {"kind": kind, "step_size": 0.003, **({} if kind == "fedkseed" else {"join": "log"}), **method}
    run = Quick(client, aggregator, steps=12, data={**QUADRATICS, "clients": clients},
                sampling={"kind": "fixed", "cohort_size": 3}, devices={"dropout": 0.3})  # fmt: skip
    rows = sorted(run.updates, key=lambda row: row["version"])
    assert 0 < sum(row["status"] == "lost" for row in rows) < len(rows)
    heard: dict[int, int] = {}
    for row in rows:
        asked, version = row["client_id"], row["version"]
        since = heard.get(asked, 0)
        if kind == "decomfl":
            # A round that lost all its replies made no record.
            made = {r["version"] for r in rows if r["status"] == "admitted" and since <= r["version"] < version}
            cost = costs.decomfl(1, 3, len(made)).downlink_bytes
        elif kind == "feedsign":
            cost = -(-(version - since) // 8)
        elif kind == "fedkseed":
            cost = 4 * 9 + (8 if asked not in heard else 0)
        else:
            others = [r for r in rows if r["status"] == "admitted" and since <= r["version"] < version]
            cost = sum(2 for r in others if r["client_id"] != asked or r["version"] < since)
        assert row["downlink_bytes"] == cost, (kind, row)
        heard[asked] = version
    assert run.rounds[-1]["downlink_bytes"] == sum(row["downlink_bytes"] for row in rows)


@pytest.mark.parametrize("kind", ["decomfl", "one_byte"])
def test_asynchronous_bytes_name_who_measured_what(kind):
    """Step s made version s of version s - 1; a reader lacks the records of all steps after its last message."""
    method = {"decomfl": {"perturbations": 3}, "one_byte": {"count": 2}}[kind]
    run = Quick(SPSA, {"kind": kind, "step_size": 0.003, "buffer_size": 2, "join": "log", **method}, steps=20, **STREAM)
    heard: dict[int, int] = {}
    for row in sorted(run.updates, key=lambda row: (row["dispatched_s"], row["version"])):
        asked, since = row["client_id"], heard.get(row["client_id"], 0)
        made = [r for r in run.updates if since <= r["step"] - 1 < row["version"]]
        if kind == "decomfl":  # a record of 3 scalars and a seed for every version that replies started from
            cost = (4 * 3 + 8) * len({(r["step"], r["version"]) for r in made}) + 8
        else:  # two scalars, and 8 bytes for worker and task, of everybody else
            cost = (2 + 8) * sum(r["client_id"] != asked for r in made)
        assert row["downlink_bytes"] == cost, row
        heard[asked] = row["version"]
    assert any(row["staleness"] for row in run.updates)


def test_joining_takes_the_weights_where_the_log_is_longer():
    aggregator = {"kind": "one_byte", "count": 30, "step_size": 0.01}
    by_log = Quick(SPSA, {**aggregator, "join": "log"}, steps=2).updates[N]["downlink_bytes"]
    cheaper = Quick(SPSA, aggregator, steps=2).updates[N]["downlink_bytes"]
    assert by_log == 30 * (N - 1) and cheaper == 4 * D < by_log
    assert not costs.join_by_log_is_cheaper(by_log, D)


def test_fedkseed_pro_sends_pairs_and_hears_probabilities():
    """Pro needs to know which scalar belongs to which direction, so 8 bytes per step even where K floats are fewer."""
    run = Quick({"kind": "fedkseed", "steps": 5, "radius": 0.01}, {"kind": "fedkseed", "candidates": 8,
                "step_size": 0.003, "pro": True}, steps=2)  # fmt: skip
    assert {row["uplink_bytes"] for row in run.updates} == {8 * 5}
    assert [row["downlink_bytes"] for row in run.updates] == [2 * 4 * 8 + 8] * N + [2 * 4 * 8] * N
    assert float(run.state.counts.sum()) == 8 + 2 * N * 5
