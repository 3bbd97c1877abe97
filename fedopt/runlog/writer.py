"""Write a run directory so that killing the process at any moment loses nothing that was checkpointed.

While running, ``rounds.jsonl`` grows by one line per server step and ``updates.arrow`` (an Arrow IPC stream) by
record batches. ``finish`` writes the Parquet files beside them, each by atomic replacement, and then removes
``rounds.jsonl``: that one removal is the moment at which the run becomes finished.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fedopt import schemas
from fedopt.runlog import reader
from fedopt.runlog.files import AppendFile, RunLogError, replacing, sync_folder, write_atomically
from fedopt.runlog.rows import checked_row, finite, json_line

BATCH_ROWS = 4096
BATCH_SECONDS = 5.0
ROW_GROUP_ROWS = 65536


class Position(NamedTuple):
    """How far the log had come at a checkpoint; :meth:`RunLog.resume` returns there."""

    step: int
    update_rows: int


class RunLog:
    """Writer of one run directory.

    Use ``start`` for a new run or ``resume`` for one with a checkpoint, then ``add_round`` and ``add_update``, and
    ``finish`` at the end. Rows are checked against the schemas: an unknown column or a missing required value is a
    ``ValueError``.

    Args:
        directory: run directory, created if missing.

    Guarantees:
        - a row of ``add_round`` is with the operating system when the call returns;
        - rows up to ``position()`` survive a power failure;
        - after a failed write the files end with complete rows, and nothing more can be added.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        self._rounds: AppendFile | None = None
        self._updates: AppendFile | None = None
        self._pending: dict[str, list[Any]] = {column.name: [] for column in schemas.UPDATE_COLUMNS}
        self._last_step, self._update_rows, self._flushed = 0, 0, time.monotonic()

    def __enter__(self) -> RunLog:
        """The log itself; leaving the block closes the files, finished or not."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, info: Mapping[str, Any] | None = None) -> None:
        """Begin a new run.

        Args:
            info: keys of ``summary.json`` known at the start (name, seed, device ...), for readers of a killed run.
        Raises:
            RunLogError: the directory already holds a run, or cannot be written.
        """
        state = reader.run_state(self.directory)
        if state != "absent":
            raise RunLogError(f"{self.directory} already holds a {state} run; resume it or choose another folder")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunLogError(f"cannot create {self.directory}: {error.strerror}") from error
        if info is not None:
            self.write_summary({"status": "running", **info})
        self._open(iter(()), [])

    def resume(self, at_step: int, update_rows: int) -> None:
        """Go back to a checkpoint: forget rounds after ``at_step`` and updates after the first ``update_rows``.

        Works on a killed run, on one killed within ``finish``, and on a finished one that is to be extended.

        Raises:
            RunLogError: the log holds less than the checkpoint says, or cannot be written.
        """
        rounds = [row for row in reader.read_rounds(self.directory).to_pylist() if row["step"] <= at_step]
        reached = rounds[-1]["step"] if rounds else 0
        if reached < at_step:
            raise RunLogError(f"{self.directory} ends at step {reached} but the checkpoint is of step {at_step}")
        self._open(_first_rows(reader.update_batches(self.directory), update_rows, self.directory), rounds)
        self._last_step, self._update_rows = at_step, update_rows

    def _open(self, batches: Iterator[pa.RecordBatch], rounds: list[dict[str, Any]]) -> None:
        """Write both running files anew and keep them open. ``rounds.jsonl`` comes last: it marks an unfinished run."""
        updates_path, rounds_path = (self.directory / n for n in (reader.UPDATES_RUNNING, reader.ROUNDS_RUNNING))
        with replacing(updates_path) as temporary, temporary.open("wb") as handle:
            handle.write(schemas.UPDATES.serialize())
            for batch in batches:
                handle.write(batch.serialize())
        write_atomically(rounds_path, "".join(json_line(row) for row in rounds))
        self._rounds, self._updates = AppendFile(rounds_path, self._kept), AppendFile(updates_path, self._kept)

    def add_round(self, row: Mapping[str, Any]) -> None:
        """Append one server step.

        Args:
            row: column -> value; columns left out are empty. NaN and infinities are kept.
        Raises:
            ValueError: unknown column, missing required value, wrong type.
            RunLogError: the disk is full, or the log is closed.
        """
        checked = checked_row(row, schemas.ROUND_COLUMNS)
        self._append(self._rounds, json_line(checked).encode())
        self._last_step = checked["step"]
        if time.monotonic() - self._flushed > BATCH_SECONDS:
            self.flush()

    def add_update(self, row: Mapping[str, Any]) -> None:
        """Append one client reply or loss; written with the next batch.

        Raises:
            ValueError, RunLogError: as ``add_round``.
        """
        checked = checked_row(row, schemas.UPDATE_COLUMNS)
        if checked["status"] not in schemas.UPDATE_STATUSES:
            raise ValueError(f"status must be one of {', '.join(schemas.UPDATE_STATUSES)}, got {checked['status']!r}")
        for name, values in self._pending.items():
            values.append(checked[name])
        self._update_rows += 1
        if len(self._pending["step"]) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand the updates collected so far to the operating system as one record batch."""
        if self._pending["step"]:
            arrays = [pa.array(self._pending[field.name], field.type) for field in schemas.UPDATES]
            batch = pa.RecordBatch.from_arrays(arrays, schema=schemas.UPDATES)
            self._append(self._updates, batch.serialize())
            for values in self._pending.values():
                values.clear()
        self._flushed = time.monotonic()

    def position(self) -> Position:
        """Make everything so far durable and say how far it goes; call it when writing a checkpoint."""
        self.flush()
        for file in (self._rounds, self._updates):
            if file is None:
                raise RunLogError(f"the log of {self.directory} is not open; call start or resume first")
            file.sync()
        return Position(self._last_step, self._update_rows)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json`` atomically.

        Raises:
            ValueError: an unknown key or status; :data:`fedopt.schemas.SUMMARY_KEYS` lists them.
        """
        unknown = set(summary) - {key.name for key in schemas.SUMMARY_KEYS}
        if unknown:
            raise ValueError(f"unknown keys of summary.json: {', '.join(sorted(unknown))}")
        if summary.get("status") not in schemas.SUMMARY_STATUSES:
            raise ValueError(f"status must be one of {schemas.SUMMARY_STATUSES}, got {summary.get('status')!r}")
        content = {"schema_version": schemas.SCHEMA_VERSION, "run_id": self.directory.name, **finite(summary)}
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        write_atomically(self.directory / reader.SUMMARY, text)

    def finish(
        self,
        summary: Mapping[str, Any],
        clients: Sequence[Mapping[str, Any]] = (),
        closing: Mapping[str, Any] | None = None,
    ) -> None:
        """Turn the running files into Parquet and CSV and declare the run finished.

        May be killed and repeated: until its last moment the running files stay and stay true.

        Args:
            summary: content of ``summary.json``.
            clients: rows of the clients table; counts of participations are filled in from the updates.
            closing: columns of the last round known only now, such as those of a closing evaluation. They are written
                into the final tables; the running files stay as they are.
        Raises:
            ValueError: ``closing`` names an unknown column.
            RunLogError: something could not be written; the running files are kept.
        """
        self.position()
        rounds = _completed(reader.read_rounds(self.directory), closing or {})
        with replacing(self.directory / reader.ROUNDS) as temporary:
            pq.write_table(rounds, temporary)
        with replacing(self.directory / reader.ROUNDS_CSV) as temporary:
            pa.csv.write_csv(rounds, temporary)
        with replacing(self.directory / reader.UPDATES) as temporary:
            _write_updates(temporary, reader.update_batches(self.directory))
        rows = [checked_row(row, schemas.CLIENT_COLUMNS, counted=True) for row in clients]
        counted = ["client_id", "dispatched_s", "version", "num_examples", "status"]
        updates = pq.read_table(self.directory / reader.UPDATES, columns=counted)
        with replacing(self.directory / reader.CLIENTS) as temporary:
            pq.write_table(reader.clients_table(updates, rows), temporary)
        self.write_summary(summary)
        self.close()
        self._remove_running_files()

    def _remove_running_files(self) -> None:
        try:
            (self.directory / reader.ROUNDS_RUNNING).unlink()  # from here on the run is finished
            sync_folder(self.directory)
            (self.directory / reader.UPDATES_RUNNING).unlink(missing_ok=True)
        except OSError as error:
            raise RunLogError(f"cannot remove the running files of {self.directory}: {error.strerror}") from error

    def close(self) -> None:
        """Close the files without finishing; the run can be resumed."""
        for file in (self._rounds, self._updates):
            if file is not None:
                file.close()
        self._rounds = self._updates = None

    def _append(self, file: AppendFile | None, record: bytes) -> None:
        if file is None:
            raise RunLogError(f"the log of {self.directory} is not open; call start or resume first")
        try:
            file.append(record)
        except RunLogError:
            self.close()
            raise

    def _kept(self) -> str:
        return f"Everything up to step {self._last_step} is kept: continue with --resume once this is mended"


def _first_rows(batches: Iterable[pa.RecordBatch], count: int, directory: Path) -> Iterator[pa.RecordBatch]:
    left = count
    for batch in batches:
        if left == 0:
            return
        taken = batch.slice(0, min(left, batch.num_rows))
        left -= taken.num_rows
        yield taken
    if left:
        raise RunLogError(f"{directory} holds {count - left} updates but the checkpoint was made after {count}")


def _completed(rounds: pa.Table, closing: Mapping[str, Any]) -> pa.Table:
    """The rounds with these columns in the last row; a run without a step has none to write them to."""
    if not closing or rounds.num_rows == 0:
        return rounds
    last = checked_row({**rounds.slice(rounds.num_rows - 1).to_pylist()[0], **closing}, schemas.ROUND_COLUMNS)
    return pa.concat_tables([rounds.slice(0, rounds.num_rows - 1), pa.Table.from_pylist([last], schema=rounds.schema)])


def _write_updates(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Parquet with row groups that do not depend on when batches were flushed, a row group in memory at a time."""
    waiting: list[pa.RecordBatch] = []
    with pq.ParquetWriter(path, schemas.UPDATES) as writer:
        for batch in batches:
            waiting.append(batch)
            if sum(b.num_rows for b in waiting) >= ROW_GROUP_ROWS:
                table = pa.Table.from_batches(waiting).combine_chunks()
                whole = table.num_rows - table.num_rows % ROW_GROUP_ROWS
                writer.write_table(table.slice(0, whole), row_group_size=ROW_GROUP_ROWS)
                waiting = table.slice(whole).to_batches()
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, schema=schemas.UPDATES).combine_chunks())
