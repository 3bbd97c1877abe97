"""A run as TensorBoard event files: every numeric column of the rounds as a scalar. Needs the package tensorboard."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

from fedopt.runlog import read_rounds, read_summary

_GROUPS = {
    "train_loss": "learning",
    "test_loss": "learning",
    "metric_value": "learning",
    "test_accuracy": "learning",
    "epsilon": "privacy",
    "clipping_norm": "privacy",
    "noise_multiplier": "privacy",
    "noise_std": "privacy",
    "clip_fraction": "privacy",
    "update_norm": "privacy",
    "uplink_bytes": "cost",
    "downlink_bytes": "cost",
    "queries": "cost",
    "time_s": "cost",
    "participants": "schedule",
    "lost": "schedule",
    "staleness_mean": "schedule",
    "staleness_max": "schedule",
    "buffer_size": "schedule",
}


def export_tensorboard(run_directory: Path, folder: Path) -> int:
    """Write one event file into ``folder/<run id>``.

    The step is the server step; the wall time of an event is the start of the run plus its ``wall_s``.

    Returns:
        Number of scalars written.
    Raises:
        RuntimeError: tensorboard is not installed.
        RunLogError: the directory holds no run.
    """
    # The run first: a wrong folder is named even where the package is missing.
    rounds, summary = read_rounds(run_directory).to_pylist(), read_summary(run_directory)
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise RuntimeError(
            "the TensorBoard export needs the package tensorboard; install fedopt[tensorboard]"
        ) from error
    began = summary.get("started_at")
    start = datetime.fromisoformat(began).timestamp() if began else 0.0
    writer, written = EventFileWriter(str(folder / run_directory.name)), 0
    try:
        for row in rounds:
            values = [
                Summary.Value(tag=f"{group}/{name}", simple_value=float(row[name]))
                for name, group in _GROUPS.items()
                if row[name] is not None and math.isfinite(row[name])
            ]
            wall = start + (row["wall_s"] or 0.0)
            writer.add_event(Event(wall_time=wall, step=row["step"], summary=Summary(value=values)))
            written += len(values)
    finally:
        writer.close()
    return written
