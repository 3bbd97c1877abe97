"""Is FZooS ahead of four finite-difference baselines, per round and per query? The paper's quadratics, five seeds.

    python scenarios/papers/fzoos/compare.py [--rounds 50] [--features 10000] [--seeds 5] [--processes 2] [--out DIR]

Every method has the paper's optimiser (Adam, 0.01, new in every round), iterates projected to the cube, no safeguard.
Finite differences carry the factor d that the authors' program lacks. Runs already in results.csv are not repeated.
Writes results.csv, results.md and figure.svg. The options of FZooS against each other: options.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

import fedopt

HERE = Path(__file__).resolve().parent
HETEROGENEITY = (0.5, 5.0, 50.0)
TWO = {"kind": "gradient_correction", "exchanges": 2}
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "FedZO": ({"kind": "finite_difference", "method": "fedzo"}, {"kind": "fedavg"}),
    "FedProx-ZO": ({"kind": "finite_difference", "method": "fedprox"}, {"kind": "fedavg"}),
    "SCAFFOLD-ZO I": ({"kind": "finite_difference", "method": "scaffold1"}, {**TWO, "seed_bytes": 0}),
    "SCAFFOLD-ZO II": ({"kind": "finite_difference", "method": "scaffold2"}, {"kind": "scaffold"}),
    "FZooS 1/t": ({"kind": "fzoos"}, TWO),
    "FZooS gamma=1": ({"kind": "fzoos", "gamma": {"rule": "constant", "value": 1.0}}, TWO),
}
BASELINES = [method for method, (client, _) in METHODS.items() if client["kind"] != "fzoos"]
LOWEST = -1 / 40 + 1 / 3000
GOALS = (2.5, 1.0, 0.1, 0.0)


def one_run(job: tuple[str, float, int, int, int]) -> pd.DataFrame:
    """One row per round: F(x_r), and the queries and bytes of all clients up to then."""
    method, heterogeneity, seed, rounds, features = job
    client, aggregator = METHODS[method]
    if client["kind"] == "fzoos":
        client = {**client, "features": features}
    made = curve(client, aggregator, heterogeneity, seed, rounds)
    made = made.assign(method=method, heterogeneity=heterogeneity, seed=seed)
    return made.assign(features=features if client["kind"] == "fzoos" else 0)


def curve(
    client: dict[str, Any], aggregator: dict[str, Any], heterogeneity: float, seed: int, rounds: int
) -> pd.DataFrame:
    """Value, queries and uplink bytes after every round of a run; a round may be several server steps."""
    kinds = (aggregator, aggregator.get("inner", {}))
    steps = sum(a.get("kind") == "gradient_correction" for a in kinds) + sum(
        a["kind"] == "safeguard" for a in kinds[:1]
    )
    changes = {
        "data.heterogeneity": heterogeneity,
        "client": client,
        "aggregator": aggregator,
        "seed": seed,
        "run.server_steps": rounds * (1 + steps),
        "engine": {"device": "cpu", "threads": 1},
    }
    with tempfile.TemporaryDirectory() as scratch:
        table = fedopt.simulate(fedopt.load(HERE / "base.yaml", changes), out=scratch).rounds.iloc[steps :: 1 + steps]
        made = pd.DataFrame({"value": table.test_loss, "queries": table.queries, "uplink_bytes": table.uplink_bytes})
    return made.assign(round=np.arange(1, len(made) + 1))


def main() -> None:
    """Run what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--features", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "results.csv"
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame()
    jobs = missing(rows, asked.seeds, asked.rounds, asked.features)
    with multiprocessing.get_context("spawn").Pool(asked.processes) as pool:
        for table in pool.imap(one_run, jobs):
            rows = pd.concat([rows, table])
            rows.to_csv(path, index=False)
            last = table.iloc[-1]
            print(last.method, f"C={last.heterogeneity:g} seed {last.seed}: {last.value:.4f}", flush=True)
    (asked.out / "results.md").write_text(report(rows))
    figure(rows, asked.out / "figure.svg")


def missing(rows: pd.DataFrame, seeds: int, rounds: int, features: int) -> list[tuple[str, float, int, int, int]]:
    """Runs that are not in the table, all methods of a seed before the next seed."""
    done = set() if rows.empty else set(zip(rows.method, rows.heterogeneity, rows.seed, strict=True))
    return [
        (method, heterogeneity, seed, rounds, features)
        for seed in range(seeds)
        for heterogeneity in HETEROGENEITY
        for method in METHODS
        if (method, heterogeneity, seed) not in done
    ]


def report(rows: pd.DataFrame) -> str:
    """F per method at several rounds and at equal queries, with paired differences from FedZO and the best baseline."""
    last = int(rows["round"].max())
    marks = [r for r in (5, 10, 20, 30, 50) if r <= last]
    lines = ["# FZooS against four baselines: F(x_r), mean ± standard deviation over seeds", ""]
    for heterogeneity in HETEROGENEITY:
        mine = rows[rows.heterogeneity == heterogeneity]
        budget = int(mine.groupby("method").queries.max().min())
        heads = [f"r={r}" for r in marks]
        lines += [f"## C = {heterogeneity:g}", ""]
        best = min(BASELINES, key=lambda method: at(mine, method, round=last).mean())
        compared = list(dict.fromkeys(("FedZO", best)))
        heads += [f"minus {other} at r={last}" for other in compared]
        lines += ["| method | seeds | " + " | ".join(heads) + f" | F after {budget} queries |"]
        lines += ["|---" * (len(heads) + 3) + "|"]
        for method in METHODS:
            cells = [str(mine[mine.method == method].seed.nunique())]
            cells += [spread(at(mine, method, round=r)) for r in marks]
            spent = mine[(mine.method == method) & (mine.queries <= budget)].groupby("seed").value.last().to_numpy()
            cells += [paired(at(mine, method, round=last), at(mine, other, round=last)) for other in compared]
            cells.append(spread(spent))
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines += ["", *goals(mine), ""]
    lines += [f"The least value is {LOWEST:.4f}. Differences: mean and 95 % t interval, paired by seed.", ""]
    return "\n".join(lines)


def goals(rows: pd.DataFrame) -> list[str]:
    """Rounds and queries until F first falls to a goal: medians over seeds, and how many seeds got there."""
    lines = ["| rounds / thousand queries until | " + " | ".join(f"F <= {g:g}" for g in GOALS) + " |"]
    lines += ["|---" * (len(GOALS) + 1) + "|"]
    for method in METHODS:
        cells = []
        for goal in GOALS:
            mine = rows[rows.method == method]
            there, seeds = mine[mine.value <= goal].groupby("seed").first(), mine.seed.nunique()
            many = f" ({len(there)} of {seeds} seeds)" if len(there) < seeds else ""
            reached = f"{there['round'].median():.0f} / {there.queries.median() / 1000:.1f}{many}"
            cells.append(reached if len(there) else "-")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def at(rows: pd.DataFrame, method: str, round: int) -> pd.Series:
    """Values by seed."""
    return rows[(rows.method == method) & (rows["round"] == round)].set_index("seed").value


def spread(values: pd.Series | np.ndarray) -> str:
    """Mean and standard deviation."""
    if not len(values):
        return "-"
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else "")


def paired(one: pd.Series, other: pd.Series) -> str:
    """Mean difference over the seeds of both with a paired 95 % t interval."""
    difference = (one - other).dropna().to_numpy()
    if len(difference) < 2 or not difference.any():
        return "-"
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    return f"{difference.mean():+.4f} [{difference.mean() - half:+.4f}, {difference.mean() + half:+.4f}]"


def figure(rows: pd.DataFrame, path: Path) -> None:
    """F minus its minimum against rounds and against queries, one column per C."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels, axes = plt.subplots(2, 3, figsize=(12, 7), sharey="col")
    for column, heterogeneity in enumerate(HETEROGENEITY):
        for line, (along, unit, label) in enumerate((("round", 1, "round"), ("queries", 1000, "thousand queries"))):
            axis = axes[line][column]
            for method in METHODS:
                mine = rows[(rows.heterogeneity == heterogeneity) & (rows.method == method)]
                band = (mine.value - LOWEST).groupby(mine[along] / unit).agg(["mean", "min", "max"])
                axis.plot(band.index, band["mean"], label=method)
                axis.fill_between(band.index, band["min"], band["max"], alpha=0.15)
            axis.set(yscale="log", xlabel=label, title=f"C = {heterogeneity:g}" if line == 0 else "")
    axes[0][0].set(ylabel="F - min F")
    axes[1][0].set(ylabel="F - min F")
    axes[0][0].legend(fontsize="small")
    panels.tight_layout()
    panels.savefig(path)


if __name__ == "__main__":
    main()
