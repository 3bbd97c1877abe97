"""What holds of every run, whatever its scenario: counters add up, time and epsilon grow, the report has no holes."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from fedopt.api import Run
from fedopt.privacy.accounting import PrivacyAccounting
from fedopt.runlog import read_clients, read_rounds, read_updates
from fedopt.scenario import Scenario

Rows = list[dict[str, Any]]
GAUSSIANS = ("gaussian", "distributed_gaussian", "skellam")


def broken(run: Run, parts: Any) -> list[str]:
    """Laws that a finished run breaks, one sentence each.

    Args:
        run: with its directory.
        parts: what it was made of (``Session.parts``), for a second look at its privacy.
    """
    scenario = parts.scenario
    rounds = read_rounds(run.directory).to_pylist()
    updates, clients = (read(run.directory).to_pylist() for read in (read_updates, read_clients))
    summary = json.loads((run.directory / "summary.json").read_text(), parse_constant=_refuse)
    found = [
        *_rounds_go_on(rounds, summary, scenario),
        *_rounds_count_updates(rounds, updates),
        *_totals(rounds, updates, clients, summary),
        *_clients_work_once(updates),
        *_limits(rounds, updates, scenario),
        *_report(run),
    ]
    if scenario.privacy is not None:
        found += [*_epsilon_grows(rounds, summary, scenario), *_ledger(run, parts, updates, summary)]
    return found


def _refuse(name: str) -> float:
    raise ValueError(f"summary.json holds {name}")


def _rounds_go_on(rounds: Rows, summary: dict[str, Any], scenario: Scenario) -> Iterator[str]:
    if [row["step"] for row in rounds] != list(range(1, len(rounds) + 1)) or summary["steps"] != len(rounds):
        yield f"steps are not 1, 2, ..., {summary['steps']}"
    for name in ("time_s", "uplink_bytes", "downlink_bytes", "queries"):
        values = [row[name] for row in rounds] + [summary[name]]
        if any(b < a for a, b in pairwise(v for v in values if v is not None)):
            yield f"{name} falls: {values}"
    limit = scenario.run.time_s
    if limit is not None and any(row["time_s"] > limit + 1e-6 for row in rounds):
        yield f"a step after time_s = {limit}: {[row['time_s'] for row in rounds]}"
    steps = scenario.run.server_steps
    if steps is not None and len(rounds) > steps + 1:
        yield f"{len(rounds)} steps, {steps} wanted"
    if summary["status"] == "failed":
        yield f"failed: {summary['reason']}"


def _rounds_count_updates(rounds: Rows, updates: Rows) -> Iterator[str]:
    for row in rounds:
        here = [u for u in updates if u["step"] == row["step"]]
        taken = [u for u in here if u["status"] in ("admitted", "failed")]
        used = sum(u["status"] == "admitted" for u in here)
        lost = sum(u["status"] in ("lost", "failed") for u in here)
        if (used, lost) != (row["participants"], row["lost"]):
            yield f"step {row['step']}: {row['participants']} participants, {row['lost']} lost; updates: {used}, {lost}"
        stale = [u["staleness"] for u in taken]
        mean = sum(stale) / len(stale) if stale else 0.0
        if row["staleness_max"] != max(stale, default=0) or not math.isclose(row["staleness_mean"], mean, abs_tol=1e-9):
            yield f"step {row['step']}: staleness {row['staleness_mean']}, {row['staleness_max']}; updates: {stale}"
        if len({u["version"] + u["staleness"] for u in taken}) > 1:
            yield f"step {row['step']}: replies disagree about the version they move"
        if any(u["arrived_s"] is None or u["arrived_s"] > row["time_s"] + 1e-9 for u in taken):
            yield f"step {row['step']}: a reply from the future"
    if any(u["staleness"] < 0 or u["version"] < 0 for u in updates):
        yield "a negative staleness or version"
    ended = [(u["dispatched_s"], u["arrived_s"]) for u in updates if u["arrived_s"] is not None]
    if any(end < start for start, end in ended):
        yield "an arrival before its dispatch"
    if len({row["phase"] for row in rounds}) == 1:  # a version a step
        for u in updates:
            if u["version"] and rounds[u["version"] - 1]["time_s"] > u["dispatched_s"] + 1e-9:
                yield f"version {u['version']} was sent before it existed"


def _totals(rounds: Rows, updates: Rows, clients: Rows, summary: dict[str, Any]) -> Iterator[str]:
    counts = Counter(u["status"] for u in updates)
    lost = counts["lost"] + counts["failed"]
    pairs = {
        "admitted": (summary["admitted"], counts["admitted"]),
        "lost": (summary["lost"], lost),
        "queries": (summary["queries"], sum(u["queries"] or 0 for u in updates)),
        "clients' participations": (sum(c["participations"] for c in clients), counts["admitted"]),
        "clients' losses": (sum(c["losses"] for c in clients), lost),
    }
    for name, (told, counted) in pairs.items():
        if told != counted:
            yield f"{name}: {told}, but updates say {counted}"
    tasks = len(updates) - _second_rows(updates)
    under_way = summary["dispatches"] - tasks
    if under_way < 0:
        yield f"{summary['dispatches']} dispatches, but {tasks} tasks ended"
    if (told := sum(c["dispatches"] for c in clients)) not in (tasks, summary["dispatches"]):
        yield f"clients' dispatches: {told}, of {summary['dispatches']} tasks {tasks} ended"
    for name in ("uplink_bytes", "downlink_bytes"):
        counted = sum(u[name] for u in updates)
        if counted > summary[name] or (under_way == 0 and counted != summary[name]):
            yield f"{name}: {summary[name]}, but updates say {counted} ({under_way} tasks have not ended)"
    if len({c["client_id"] for c in clients}) != len(clients):
        yield "a client has two rows"


def _second_rows(updates: Rows) -> int:
    """Rows of replies that have one already, from when they were held."""
    held: Counter[tuple[int, float, int]] = Counter()
    second = 0
    for u in updates:
        key = (u["client_id"], u["dispatched_s"], u["version"])
        if u["status"] == "held":
            held[key] += 1
        elif held[key] and not u["uplink_bytes"] and not u["downlink_bytes"]:
            held[key] -= 1
            second += 1
    return second


def _clients_work_once(updates: Rows) -> Iterator[str]:
    spans: dict[int, set[tuple[float, float]]] = {}
    for u in updates:
        if u["arrived_s"] is not None:
            spans.setdefault(u["client_id"], set()).add((u["dispatched_s"], u["arrived_s"]))
    for client, found in spans.items():
        for (_, end), (start, _) in pairwise(sorted(found)):
            if start < end - 1e-9:
                yield f"client {client} started a task at {start} while another lasted to {end}"


def _limits(rounds: Rows, updates: Rows, scenario: Scenario) -> Iterator[str]:
    most = getattr(scenario.aggregator, "max_staleness", None)
    if most is not None and any(u["staleness"] > most for u in updates if u["status"] == "admitted"):
        yield f"a reply staler than max_staleness = {most} was used"
    buffer = getattr(scenario.aggregator, "buffer_size", None)
    if buffer is not None and any(row["participants"] + row["lost"] < buffer for row in rounds):
        yield f"a step with fewer than buffer_size = {buffer} replies"
    limit = None if scenario.privacy is None else scenario.privacy.max_participations
    taken = Counter(u["client_id"] for u in updates if u["status"] in ("admitted", "failed"))
    if limit is not None and max(taken.values(), default=0) > limit:
        yield f"more than max_participations = {limit}: {dict(taken)}"


def _report(run: Run) -> Iterator[str]:
    if not run.report.exists():
        yield "no report"
        return
    text = re.sub(r"(?s)<(script|style|svg|pre)\b.*?</\1>", " ", run.report.read_text())
    text = re.sub(r"<[^>]+>", " ", text)
    for word in re.finditer(r"(?i)(?<![\w.-])(nan|none|inf|-inf|null|undefined)(?![\w.-])", text):
        around = " ".join(text[max(0, word.start() - 60) : word.end() + 30].split())
        said = r"(compute|network|kind|privacy|amplification)\W+none|NaN or infinite"
        if not re.search(said, around, re.IGNORECASE):
            yield f"the report says {word.group()!r}: {around}"


def _epsilon_grows(rounds: Rows, summary: dict[str, Any], scenario: Scenario) -> Iterator[str]:
    privacy = scenario.privacy
    assert privacy is not None
    shown = [row["epsilon"] for row in rounds]
    if any(e is None or math.isnan(e) for e in shown):
        yield f"a step without epsilon: {shown}"
        return
    if any(b < a for a, b in pairwise(shown)):
        yield f"epsilon falls: {shown}"
    last = summary["epsilon"] if summary["epsilon"] is not None else math.inf
    mechanism = privacy.mechanism
    own = mechanism.client_ledgers or mechanism.paid_on_arrival  # replies after the last step are paid for, too
    if shown and not own and last > shown[-1] * (1 + 1e-9):
        yield f"epsilon of the summary {last} is above that of the last step {shown[-1]}"
    for name in ("target_epsilon", "max_epsilon"):
        limit = getattr(privacy, name)
        if limit is not None and last > limit:
            yield f"epsilon {last} is above {name} = {limit}"


def _ledger(run: Run, parts: Any, updates: Rows, summary: dict[str, Any]) -> Iterator[str]:
    """The ledger is what happened: amplification only by coins, and as many releases as the worst client was in."""
    scenario, accounting = parts.scenario, parts.server.affordable
    body = json.loads((run.directory / "privacy.json").read_text(), parse_constant=_refuse)
    by_coins = scenario.sampling.kind() == "poisson" and scenario.privacy.unit == "client"
    by_coins = by_coins and parts.server.state.exchange.pacing == "round"
    by_coins = by_coins and scenario.sampling.deadline_s is None
    if scenario.privacy.unit == "client" and (body["sampling"]["amplification"] == "poisson") != by_coins:
        yield f"sampling {scenario.sampling.kind()} is accounted as {body['sampling']}"
    steps = summary["steps"]
    taken = Counter(u["client_id"] for u in updates if u["status"] in ("admitted", "failed"))
    releases = sum(r["count"] for r in body["releases"])
    mechanism = accounting.mechanism
    if mechanism.kind() not in GAUSSIANS:
        return
    below = mechanism.kind() != "gaussian"  # more replies than the least bring more noise; with fewer nothing is opened
    if releases != steps and not (below and releases < steps):
        yield f"{releases} releases were charged, {steps} were made"
    most = steps if body["sampling"]["amplification"] == "poisson" else max(taken.values(), default=0)
    claim, public, epsilon = accounting.claim, accounting.public, body["epsilon"]
    if most and mechanism.noise_level():
        again = PrivacyAccounting(scenario, mechanism, claim, public, steps, most).exact_planned()
        if epsilon is None or not (math.isclose(again, epsilon, rel_tol=1e-9) or (below and epsilon < again)):
            yield f"epsilon is {epsilon}, but {most} of {steps} releases cost {again}"
