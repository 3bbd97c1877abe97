"""Read a run directory: finished, still running, or killed at any moment.

``rounds.jsonl`` decides. While it exists the run is unfinished and the running files are the truth, whatever a
conversion that was cut short has left beside them. Once it is gone, the Parquet files are complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedopt import schemas
from fedopt.runlog.files import RunLogError

ROUNDS_RUNNING, UPDATES_RUNNING = "rounds.jsonl", "updates.arrow"
ROUNDS, ROUNDS_CSV, UPDATES, CLIENTS = "rounds.parquet", "rounds.csv", "updates.parquet", "clients.parquet"
SUMMARY = "summary.json"

_TEXT = {column.name for column in schemas.ROUND_COLUMNS if column.type == pa.string()}

State = Literal["absent", "running", "finished"]


def run_state(directory: Path | str) -> State:
    """Whether a directory holds no run, an unfinished (running or killed) one, or a finished one."""
    directory = Path(directory)
    if (directory / ROUNDS_RUNNING).exists():
        return "running"
    return "finished" if (directory / ROUNDS).exists() else "absent"


def read_rounds(directory: Path | str) -> pa.Table:
    """The rounds of a run, one row per server step, with the schema ``schemas.ROUNDS``.

    Raises:
        RunLogError: the directory holds no run, or a complete line cannot be read.
    """
    directory = Path(directory)
    if _state(directory) == "finished":
        return _parquet(directory / ROUNDS)
    return pa.Table.from_pylist(read_running_rounds(directory), schema=schemas.ROUNDS)


def read_updates(directory: Path | str) -> pa.Table:
    """The updates of a run, one row per client reply or loss, with the schema ``schemas.UPDATES``.

    Of an unfinished run: all complete batches; a torn one at the end is left out.

    Raises:
        RunLogError: the directory holds no run.
    """
    directory = Path(directory)
    if _state(directory) == "finished":
        return _parquet(directory / UPDATES)
    return pa.Table.from_batches(list(update_batches(directory)), schema=schemas.UPDATES)


def read_clients(directory: Path | str) -> pa.Table:
    """The clients of a run, with the schema ``schemas.CLIENTS``.

    Of an unfinished run only what the updates tell: participations and numbers of examples.

    Raises:
        RunLogError: the directory holds no run.
    """
    directory = Path(directory)
    if _state(directory) == "finished":
        return _parquet(directory / CLIENTS)
    return clients_table(read_updates(directory), ())


def read_summary(directory: Path | str) -> dict[str, Any]:
    """``summary.json`` as a dictionary (keys: ``schemas.SUMMARY_KEYS``).

    Of an unfinished run the status is ``running`` and the numbers come from its last round.

    Raises:
        RunLogError: the directory holds no run, or the file is not JSON.
    """
    directory = Path(directory)
    path = directory / SUMMARY
    try:
        stored = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise RunLogError(f"{path} is not valid JSON: {error}") from error
    if _state(directory) == "finished":
        return stored
    return {**stored, **_unfinished(read_rounds(directory)), "name": stored.get("name", directory.parent.name)}


def read_running_rounds(directory: Path) -> list[dict[str, Any]]:
    """Rows of ``rounds.jsonl``; a last line without its newline was cut short and is left out."""
    path = directory / ROUNDS_RUNNING
    complete = path.read_bytes().split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(complete, start=1):
        try:
            rows.append(_decode(json.loads(line)))
        except ValueError as error:
            raise RunLogError(f"{path}:{number}: not a row of a run log: {error}") from error
    return rows


def update_batches(directory: Path) -> Iterator[pa.RecordBatch]:
    """Record batches of an unfinished or finished run, one at a time; a torn batch at the end is left out."""
    if run_state(directory) == "finished":
        yield from pq.ParquetFile(directory / UPDATES).iter_batches()
        return
    path = directory / UPDATES_RUNNING
    if not path.exists():
        raise RunLogError(f"{path} is missing although {ROUNDS_RUNNING} exists; it was deleted by hand, start anew")
    with path.open("rb") as handle:
        try:
            reader = pa.ipc.open_stream(handle)
        except (pa.ArrowInvalid, OSError):
            return  # killed before the header was complete
        while True:
            try:
                batch = reader.read_next_batch()
            except (StopIteration, pa.ArrowInvalid, OSError):
                return
            yield batch


def clients_table(updates: pa.Table, clients: tuple[dict[str, Any], ...] | list[dict[str, Any]]) -> pa.Table:
    """The clients table: what the updates count, joined with what is known of each client.

    Args:
        updates: table of updates.
        clients: one dictionary per client with ``client_id`` and any other column of ``schemas.CLIENTS``;
            counted columns are filled in where absent.
    Returns:
        One row per client that is in either, by ascending ``client_id``.
    """
    counted = _count(updates)
    known = {int(row["client_id"]): row for row in clients}
    rows = []
    for client in sorted(counted.keys() | known.keys()):
        zero = {"client_id": client, "dispatches": 0, "participations": 0, "losses": 0}
        rows.append({**zero, **counted.get(client, {}), **known.get(client, {})})
    return pa.Table.from_pylist(rows, schema=schemas.CLIENTS)


def _count(updates: pa.Table) -> dict[int, dict[str, Any]]:
    """Per client: tasks, replies used, tasks lost. A held reply has two rows but is one task.

    Where no time passes, several tasks of a client start at one moment from one version.
    """
    status = updates["status"]
    flags = updates.select(["client_id", "dispatched_s", "version", "num_examples"])
    flags = flags.append_column("used", pc.cast(pc.equal(status, "admitted"), pa.int64()))
    lost = pc.or_(pc.equal(status, "lost"), pc.equal(status, "failed"))
    flags = flags.append_column("lost", pc.cast(lost, pa.int64()))
    flags = flags.append_column("held", pc.cast(pc.equal(status, "held"), pa.int64()))
    per_start = flags.group_by(["client_id", "dispatched_s", "version"]).aggregate(
        [("used", "sum"), ("lost", "sum"), ("held", "sum"), ("held", "count"), ("num_examples", "max")]
    )
    held, rows = per_start["held_sum"], per_start["held_count"]
    per_start = per_start.append_column("tasks", pc.max_element_wise(held, pc.subtract(rows, held)))
    totals = per_start.group_by("client_id").aggregate(
        [("tasks", "sum"), ("used_sum", "sum"), ("lost_sum", "sum"), ("num_examples_max", "max")]
    )
    return {
        row["client_id"]: {
            "client_id": row["client_id"],
            "num_examples": row["num_examples_max_max"],
            "dispatches": row["tasks_sum"],
            "participations": row["used_sum_sum"],
            "losses": row["lost_sum_sum"],
        }
        for row in totals.to_pylist()
    }


def _unfinished(rounds: pa.Table) -> dict[str, Any]:
    """Summary of a run that has not ended, from its rounds."""
    found: dict[str, Any] = {
        "schema_version": schemas.SCHEMA_VERSION,
        "status": "running",
        "reason": "it is still running, or was killed and can be resumed",
        "steps": 0,
        "time_s": 0.0,
        "wall_s": 0.0,
    }
    rows = rounds.to_pylist()
    if not rows:
        return found
    last = rows[-1]
    found |= {"steps": last["step"], "time_s": last["time_s"], "wall_s": last["wall_s"] or 0.0}
    found |= {name: last[name] for name in ("uplink_bytes", "downlink_bytes", "queries", "epsilon", "delta")}
    evaluated = [row for row in rows if row["metric_value"] is not None]
    if evaluated:
        found |= {"metric_name": evaluated[-1]["metric_name"], "final_metric": evaluated[-1]["metric_value"]}
        found["final_test_loss"] = evaluated[-1]["test_loss"]
    return found


def _state(directory: Path) -> State:
    state = run_state(directory)
    if state == "absent":
        raise RunLogError(f"{directory} holds no run: neither {ROUNDS_RUNNING} nor {ROUNDS} is there")
    return state


def _parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise RunLogError(f"cannot read {path}: {error}") from error


def _decode(row: dict[str, Any]) -> dict[str, Any]:
    """Undo the spelling of NaN and infinities, which JSON has no numbers for."""
    for name, value in row.items():
        if name not in _TEXT and value in ("NaN", "Infinity", "-Infinity"):
            row[name] = float(value)
    return row
