"""What is needed to repeat and to judge the run: scenario, warnings, references, environment."""

from __future__ import annotations

from typing import Any

from fedopt.report import text
from fedopt.report.page import Section
from fedopt.report.run_data import RunData

_ENVIRONMENT_KEYS = (
    "device",
    "formulation",
    "chunk",
    "threads",
    "seed",
    "num_parameters",
    "model_sha256",
    "started_at",
)


def scenario_section(run: RunData) -> Section:
    """The resolved scenario as it was run."""
    label = 'tabindex="0" role="region" aria-label="Scenario"'
    blocks = [f"<pre {label}><code>{text.escape(run.scenario)}</code></pre>"] if run.scenario else []
    return Section("scenario", "Scenario", blocks)


def warnings_section(run: RunData) -> Section:
    """Everything the user was warned of."""
    warnings = [str(w) for w in run.summary.get("warnings") or []]
    return Section("warnings", "Warnings", [text.bullet_list(warnings)] if warnings else [])


def references_section(run: RunData) -> Section:
    """Sources of exactly the methods used."""
    references = [str(r) for r in run.summary.get("references") or []]
    return Section("references", "References", [text.bullet_list(references, ordered=True)] if references else [])


def environment_section(run: RunData) -> Section:
    """Device, seeds, hashes and versions."""
    rows: list[list[Any]] = []
    for key in _ENVIRONMENT_KEYS:
        if run.summary.get(key) is not None:
            rows.append([key, str(run.summary[key])])
    for group in ("versions", "machine"):
        rows += [[f"{group}: {k}", text.cell(v)] for k, v in (run.summary.get(group) or {}).items()]
    if not rows:
        return Section("environment", "Environment", [])
    shown = text.table(("what", "value"), rows, "What fixes the bits of this run.")
    return Section("environment", "Environment", [f'<div class="words whole">{shown}</div>'])
