"""Accuracy against bytes: a small transformer on text by one-byte messages and by FedAvg.

    python scenarios/papers/one_byte_text/compare.py [--bytes-steps 200] [--fedavg-steps 20] [--seeds 3] [--out DIR]

Needs the novels (see data kind novels). Writes results.csv, results.md and figure.svg.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd

import fedopt

HERE = Path(__file__).resolve().parent


def one_run(name: str, steps: int, seed: int, data: str | None) -> pd.DataFrame:
    """Evaluated rounds of one run, with the bytes of both directions."""
    changes = {"run.server_steps": steps, "seed": seed, **({"data.path": data} if data else {})}
    with tempfile.TemporaryDirectory() as scratch:
        run = fedopt.simulate(fedopt.load(HERE / f"{name}.yaml", changes), out=scratch)
        found = run.rounds.dropna(subset=["test_loss"])
        parameters = run.summary["num_parameters"]
    total = found.uplink_bytes + found.downlink_bytes
    made = pd.DataFrame({"step": found.step, "bytes": total, "loss": found.test_loss, "accuracy": found.test_accuracy})
    return made.assign(method=name, seed=seed, parameters=parameters)


def main() -> None:
    """Run both, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes-steps", type=int, default=200)
    parser.add_argument("--fedavg-steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", help="folder of the novels, if it is not at its usual place")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    steps = {"one-byte": asked.bytes_steps, "fedavg": asked.fedavg_steps}
    tables = [one_run(name, count, seed, asked.data) for seed in range(asked.seeds) for name, count in steps.items()]
    rows = pd.concat(tables)
    rows.to_csv(asked.out / "results.csv", index=False)
    (asked.out / "results.md").write_text(report(rows))
    figure(rows, asked.out / "figure.svg")


def report(rows: pd.DataFrame) -> str:
    """Best accuracy and its bytes per method."""
    lines = ["# One-byte messages against FedAvg: accuracy and bytes, all clients and both directions", ""]
    lines += ["| method | server step | bytes | accuracy | loss |", "|---|---|---|---|---|"]
    for (method, step), mine in rows.groupby(["method", "step"], sort=False):
        cells = [f"{mine.bytes.mean():,.0f}", f"{mine.accuracy.mean():.4f}", f"{mine.loss.mean():.4f}"]
        lines.append(f"| {method} | {step} | " + " | ".join(cells) + " |")
    return "\n".join(
        [*lines, "", f"Means over {rows.seed.nunique()} seeds; {rows.parameters.iloc[0]:,} parameters.", ""]
    )


def figure(rows: pd.DataFrame, path: Path) -> None:
    """Accuracy against bytes, logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panel, axis = plt.subplots(figsize=(6, 4))
    for (method, _seed), mine in rows.groupby(["method", "seed"], sort=False):
        axis.plot(mine.bytes, mine.accuracy, color={"fedavg": "C0"}.get(method, "C1"), label=method)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(*zip(*dict(zip(labels, zip(handles, labels, strict=True), strict=True)).values(), strict=True))
    axis.set(xscale="log", xlabel="bytes, both directions", ylabel="test accuracy (next character)")
    panel.tight_layout()
    panel.savefig(path)


if __name__ == "__main__":
    main()
