"""What the options of FZooS are worth on the paper's quadratics: one option changed at a time, three seeds.

    python scenarios/papers/fzoos/options.py [--rounds 20] [--features 1000] [--seeds 3] [--processes 2] [--out DIR]

Runs already in options.csv are not repeated. Writes options.csv and options.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path
from typing import Any

import pandas as pd
from compare import HERE, TWO, at, curve, paired, spread

HETEROGENEITY = (5.0, 50.0)
SAFE = {"kind": "safeguard", "inner": TWO}


def gamma(rule: str, **more: float) -> dict[str, Any]:
    """A client with this rule for the correction length."""
    return {"gamma": {"rule": rule, **more}}


# G of the bound is the mean squared dissimilarity of the clients' gradients at random points, 0.14 C^2 here.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults (gamma = 1/t)": ({}, TWO),
    "no correction (gamma = 0)": (gamma("constant", value=0.0), TWO),
    "gamma = 1": (gamma("constant", value=1.0), TWO),
    "gamma minimises the bound": (gamma("bound_minimiser"), TWO),
    "gamma of the oracle": (gamma("oracle"), TWO),
    "iterates not projected": ({"project": False}, TWO),
    "gamma = 1, not projected": ({**gamma("constant", value=1.0), "project": False}, TWO),
    "safeguard": ({}, SAFE),
    "gamma = 1, safeguard": (gamma("constant", value=1.0), SAFE),
    "candidates at random": ({"uncertainty": "random"}, TWO),
    "candidates by first partial": ({"uncertainty": "first_partial"}, TWO),
    "no active queries": ({"active_queries": 0, "global_active_queries": 0}, TWO),
    "one length scale, 1": ({"lengthscales": [1.0]}, TWO),
    "variant: reference": ({"variant": "reference"}, TWO),
    "variant: reference, safeguard": ({"variant": "reference"}, SAFE),
}


def one_run(job: tuple[str, float, int, int, int]) -> pd.DataFrame:
    """One row per round."""
    option, heterogeneity, seed, rounds, features = job
    changes, aggregator = OPTIONS[option]
    client = {"kind": "fzoos", "features": features, **changes}
    if changes.get("gamma", {}).get("rule") == "bound_minimiser":
        client["gamma"] = {**changes["gamma"], "heterogeneity": 0.14 * heterogeneity**2}
    made = curve(client, aggregator, heterogeneity, seed, rounds)
    return made.assign(method=option, heterogeneity=heterogeneity, seed=seed)


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "options.csv"
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame()
    done = set() if rows.empty else set(zip(rows.method, rows.heterogeneity, rows.seed, strict=True))
    jobs = [
        (option, heterogeneity, seed, asked.rounds, asked.features)
        for seed in range(asked.seeds)
        for heterogeneity in HETEROGENEITY
        for option in OPTIONS
        if (option, heterogeneity, seed) not in done
    ]
    with multiprocessing.get_context("spawn").Pool(asked.processes) as pool:
        for table in pool.imap(one_run, jobs):
            rows = pd.concat([rows, table])
            rows.to_csv(path, index=False)
            last = table.iloc[-1]
            print(last.method, f"C={last.heterogeneity:g} seed {last.seed}: {last.value:.4f}", flush=True)
    (asked.out / "options.md").write_text(report(rows, asked.features))


def report(rows: pd.DataFrame, features: int) -> str:
    """F after the last round and paired differences from the defaults."""
    seeds, last = rows.seed.nunique(), int(rows["round"].max())
    heads = [f"C = {c:g}: F | minus defaults | queries" for c in HETEROGENEITY]
    lines = [f"# Options of FZooS: F after {last} rounds, M = {features}, {seeds} seeds", ""]
    lines += ["| option | " + " | ".join(heads) + " |", "|---" * 7 + "|"]
    for option in OPTIONS:
        cells = []
        for heterogeneity in HETEROGENEITY:
            mine = rows[rows.heterogeneity == heterogeneity]
            values, base = at(mine, option, last), at(mine, "defaults (gamma = 1/t)", last)
            queries = int(mine[(mine.method == option)].queries.max())
            cells += [spread(values), paired(values, base), f"{queries:,}"]
        lines.append(f"| {option} | " + " | ".join(cells) + " |")
    lines += ["", "Mean ± standard deviation; differences: mean and paired 95 % t interval.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
