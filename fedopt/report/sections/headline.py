"""What the run came to: banner, subtitle and headline numbers."""

from __future__ import annotations

from typing import Any

from fedopt.report import text
from fedopt.report.page import Card
from fedopt.report.run_data import VIRTUAL_TIME, RunData

_BANNERS = {
    "running": "This run has not ended",
    "diverged": "This run diverged",
    "failed": "This run failed",
    "stopped": "This run was stopped before its planned end",
}


def banner(run: RunData) -> str:
    """A warning for a run that did not finish as planned, else empty."""
    status, reason = str(run.summary.get("status")), str(run.summary.get("reason") or "")
    if status not in _BANNERS:
        return ""
    return f"{_BANNERS[status]}. {reason[:1].upper()}{reason[1:]}".rstrip(". ") + "."


def subtitle(run: RunData) -> str:
    """Which method on which data, in one line."""
    parts = run.summary.get("components") or {}
    named = [f"{label} {parts[key]}" for key, label in _PARTS if key in parts]
    seed = [f"seed {run.summary['seed']}"] if run.summary.get("seed") is not None else []
    return " · ".join([*named, *seed, f"run {run.directory.name}"])


_PARTS = (("aggregator", "aggregator"), ("data", "data"), ("model", "model"), ("client", "client"))


def cards(run: RunData) -> list[Card]:
    """Headline numbers."""
    return [*_metric_cards(run), *_privacy_cards(run), *_cost_cards(run)]


def _metric_cards(run: RunData) -> list[Card]:
    summary, name = run.summary, run.metric_name
    of_what = "mean of the clients' functions" if run.is_black_box else "global model, test set"
    found = [Card(f"Final {name}", text.metric(summary.get("final_metric"), name), of_what)]
    if summary.get("best_metric") is not None:
        remark = f"at step {text.number(summary.get('best_step'))}" + (", simulator only" if run.is_private else "")
        found.append(Card(f"Best {name}", text.metric(summary["best_metric"], name), remark))
    return found


def _privacy_cards(run: RunData) -> list[Card]:
    if run.privacy is None:
        return []
    known = claim_of(run)
    return [Card("Epsilon", text.number(known.get("epsilon")), privacy_terms(known))]


def claim_of(run: RunData) -> dict[str, Any]:
    """``privacy.json`` with the final epsilon and delta: of the summary if it has them, so both always agree."""
    stated = {k: run.summary[k] for k in ("epsilon", "delta") if run.summary.get(k) is not None}
    return {**(run.privacy or {}), **stated}


def privacy_terms(known: dict[str, Any]) -> str:
    """What an epsilon is worth nothing without: delta, unit, relation, trust, sampling, and any supposition."""
    terms = {"delta": text.number(known.get("delta")), "unit": known.get("unit"), "relation": known.get("relation")}
    terms |= {"trust": known.get("trust"), "sampling": _sampling(known.get("sampling"))}
    named = [f"{name} {value}" for name, value in terms.items() if value is not None]
    supposed = known.get("hypothetical_population")
    return " · ".join([*named, *([f"HYPOTHETICAL population {supposed}"] if supposed is not None else [])])


def _sampling(sampling: Any) -> Any:
    if not isinstance(sampling, dict):
        return sampling
    probability = sampling.get("sampling_probability")
    amplified = f", probability {text.number(probability)}" if probability is not None else ""
    amplification = sampling.get("amplification", "none")
    return f"{sampling.get('kind')} (amplification {amplification}{amplified})"


def _whose(run: RunData) -> str:
    return "on the simulated devices" if run.clock == VIRTUAL_TIME else "on real devices"


def _cost_cards(run: RunData) -> list[Card]:
    s = run.summary
    found = [
        Card("Server steps", text.number(s.get("steps"))),
        Card(run.clock.capitalize(), text.duration(s.get("time_s")), _whose(run)),
        Card("Wall time", text.duration(s.get("wall_s")), _speed(run)),
        Card("Sent by clients", text.size(s.get("uplink_bytes"))),
        Card("Sent to clients", text.size(s.get("downlink_bytes"))),
    ]
    if s.get("queries"):
        found.append(Card("Objective evaluations", text.number(s["queries"])))
    if s.get("dispatches"):
        lost = (s.get("lost") or 0) / s["dispatches"]
        found.append(Card("Client tasks", text.number(s["dispatches"]), f"{text.percent(lost)} lost"))
    if s.get("peak_memory_bytes"):
        found.append(Card("Peak memory", text.size(s["peak_memory_bytes"]), str(s.get("device") or "")))
    return found


def _speed(run: RunData) -> str:
    rate = run.summary.get("clients_per_second")
    return f"{text.number(rate, 3)} clients per second" if rate else ""
