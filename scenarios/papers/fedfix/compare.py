"""Does FedFix beat FedAvg and asynchronous FedAvg at equal time? Tuned fairly, five fresh seeds, paired intervals.

    python scenarios/papers/fedfix/compare.py [--out DIR]

Every method gets a grid of seven learning rates and one tuning seed, chosen on a validation half of the test set;
then five fresh seeds are judged on the other half. Writes results.csv, results.md and figure.svg. Started again, it goes
on after the last finished pair of ladder and method.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

import fedopt
from fedopt.data.base import Examples, FederatedData

HERE = Path(__file__).resolve().parent
METHODS: dict[str, dict[str, Any]] = {
    "FedAvg": {"kind": "fedavg"},
    "Async": {"kind": "async_fedavg", "weights": "unbiased"},
    "FedFix-0.2": {"kind": "fedfix", "server_step_s": 0.2},
    "FedFix-0.5": {"kind": "fedfix", "server_step_s": 0.5},
    "FedFix-0.8": {"kind": "fedfix", "server_step_s": 0.8},
    "FedBuff-5": {"kind": "fedbuff", "buffer_size": 5, "restart": "at_step", "staleness": {"kind": "constant"}},
}
LADDERS = {"F-0": 0, "F-80": 80}
# Seven values for each. Async moves the model by a whole update at every arrival, and so needs smaller ones.
LEARNING_RATES = {name: (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1) for name in METHODS}
LEARNING_RATES["Async"] = (0.000001, 0.000003, 0.00001, 0.00003, 0.0001, 0.0003, 0.001)
TUNING_SEED, SEEDS = 1000, (0, 1, 2, 3, 4)
HORIZON_S = 40.0  # as in base.yaml


def halves(data: FederatedData) -> tuple[FederatedData, FederatedData]:
    """The data with the first (validation) and the second (report) half of a shuffled test set."""
    order = np.random.default_rng(0).permutation(len(data.test))
    parts = np.array_split(order, 2)
    made = [replace(data, test=Examples(data.test.inputs[p], data.test.targets[p]), client_tests=None) for p in parts]
    return made[0], made[1]


def one_run(
    method: str, ladder: int, lr: float, seed: int, data: FederatedData, out: Path, curve: bool = True
) -> pd.DataFrame:
    """Rounds of one run, evaluated on ``data.test``."""
    scenario = fedopt.load(
        HERE / "base.yaml",
        {
            "aggregator": METHODS[method],
            "devices.compute.slowdown_percent": ladder,
            "client.lr": lr,
            "seed": seed,
            "run.evaluate_every": (200 if method == "Async" else 5) if curve else 10**6,
        },
    )
    run = fedopt.simulate(scenario, out=out, data=data)
    found = run.rounds.dropna(subset=["test_loss"])[["time_s", "test_loss", "test_accuracy"]]
    last = pd.DataFrame(
        [
            {
                "time_s": HORIZON_S,
                "test_loss": run.summary["final_test_loss"],
                "test_accuracy": run.summary["final_metric"],
            }
        ]
    )
    if run.summary["status"] == "diverged":
        last = last.assign(test_loss=np.inf, test_accuracy=0.0)
    return pd.concat([found, last]).assign(method=method, ladder=ladder, lr=lr, seed=seed)


def main() -> None:
    """Tune, run, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tuned, curves = [], []
    parts = out / "parts"  # a finished cell is not run again when the comparison is started anew
    parts.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, ladder in LADDERS.items():
            for method in METHODS:
                rows_file, choice_file = parts / f"{name}-{method}.csv", parts / f"{name}-{method}.json"
                if not choice_file.exists():
                    lr, table = tune(method, ladder, Path(scratch))
                    runs = [one_run(method, ladder, lr, s, halves(_data(s))[1], Path(scratch)) for s in SEEDS]
                    pd.concat(runs).to_csv(rows_file, index=False)
                    choice_file.write_text(json.dumps({"ladder": name, "method": method, "lr": lr, **table}))
                curves.append(pd.read_csv(rows_file))
                tuned.append(json.loads(choice_file.read_text()))
                accuracy = curves[-1].test_accuracy.iloc[-1]
                print(name, method, "lr", tuned[-1]["lr"], "accuracy", round(accuracy, 4), flush=True)
    rows = pd.concat(curves)
    rows.to_csv(out / "results.csv", index=False)
    (out / "results.md").write_text(report(rows, pd.DataFrame(tuned)))
    figure(rows, out / "figure.svg")


@functools.lru_cache(maxsize=1 + len(SEEDS))
def _data(seed: int) -> FederatedData:
    return fedopt.load(HERE / "base.yaml").data.load(seed)


def tune(method: str, ladder: int, out: Path) -> tuple[float, dict[str, float]]:
    """Learning rate with the lowest final validation loss on the tuning seed."""
    data = halves(_data(TUNING_SEED))[0]
    losses = {}
    for lr in LEARNING_RATES[method]:
        final = one_run(method, ladder, lr, TUNING_SEED, data, out, curve=False).test_loss.iloc[-1]
        losses[lr] = float(final) if np.isfinite(final) else float("inf")
    best = min(losses, key=lambda lr: losses[lr])
    return best, {f"loss@{lr:g}": round(loss, 4) for lr, loss in losses.items()}


def report(rows: pd.DataFrame, tuned: pd.DataFrame) -> str:
    """Final loss and accuracy per method, and paired differences against FedAvg and Async."""
    final = rows[rows.time_s == HORIZON_S].groupby(["ladder", "method", "seed"], sort=False).last().reset_index()
    lines = ["# FedFix against FedAvg, Async and FedBuff at equal time", ""]
    for name, ladder in LADDERS.items():
        lines += [f"## {name}", "", "| method | lr | test loss | accuracy | loss vs FedAvg | loss vs Async |"]
        lines += ["|---|---|---|---|---|---|"]
        mine = final[final.ladder == ladder]
        for method in METHODS:
            losses = mine[mine.method == method].sort_values("seed").test_loss.to_numpy()
            accuracy = mine[mine.method == method].test_accuracy.to_numpy()
            lr = tuned[(tuned.ladder == name) & (tuned.method == method)].lr.iloc[0]
            pairs = [
                _paired(losses, mine[mine.method == other].sort_values("seed").test_loss.to_numpy())
                for other in ("FedAvg", "Async")
            ]
            cells = [method, f"{lr:g}", _spread(losses), _spread(accuracy), *pairs]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["Mean ± standard deviation over five seeds; differences: mean and paired 95 % t interval (5 seeds).", ""]
    lines += ["## Tuning (validation loss by learning rate)", "", "| ladder | method | losses |", "|---|---|---|"]
    for _, row in tuned.iterrows():
        found = {float(name[5:]): row[name] for name in tuned if name.startswith("loss@") and not np.isnan(row[name])}
        cells = ", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in sorted(found.items()))
        lines.append(f"| {row.ladder} | {row.method} | {cells} |")
    return "\n".join(lines) + "\n"


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"


def _paired(one: np.ndarray, other: np.ndarray) -> str:
    difference = one - other
    if not np.abs(difference).any():
        return "-"
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    return f"{difference.mean():+.4f} [{difference.mean() - half:+.4f}, {difference.mean() + half:+.4f}]"


def figure(rows: pd.DataFrame, path: Path) -> None:
    """Test loss against virtual time, mean over seeds, one panel per ladder."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, (name, ladder) in zip(axes, LADDERS.items(), strict=True):
        for method in METHODS:
            mine = rows[(rows.ladder == ladder) & (rows.method == method)].copy()
            mine["time_s"] = mine.time_s.round(6)
            band = mine.groupby("time_s").test_loss.agg(["mean", "std"])
            axis.plot(band.index, band["mean"], label=method)
            half = 2.776 * band["std"] / np.sqrt(len(SEEDS))  # 95 % t interval of five seeds
            axis.fill_between(band.index, band["mean"] - half, band["mean"] + half, alpha=0.15)
        axis.set(title=name, xlabel="virtual time (slowest task = 1)", ylim=(0.8, 3.0))
    axes[0].set(ylabel="test loss")
    axes[1].legend()
    panels.tight_layout()
    panels.savefig(path)
    plt.close(panels)


if __name__ == "__main__":
    main()
