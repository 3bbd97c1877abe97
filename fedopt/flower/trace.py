"""Timings of a deployment: recorded as a trace that ``devices`` can replay, and compared with their replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedopt.runlog import write_atomically
from fedopt.scenario import Scenario, from_mapping

TRACE, REPLAY, PREDICTION = "trace.csv", "replay", "prediction.json"


class TraceWriter:
    """Writes ``trace.csv``: client, task, download_s, compute_s, upload_s of every reply, as it arrives.

    Args:
        directory: run directory.
        append: keep what is there (a resumed run).
    """

    def __init__(self, directory: Path, append: bool = False):
        path = directory / TRACE
        fresh = not (append and path.exists())
        self._file = path.open("w" if fresh else "a", encoding="utf-8")
        if fresh:
            self._write("client,task,download_s,compute_s,upload_s")

    def add(self, client: int, task: int, download_s: float, compute_s: float, upload_s: float) -> None:
        """One reply; seconds."""
        self._write(f"{client},{task},{download_s:.6f},{compute_s:.6f},{upload_s:.6f}")

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def replayed(scenario: Scenario, trace: Path) -> Scenario:
    """The scenario on devices that take the recorded times."""
    devices = {"kind": "trace", "path": str(trace)}
    return from_mapping({**scenario.resolved(), "devices": devices})


def replay(scenario: Scenario, directory: Path) -> None:
    """Simulate the scenario on the recorded times and write what was predicted next to what happened.

    Writes ``prediction.json`` and makes the report again. Nothing is written where nothing was recorded.
    """
    import tempfile

    import pandas as pd

    from fedopt.report import write_report
    from fedopt.runlog import read_rounds
    from fedopt.simulation.session import Session

    if len(pd.read_csv(directory / TRACE)) == 0:
        return
    again = replayed(scenario, directory / TRACE)
    with tempfile.TemporaryDirectory() as folder:
        Session(again, Path(folder) / "run", quiet=True).run()
        predicted = read_rounds(Path(folder) / "run").to_pylist()
    real = {row["step"]: row for row in read_rounds(directory).to_pylist()}
    rows = [_row(row, real[row["step"]]) for row in predicted if row["step"] in real]
    write_atomically(directory / PREDICTION, json.dumps({"rows": rows}, indent=1) + "\n")
    write_report(directory)


def _row(predicted: dict[str, Any], real: dict[str, Any]) -> dict[str, Any]:
    shown = real.get("metric_value") is not None  # withheld in private deployments
    return {
        "step": real["step"],
        "real_time_s": real["time_s"],
        "predicted_time_s": predicted["time_s"],
        "real_metric": real.get("metric_value"),
        "predicted_metric": predicted.get("metric_value") if shown else None,
    }
