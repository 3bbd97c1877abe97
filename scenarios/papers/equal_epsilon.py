"""What the comparisons at equal epsilon share: tuning seeds, fresh seeds, table with paired intervals, figure.

Every method gets the same number of settings to choose from, on tuning seeds and a validation half of the test set;
fresh seeds are judged on the other half. Tuning is not paid for in epsilon: the comparison is between methods.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from fedopt.components import dump
from fedopt.data.base import Examples, FederatedData
from fedopt.protocol import Finished
from fedopt.scenario import Scenario, load
from fedopt.simulation.assembly import Parts, assemble
from fedopt.simulation.simulator import Simulator

TUNING_SEED, SEEDS = 1000, (0, 1, 2, 3, 4)
THREE_TUNING_SEEDS = (TUNING_SEED, 1001, 1002)
Measure = Callable[[Parts, torch.Tensor], dict[str, float]]


def halves(data: FederatedData) -> tuple[FederatedData, FederatedData]:
    """The data with the first (validation) and the second (report) half of a shuffled test set."""
    order = np.random.default_rng(0).permutation(len(data.test))
    parts = np.array_split(order, 2)
    made = [replace(data, test=Examples(data.test.inputs[p], data.test.targets[p]), client_tests=None) for p in parts]
    return made[0], made[1]


def final(scenario: Scenario, data: FederatedData) -> tuple[Parts, torch.Tensor]:
    """Run without a run directory; the parts and the final parameters."""
    parts = assemble(scenario, data)
    simulator = Simulator(
        parts.server,
        parts.computation,
        parts.clock,
        scenario.client.batch_size_of,
        lambda stepped, metrics: None,
        lambda row: None,
    )
    ended = simulator.run()
    assert isinstance(ended, Finished) and ended.status in ("finished", "stopped"), ended
    return parts, scenario.aggregator.evaluated(parts.server.state.method)


def test_metrics(parts: Parts, params: torch.Tensor) -> dict[str, float]:
    """Loss and metric on the test half in the parts."""
    found = parts.engine.evaluate(params)
    loss = float(found["loss"])
    return {"loss": loss if np.isfinite(loss) else float("inf"), found["metric_name"]: float(found["metric_value"])}


def compare(
    base: Path,
    methods: Mapping[str, Mapping[str, Any]],
    grids: Mapping[str, Sequence[Mapping[str, Any]]],
    budgets: Sequence[float],
    measure: Measure = test_metrics,
    choose_by: str = "loss",
    kept: Path | None = None,
    tuning_seeds: Sequence[int] = (TUNING_SEED,),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tune every method at every budget, then run fresh seeds.

    Args:
        base: the common scenario.
        methods: name -> overrides.
        grids: name -> settings to choose from.
        budgets: target epsilons.
        measure: (parts, final parameters) -> numbers.
        choose_by: number minimised in tuning.
        kept: file of single runs, so that an interrupted comparison goes on; delete it when code or base change.
        tuning_seeds: a setting is judged by its mean over these.
    Returns:
        Rows of the fresh seeds, and of the tuning.
    """
    rows, tuned = [], []
    for epsilon in budgets:
        for name, overrides in methods.items():
            common = {**overrides, "privacy.target_epsilon": epsilon}
            common, scores = _calibrated(base, common), []
            for setting in grids[name]:
                tried = [_one(base, {**common, **setting}, seed, 0, measure, kept) for seed in tuning_seeds]
                found = {key: float(np.mean([each[key] for each in tried])) for key in tried[0]}
                scores.append(found[choose_by])
                tuned.append({"epsilon": epsilon, "method": name, "setting": str(dict(setting)), **found})
            best = grids[name][int(np.argmin(scores))]
            for seed in SEEDS:
                found = _one(base, {**common, **best}, seed, 1, measure, kept)
                rows.append({"epsilon": epsilon, "method": name, "setting": str(dict(best)), "seed": seed, **found})
            print(epsilon, name, best, {k: round(v, 4) for k, v in found.items()}, flush=True)
    return pd.DataFrame(rows), pd.DataFrame(tuned)


def _calibrated(base: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides with the noise that meets the target, which depends on neither seed nor step size."""
    scenario = load(base, overrides)
    mechanism = assemble(scenario).server.mechanism
    assert mechanism is not None
    made: dict[str, Any] = dump(mechanism)
    return {**overrides, "privacy.mechanism": made, "privacy.target_epsilon": None}


@lru_cache(maxsize=8)
def _halves_of(base: Path, seed: int) -> tuple[FederatedData, FederatedData]:
    return halves(load(base).data.load(seed))


def _one(
    base: Path, overrides: Mapping[str, Any], seed: int, half: int, measure: Measure, kept: Path | None
) -> dict[str, float]:
    """One run: from the file of kept runs, or made and kept."""
    key = json.dumps([base.parent.name, overrides, seed, half], sort_keys=True, default=str)
    lines = kept.read_text().splitlines() if kept is not None and kept.exists() else []
    known: dict[str, dict[str, float]] = dict(map(json.loads, lines))
    if key not in known:
        known[key] = _run(base, overrides, seed, half, measure)
        if kept is not None:
            with kept.open("a") as file:
                file.write(json.dumps([key, known[key]]) + "\n")
    return known[key]


def _run(base: Path, overrides: Mapping[str, Any], seed: int, half: int, measure: Measure) -> dict[str, float]:
    scenario = load(base, {**copy.deepcopy(dict(overrides)), "seed": seed})
    parts, params = final(scenario, _halves_of(base, seed)[half])
    accounting = parts.server.affordable
    spent = accounting.exact(parts.server.state.tally)
    return {**measure(parts, params), "spent": float(spent)}


def write(
    out: Path, title: str, rows: pd.DataFrame, tuned: pd.DataFrame, baseline: str, columns: Sequence[str]
) -> None:
    """``results.csv``, ``results.md`` and ``figure.svg``.

    Args:
        out: folder.
        title: of the table.
        rows, tuned: from ``compare``.
        baseline: method that the paired differences are against.
        columns: numbers to show, the first one in the figure.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(out / "results.csv", index=False)
    lines = [f"# {title}", ""]
    for epsilon, mine in rows.groupby("epsilon", sort=False):
        head = [f"{c} | {c} against {baseline}" for c in columns]
        lines += [f"## epsilon {epsilon:g}", "", f"| method | {' | '.join(head)} | epsilon spent | setting |"]
        lines.append("|---" * (2 * len(columns) + 3) + "|")
        for name, own in mine.groupby("method", sort=False):
            cells = []
            for column in columns:
                values = own.sort_values("seed")[column].to_numpy()
                other = mine[mine.method == baseline].sort_values("seed")[column].to_numpy()
                cells += [f"{values.mean():.4f} ± {values.std(ddof=1):.4f}", _paired(values, other)]
            cells += [f"{own.spent.max():.3f}", own.setting.iloc[0]]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines.append(
        f"Mean ± standard deviation over {len(SEEDS)} seeds; differences: mean and paired 95 % t interval. "
        f"{len(rows) + len(tuned)} runs."
    )
    lines += ["", "## Tuning", "", "```", tuned.round(4).to_csv(index=False).strip(), "```"]
    (out / "results.md").write_text("\n".join(lines) + "\n")
    _figure(rows, columns[0], out / "figure.svg")


def _paired(one: np.ndarray, other: np.ndarray) -> str:
    difference = one - other
    if not np.abs(difference).any():
        return "-"
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    return f"{difference.mean():+.4f} [{difference.mean() - half:+.4f}, {difference.mean() + half:+.4f}]"


def _figure(rows: pd.DataFrame, column: str, path: Path) -> None:
    """Mean and standard deviation of one number per method and budget."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fedopt"
    import matplotlib.pyplot as plt

    panel, axis = plt.subplots(figsize=(6, 4))
    for name, own in rows.groupby("method", sort=False):
        band = own.groupby("epsilon")[column].agg(["mean", "std"])
        axis.errorbar(band.index, band["mean"], yerr=band["std"], marker="o", capsize=3, label=str(name))
    axis.set(xlabel="epsilon", ylabel=column, xticks=sorted(rows.epsilon.unique()))
    axis.legend()
    panel.tight_layout()
    panel.savefig(path, metadata={"Date": None})


def arguments(description: str | None, default: Path) -> tuple[Path, Path | None]:
    """``--out`` and ``--kept`` of a comparison."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=default, help="folder of table and figure")
    parser.add_argument("--kept", type=Path, help="file of single runs; give it again to go on after an interruption")
    found = parser.parse_args()
    return found.out, found.kept
