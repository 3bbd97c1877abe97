"""Does FedFix beat FedAvg and asynchronous FedAvg at equal time? Tuned fairly, five fresh seeds, paired intervals.

    python scenarios/papers/fedfix/compare.py [--out DIR]

Every method gets a grid of seven learning rates, chosen with three tuning seeds on a validation half of the test set;
then five fresh seeds are judged on the other half. What counts is the mean over the last tenth of the time: a single
step of FedFix or FedBuff leans towards the clients that were in it. Writes results.csv, results.md and figure.svg.
Started again, it goes on after the last finished pair of ladder and method.
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
TUNING_SEEDS, SEEDS = (1000, 1001, 1002), (0, 1, 2, 3, 4)
HORIZON_S, WINDOW_S = 40.0, 4.0  # the first as in base.yaml
EVALUATE_EVERY = {"Async": 10}  # steps; the others are evaluated after each


def halves(data: FederatedData) -> tuple[FederatedData, FederatedData]:
    """The data with the first (validation) and the second (report) half of a shuffled test set."""
    order = np.random.default_rng(0).permutation(len(data.test))
    parts = np.array_split(order, 2)
    made = [replace(data, test=Examples(data.test.inputs[p], data.test.targets[p]), client_tests=None) for p in parts]
    return made[0], made[1]


def one_run(method: str, ladder: int, lr: float, seed: int, data: FederatedData, out: Path) -> pd.DataFrame:
    """Test loss and accuracy of one run on ``data.test``: the last of every half second, and the window's mean."""
    scenario = fedopt.load(
        HERE / "base.yaml",
        {
            "aggregator": METHODS[method],
            "devices.compute.slowdown_percent": ladder,
            "client.lr": lr,
            "seed": seed,
            "run.evaluate_every": EVALUATE_EVERY.get(method, 1),
        },
    )
    run = fedopt.simulate(scenario, out=out, data=data)
    found = run.rounds.dropna(subset=["test_loss"])[["time_s", "test_loss", "test_accuracy"]]
    window = found[found.time_s > HORIZON_S - WINDOW_S]
    judged = {"test_loss": window.test_loss.mean(), "test_accuracy": window.test_accuracy.mean()}
    if run.summary["status"] == "diverged":
        judged = {"test_loss": np.inf, "test_accuracy": 0.0}
    curve = found.groupby((found.time_s * 2).round(6).apply(np.ceil)).last().assign(part="curve")
    rows = pd.concat([curve, pd.DataFrame([{"time_s": HORIZON_S, **judged, "part": "window"}])])
    return rows.assign(method=method, ladder=ladder, lr=lr, seed=seed).round(6)


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
                judged = curves[-1][curves[-1].part == "window"]
                print(name, method, "lr", tuned[-1]["lr"], "loss", round(judged.test_loss.mean(), 4), flush=True)
    rows = pd.concat(curves)
    rows.to_csv(out / "results.csv", index=False)
    (out / "results.md").write_text(report(rows, pd.DataFrame(tuned)))
    figure(rows, out / "figure.svg")


@functools.lru_cache(maxsize=len(TUNING_SEEDS) + len(SEEDS))
def _data(seed: int) -> FederatedData:
    return fedopt.load(HERE / "base.yaml").data.load(seed)


def tune(method: str, ladder: int, out: Path) -> tuple[float, dict[str, float]]:
    """Learning rate with the lowest validation loss in the window, mean over the tuning seeds."""
    losses = {}
    for lr in LEARNING_RATES[method]:
        runs = [one_run(method, ladder, lr, seed, halves(_data(seed))[0], out) for seed in TUNING_SEEDS]
        losses[lr] = float(np.mean([run[run.part == "window"].test_loss.iloc[0] for run in runs]))
    best = min(losses, key=lambda lr: losses[lr])
    return best, {f"loss@{lr:g}": round(loss, 4) for lr, loss in losses.items()}


def report(rows: pd.DataFrame, tuned: pd.DataFrame) -> str:
    """Loss and accuracy in the window per method, and paired differences against FedAvg and Async."""
    final = rows[rows.part == "window"]
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
    lines += [f"Test loss and accuracy are means over the last {WINDOW_S:g} of {HORIZON_S:g} s, then mean ± standard"]
    lines += ["deviation over five seeds; differences: mean and paired 95 % t interval (five seeds).", ""]
    lines += [
        "## Tuning (validation loss by learning rate, mean of three seeds)",
        "",
        "| ladder | method | losses |",
        "|---|---|---|",
    ]
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
            mine = rows[(rows.ladder == ladder) & (rows.method == method) & (rows.part == "curve")].copy()
            mine["time_s"] = mine.time_s.round(6)
            band = mine.groupby("time_s").test_loss.agg(["mean", "std"])
            axis.plot(band.index, band["mean"], label=method)
            half = 2.776 * band["std"] / np.sqrt(len(SEEDS))  # 95 % t interval of five seeds
            axis.fill_between(band.index, band["mean"] - half, band["mean"] + half, alpha=0.15)
        axis.set(title=name, xlabel="virtual time (slowest task = 1)", ylim=(0.7, 2.5))
    axes[0].set(ylabel="test loss")
    axes[1].legend()
    panels.tight_layout()
    panels.savefig(path)
    plt.close(panels)


if __name__ == "__main__":
    main()
