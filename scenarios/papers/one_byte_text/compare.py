"""Accuracy against bytes: a small transformer on text by one-byte messages and by FedAvg.

    python scenarios/papers/one_byte_text/compare.py [--bytes-steps 400] [--fedavg-steps 100] [--seeds 3] [--out DIR]

The novels are fetched with apt-get if they are not found (data kind novels); --data names a folder instead. Runs that
are already in results.csv are not repeated. Writes results.csv, results.md and figure.svg.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import fedopt

HERE = Path(__file__).resolve().parent
GOALS = (0.20, 0.22, 0.24, 0.26, 0.28, 0.30)


def one_run(name: str, changes: dict[str, Any], seed: int) -> pd.DataFrame:
    """Evaluated rounds of one run, with the bytes of both directions and the values asked for."""
    scenario = fedopt.load(HERE / f"{name}.yaml", {**changes, "seed": seed})
    with tempfile.TemporaryDirectory() as scratch:
        run = fedopt.simulate(scenario, out=scratch)
        found = run.rounds.dropna(subset=["test_loss"])
        parameters = run.summary["num_parameters"]
    made = pd.DataFrame({"step": found.step, "uplink": found.uplink_bytes, "downlink": found.downlink_bytes})
    made = made.assign(bytes=made.uplink + made.downlink, queries=found.queries)
    made = made.assign(loss=found.test_loss, accuracy=found.test_accuracy)
    return made.assign(method=name, seed=seed, parameters=parameters, majority=majority(scenario))


def majority(scenario: fedopt.scenario.Scenario) -> float:
    """Accuracy of always guessing the training text's most frequent character."""
    data = scenario.data.load(scenario.seed)
    commonest = np.bincount(np.asarray(data.train.targets).ravel()).argmax()
    return float((np.asarray(data.test.targets) == commonest).mean())


def main() -> None:
    """Run what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes-steps", type=int, default=400)
    parser.add_argument("--fedavg-steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", help="folder of the novels, if it is not at its usual place")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "results.csv"
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame()
    steps = {"fedavg": asked.fedavg_steps, "one-byte": asked.bytes_steps}
    for seed in range(asked.seeds):
        for name, count in steps.items():
            if len(rows) and ((rows.method == name) & (rows.seed == seed)).any():
                continue
            changes = {"run.server_steps": count, **({"data.path": asked.data} if asked.data else {})}
            rows = pd.concat([rows, one_run(name, changes, seed)])
            rows.to_csv(path, index=False)
            print(name, seed, f"{rows.accuracy.iloc[-1]:.4f}", flush=True)
    (asked.out / "results.md").write_text(report(rows))
    figure(rows, asked.out / "figure.svg")


def report(rows: pd.DataFrame) -> str:
    """Where every method ends, and the bytes it takes to get somewhere."""
    seeds = rows.seed.nunique()
    lines = [f"# One-byte messages against FedAvg: all clients, both directions; seeds: {seeds}", ""]
    lines += [f"{rows.parameters.iloc[0]:,} parameters; always guessing the commonest character: "]
    lines[-1] += f"{rows.majority.mean():.4f}. Mean ± standard deviation."
    lines += [
        "",
        "| method | server steps | bytes up | bytes down | values asked for | accuracy | loss |",
        "|---" * 7 + "|",
    ]
    for method, mine in rows.groupby("method", sort=False):
        last = mine.groupby("seed").last()
        bytes_of = " | ".join(f"{last[way].mean():,.0f}" for way in ("uplink", "downlink", "queries"))
        lines.append(f"| {method} | {last.step.iloc[0]} | {bytes_of} | {spread(last.accuracy)} | {spread(last.loss)} |")
    lines += ["", "| bytes (server step) until accuracy | " + " | ".join(f"{goal:.2f}" for goal in GOALS) + " |"]
    lines += ["|---" * (len(GOALS) + 1) + "|"]
    for method, mine in rows.groupby("method", sort=False):
        cells = [reached(mine[mine.accuracy >= goal].groupby("seed").first(), seeds) for goal in GOALS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Medians over the seeds that get there; evaluations are some steps apart.", ""])


def spread(values: pd.Series) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def reached(there: pd.DataFrame, seeds: int) -> str:
    """Median bytes and step, and how many seeds got there if not all."""
    if there.empty:
        return "-"
    many = "" if len(there) == seeds else f", {len(there)} of {seeds} seeds"
    return f"{there.bytes.median():,.0f} ({there.step.median():.0f}{many})"


def figure(rows: pd.DataFrame, path: Path) -> None:
    """Accuracy against bytes, logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panel, axis = plt.subplots(figsize=(6, 4))
    for color, (method, mine) in zip(("C0", "C1"), rows.groupby("method", sort=False), strict=True):
        for number, (_, curve) in enumerate(mine.groupby("seed")):
            axis.plot(curve.bytes, curve.accuracy, color=color, label=method if number == 0 else None)
    axis.axhline(rows.majority.mean(), color="grey", linestyle=":", label="commonest character")
    axis.legend()
    axis.set(xscale="log", xlabel="bytes, all clients and both directions", ylabel="test accuracy (next character)")
    panel.tight_layout()
    panel.savefig(path)


if __name__ == "__main__":
    main()
