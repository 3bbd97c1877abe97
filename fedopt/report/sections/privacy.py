"""The privacy of a run: what was spent, what it bought, in plain words, with every assumption.

Read from ``privacy.json``: ``epsilon``, ``delta``, ``epsilon_accountant``, ``unit``, ``relation``, ``trust``,
``sampling``, ``mechanism``, ``assumptions`` (sentences), ``releases`` (objects with ``events`` and ``count``), and
where present ``tradeoff`` (``advantage`` and ``true_positive_rate_at_1_percent``, from the privacy loss
distribution), ``hypothetical_population``, ``clients`` (own ledgers) and ``audit``.
"""

from __future__ import annotations

import math
from typing import Any

from fedopt.report import figures, text
from fedopt.report.figures import Figure
from fedopt.report.page import Section
from fedopt.report.run_data import RunData
from fedopt.report.sections.headline import claim_of, privacy_terms

_LEDGER_ROWS = 200


def section(run: RunData) -> Section:
    """Empty without a ``privacy.json``."""
    if run.privacy is None:
        return Section("privacy", "Privacy", [])
    known = claim_of(run)
    plots = (_epsilon(run), _metric_by_epsilon(run), _norms(run), _clip_fraction(run), _noise_to_signal(run))
    blocks: list[Figure | str] = [_in_words(known), *(f for f in plots if f is not None)]
    return Section("privacy", "Privacy", [*blocks, _assumptions(known), _ledger(known)])


def attack_bounds(epsilon: float, delta: float) -> dict[str, float]:
    """What (epsilon, delta) alone allows the best attacker: upper bounds, looser than the loss distribution's.

    advantage = true positive rate minus false positive rate, at most (e^eps - 1 + 2 delta) / (e^eps + 1); true positive
    rate at false positive rate f at most min(e^eps f + delta, 1 - e^-eps (1 - f - delta)) (Kairouz et al. 2015).

    >>> attack_bounds(0.0, 0.0)
    {'advantage': 0.0, 'true_positive_rate_at_1_percent': 0.01}
    """
    # Written with e^-eps, which cannot overflow.
    small, rate = math.exp(-epsilon), 0.01
    advantage = min(1.0, (1 - small + 2 * delta * small) / (1 + small))
    rising = math.exp(min(epsilon, 50.0)) * rate + delta
    return {"advantage": advantage, "true_positive_rate_at_1_percent": min(rising, 1 - small * (1 - rate - delta), 1.0)}


def _in_words(known: dict[str, Any]) -> str:
    epsilon, delta = known.get("epsilon"), known.get("delta")
    if epsilon is None or delta is None:
        return text.paragraphs("Nothing was released, so nothing was spent.")
    if math.isinf(epsilon):
        return text.paragraphs("Epsilon is infinite: nothing bounds what the released model reveals.")
    accountant = known.get("epsilon_accountant") or "not named"
    claim = f"Epsilon {text.number(epsilon)} ({privacy_terms(known)} · accountant {accountant})."
    given = known.get("tradeoff")
    attack = _attack(known, given or attack_bounds(epsilon, delta), from_distribution=bool(given))
    return text.paragraphs(claim, attack, _NOT_COVERED)


_NOT_COVERED = (
    "Losses, metrics, norms and clip fractions in this report come from the simulator and are not covered by epsilon: "
    "a private deployment must not publish them."
)


def _attack(known: dict[str, Any], bounds: dict[str, float], from_distribution: bool) -> str:
    """What the best attacker can do, in a sentence for people who do not think in epsilons."""
    source = "the whole privacy loss distribution" if from_distribution else "epsilon and delta alone, a looser bound"
    units = {"client": "a given client took part", "example": "a given example was used"}
    if known.get("relation") == "replace_one":
        units = {kind: f"a given {kind} has one or another content" for kind in units}
    unit = units.get(str(known.get("unit")), "one unit of data was used")
    right = text.percent(0.5 + bounds["advantage"] / 2)
    found = text.percent(bounds["true_positive_rate_at_1_percent"])
    return (
        "In plain words: somebody who sees everything released and knows all other data, and wants to tell whether "
        f"{unit}, is right at most {right} of the time when both cases are equally likely (advantage "
        f"{text.number(bounds['advantage'], 3)}). If at most 1\u202f% of accusations of the absent may be wrong, at "
        f"most {found} of the present are found out. Computed from {source}."
    )


def _over_steps(run: RunData, columns: dict[str, str], unit: str, **about: Any) -> Figure | None:
    values = {name: run.round_column(column) for name, column in columns.items()}
    steps, traces = run.round_column("step"), []
    for i, (name, column) in enumerate(values.items()):
        kept = figures.thin(column)
        if len(kept):
            traces.append(figures.line(name, [steps[j] for j in kept], [column[j] for j in kept], i))
    if not traces:
        return None
    across = figures.axis("server step", **figures.whole_ticks(run.round_column("step")))
    layout = {"xaxis": across, "yaxis": figures.axis(unit, rangemode="tozero")}
    rows = figures.table_rows({"step": steps, **values})
    return Figure(traces=traces, layout=layout, columns=("step", *values), rows=rows, **about)


def _epsilon(run: RunData) -> Figure | None:
    delta = text.number(claim_of(run).get("delta"))
    return _over_steps(
        run,
        {"epsilon": "epsilon"},
        "epsilon",
        name="epsilon",
        title="Epsilon spent",
        alt="Line: epsilon spent over server steps; it never falls.",
        caption=f"At delta {delta}.",
    )


def _metric_by_epsilon(run: RunData) -> Figure | None:
    name = run.metric_name
    pairs = zip(run.round_column("step"), run.round_column("epsilon"), run.round_column("metric_value"), strict=True)
    rows = [row for row in pairs if row[1] is not None and row[2] is not None and math.isfinite(row[1])]
    if not rows:
        return None
    kept = figures.thin([row[2] for row in rows])
    x, y = [rows[i][1] for i in kept], [rows[i][2] for i in kept]
    return Figure(
        name="tradeoff",
        title=f"Test {name} against epsilon",
        alt=f"Line: test {name} against epsilon, ending at {text.metric(rows[-1][2], name)} for {rows[-1][1]:.4g}.",
        traces=[figures.line(name, x, y, 2)],
        layout={"xaxis": figures.axis("epsilon"), "yaxis": figures.metric_axis(name, y, "accuracy" in name)},
        columns=("step", "epsilon", name),
        rows=[rows[i] for i in figures.evenly(len(rows), figures.MAX_TABLE_ROWS)],
        caption="One run with its own noise: stopping early is not the same as choosing a smaller budget beforehand.",
    )


def _norms(run: RunData) -> Figure | None:
    return _over_steps(
        run,
        {"mean norm before clipping": "update_norm", "clipping norm": "clipping_norm"},
        "L2 norm",
        name="norms",
        title="Norms and clipping",
        alt="Lines over server steps: mean norm of the contributions before clipping, and the clipping norm.",
        caption="Simulator only.",
    )


def _clip_fraction(run: RunData) -> Figure | None:
    return _over_steps(
        run,
        {"clipped": "clip_fraction"},
        "share of contributions",
        name="clipped",
        title="Share of contributions clipped",
        alt="Line over server steps: share of contributions that were clipped.",
        caption="Simulator only.",
    )


def _noise_to_signal(run: RunData) -> Figure | None:
    """Norm of the noise over the norm of a clipped contribution, which a mean of contributions cannot exceed much."""
    dimension = run.summary.get("num_parameters")
    if not dimension:
        return None
    signal = "clipping_norm" if _noise_of(run) == "example" else "update_norm"  # DP-SGD clips examples, not updates
    columns = (run.round_column(c) for c in ("noise_std", signal, "clipping_norm"))
    ratios = [noise_to_signal(std, norm, bound, dimension) for std, norm, bound in zip(*columns, strict=True)]
    kept, steps = figures.thin(ratios), run.round_column("step")
    if len(kept) == 0:
        return None
    return Figure(
        name="noise",
        title="Noise to signal",
        alt="Line over server steps: norm of the noise over the mean norm of a clipped contribution.",
        traces=[figures.line("noise to signal", [steps[i] for i in kept], [ratios[i] for i in kept], 3)],
        layout={
            "xaxis": figures.axis("server step", **figures.whole_ticks(steps)),
            "yaxis": figures.axis("ratio of norms", rangemode="tozero"),
        },
        columns=("step", "noise to signal"),
        rows=figures.table_rows({"step": steps, "ratio": ratios}),
        caption=_RATIO[_noise_of(run)] + " Simulator only.",
    )


_RATIO = {
    "mean": "Expected norm of the noise in the released mean over the mean norm of one clipped contribution. "
    "Contributions that disagree cancel, so the true ratio is larger.",
    "reply": "Expected norm of the noise in one reply over the mean norm of one clipped contribution. "
    "In a mean of m replies it is smaller by the root of m.",
    "example": "Expected norm of the noise in one summed gradient over the clipping norm of one example. In a batch it "
    "is smaller by the number of examples.",
}


def _noise_of(run: RunData) -> str:
    """What ``noise_std`` is the noise of: the released mean, one reply, or one summed gradient inside a client."""
    kind = ((run.privacy or {}).get("mechanism") or {}).get("kind")
    if kind == "dp_sgd":
        return "example"
    return "reply" if (run.privacy or {}).get("trust") == "local" or kind == "shuffle_hemisphere" else "mean"


def noise_to_signal(std: float | None, norm: float | None, clipping_norm: float | None, dimension: int) -> float | None:
    """noise_std sqrt(d) / min(norm, clipping_norm), or None where something was not measured.

    >>> noise_to_signal(0.1, 3.0, 1.0, 400)
    2.0
    """
    if std is None or norm is None or clipping_norm is None or min(norm, clipping_norm) <= 0:
        return None
    return std * math.sqrt(dimension) / min(norm, clipping_norm)


_TERMS = (
    "unit", "relation", "trust", "delta", "epsilon_accountant", "mechanism", "sampling", "max_participations",
    "population", "hypothetical_population",
)  # fmt: skip


def _assumptions(known: dict[str, Any]) -> str:
    rows = [[key.replace("_", " "), _compact(known[key])] for key in _TERMS if known.get(key) is not None]
    given = [str(sentence) for sentence in known.get("assumptions") or []]
    listed = text.bullet_list(given) if given else ""
    terms = text.table(("term", "value"), rows, "The claim")
    return f'<h3>Assumptions</h3>{listed}<div class="words whole">{terms}</div>'


def _ledger(known: dict[str, Any]) -> str:
    releases = known.get("releases") or []
    if known.get("clients"):
        return f"<h3>Ledger</h3>{_client_ledgers(known)}{_audit(known)}"
    if not releases:
        return "<h3>Ledger</h3>" + text.paragraphs("No release was recorded.") + _audit(known)
    shown = [[i + 1, release.get("count", 1), _release(release)] for i, release in enumerate(releases[:_LEDGER_ROWS])]
    first = f", the first {_LEDGER_ROWS} shown" if len(releases) > _LEDGER_ROWS else ""
    caption = f"Entries: {len(releases)}{first}; complete in privacy.json."
    entries = text.table(("entry", "times", "release"), shown, caption)
    return f'<h3>Ledger</h3><div class="words">{entries}</div>{_audit(known)}'


def _release(release: dict[str, Any]) -> str:
    return _compact(release.get("events", {k: v for k, v in release.items() if k != "count"}))


def _client_ledgers(known: dict[str, Any]) -> str:
    """Distribution over clients that keep their own ledgers: the largest is what counts."""
    told = [c.get("epsilon") for c in known.get("clients") or []]
    spent = sorted(epsilon for epsilon in told if epsilon is not None and math.isfinite(epsilon))
    if len(spent) < len(told):  # infinite numbers have no place in JSON
        return text.paragraphs(
            f"Each of {len(told)} clients keeps its own ledger over its own records: {len(told) - len(spent)} have an "
            "infinite epsilon."
        )
    if not spent:
        return ""
    middle = spent[len(spent) // 2]
    return text.paragraphs(
        f"Each of {len(spent)} clients keeps its own ledger over its own records: the largest epsilon is "
        f"{text.number(spent[-1])}, the median {text.number(middle)}, the smallest {text.number(spent[0])}."
    )


def _audit(known: dict[str, Any]) -> str:
    """Claim, certified bounds and estimate, each under its own name."""
    audit = known.get("audit")
    if not audit:
        return ""
    headline = f"{audit['headline']} (delta {text.number(audit.get('delta'))}, relation {audit.get('relation')})."
    rows = [
        [f["method"], _FINDING.get(f["kind"], f["kind"]), f["epsilon"], f["alpha"], f["detail"]]
        for f in audit.get("findings", [])
    ]
    blocks = [text.paragraphs(headline, _AUDIT)]
    if audit.get("alarm"):
        blocks.insert(0, text.paragraphs("ALARM: the audit contradicts the claim or a check failed."))
    blocks.append(text.table(("method", "kind", "epsilon", "may be wrong with probability", "how"), rows, "Audit"))
    verdicts = {True: "passed", False: "FAILED", None: "not applicable"}
    checks = [[c["name"], verdicts[c["passed"]], c["detail"]] for c in audit.get("checks", [])]
    if checks:
        blocks.append(text.table(("check", "verdict", "measured"), checks, "Named checks"))
    return f'<h3>Audit</h3><div class="words">{"".join(blocks)}</div>'


_FINDING = {"certified": "certified lower bound", "estimate": "estimate, not a bound"}
_AUDIT = (
    "The claim is the accountant's upper bound for the audited run. A certified bound lies below the true epsilon "
    "except with the stated probability; the estimate may lie on either side. A wide gap is normal: attacks are weak."
)


def _compact(value: Any) -> str:
    """Nested values on one line, without quotes and braces; what is empty is left out."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_compact(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list | tuple):
        return "; ".join(map(_compact, value))
    return text.cell(value)
