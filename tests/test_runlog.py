"""The run log: typed tables that survive a kill at any moment."""

import json
import math
import os
import resource
import signal
import sys
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from fedopt import schemas
from fedopt.runlog import (
    RunLog,
    RunLogError,
    check_writable,
    read_clients,
    read_rounds,
    read_summary,
    read_updates,
    run_state,
)
from fedopt.runlog import files as runlog_files

STEPS, EVERY = 9, 3
SUMMARY = {"name": "toy", "status": "finished", "reason": "done", "steps": STEPS, "time_s": 9.0, "wall_s": 1.0}
CLIENTS = [{"client_id": c, "num_examples": 10 + c, "class_counts": [c, 10]} for c in range(4)]


@pytest.fixture
def opened():
    """Makes logs and closes them at the end of the test."""
    with ExitStack() as stack:
        yield lambda directory: stack.enter_context(RunLog(directory))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A kill does not need fsync (only a power failure does), and shared disks make it slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def round_row(step: int, wall_s: float = 0.0) -> dict:
    return {
        "step": step,
        "phase": "train",
        "time_s": step * 0.5,
        "wall_s": wall_s,
        "participants": 2,
        "lost": step % 2,
        "uplink_bytes": 100 * step,
        "downlink_bytes": 200 * step,
        "train_loss": math.nan if step == 2 else math.inf if step == 3 else 1.0 / step,
        "metric_name": "accuracy",
        "metric_value": 0.1 * step if step % 2 else None,
    }


def update_row(step: int, client: int, status: str = "admitted") -> dict:
    return {
        "client_id": client,
        "version": step - 1,
        "step": step,
        "phase": "train",
        "staleness": 0,
        "dispatched_s": step - 1.0,
        "arrived_s": None if status == "lost" else step * 1.0,
        "local_steps": 5,
        "num_examples": 10 + client,
        "status": status,
        "weight": 1.0,
        "uplink_bytes": 100,
        "downlink_bytes": 200,
    }


def simulate(directory) -> None:
    """A toy run with checkpoints: it continues wherever an earlier one was killed."""
    if run_state(directory) == "finished":
        return
    with RunLog(directory) as log:
        _simulate(log, directory, directory / "checkpoint.json")


def _simulate(log, directory, checkpoint) -> None:
    step = 0
    if run_state(directory) == "absent":
        log.start({"name": "toy", "seed": 1})
    elif not checkpoint.exists():
        log.resume(0, 0)
    else:
        step, rows = json.loads(checkpoint.read_text())
        log.resume(step, rows)
    while step < STEPS:
        step += 1
        for client in range(step % 3 + 1):
            log.add_update(update_row(step, client, "lost" if client == 2 else "admitted"))
        if step % 2:
            log.flush()
        log.add_round(round_row(step, wall_s=float(os.getpid())))
        if step % EVERY == 0:
            position = log.position()
            runlog_files.write_atomically(checkpoint, json.dumps(position))
    log.finish(SUMMARY, CLIENTS, {"test_loss": 0.25})


def tables(directory) -> list[pa.Table]:
    return [read_rounds(directory).drop_columns("wall_s"), read_updates(directory), read_clients(directory)]


def same(left: list[pa.Table], right: list[pa.Table]) -> bool:
    """Equal tables, NaN counted as equal to NaN."""
    return [t.schema for t in left] == [t.schema for t in right] and str([t.to_pylist() for t in left]) == str(
        [t.to_pylist() for t in right]
    )


def run_until(directory, operation: int) -> int:
    """Run the toy in a child that kills itself at its n-th file operation; half a record may be written by then."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = operation

    def counting(function):
        def wrapped(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    def append(self, record):
        nonlocal left
        left -= 1
        if left == 0:
            os.write(self._handle.fileno(), record[: len(record) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        plain_append(self, record)

    plain_append = runlog_files.AppendFile.append
    runlog_files.AppendFile.append = append
    os.replace, os.fsync, os.unlink = counting(os.replace), counting(os.fsync), counting(os.unlink)
    try:
        simulate(directory)
        os._exit(0)
    except BaseException as error:
        print(error, file=sys.stderr)
        os._exit(1)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_file_operations_and_resumed_gives_the_same_tables(tmp_path, stride):
    """Every third operation in the quick suite, every one in the slow suite."""
    simulate(tmp_path / "whole")
    expected = tables(tmp_path / "whole")
    operation, unfinished_conversions = 1 - stride, 0
    while True:
        operation += stride
        directory = tmp_path / f"killed{operation}"
        directory.mkdir()
        code = run_until(directory, operation)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        if run_state(directory) == "running":
            assert read_summary(directory)["status"] == "running"
            read_rounds(directory), read_updates(directory), read_clients(directory)
            unfinished_conversions += (directory / "rounds.parquet").exists()
        simulate(directory)
        assert same(tables(directory), expected), f"killed at operation {operation}"
        assert read_summary(directory)["status"] == "finished"
    assert operation > 40 and unfinished_conversions > 1


def test_tables_round_trip_with_nan_infinity_and_empty(tmp_path, opened):
    log = opened(tmp_path)
    log.start()
    for step in (1, 2, 3):
        log.add_round(round_row(step))
    running = read_rounds(tmp_path)["train_loss"].to_pylist()
    log.finish(SUMMARY)
    finished = read_rounds(tmp_path)
    assert finished.schema.equals(schemas.ROUNDS, check_metadata=True)
    for losses in (running, finished["train_loss"].to_pylist()):
        assert losses[0] == 1.0 and math.isnan(losses[1]) and losses[2] == math.inf
    assert finished["metric_value"].to_pylist() == [0.1, None, pytest.approx(0.3)]
    csv = pa.csv.read_csv(tmp_path / "rounds.csv")
    assert csv.column_names == [c.name for c in schemas.ROUND_COLUMNS]
    assert csv["uplink_bytes"].to_pylist() == [100, 200, 300]
    assert not (tmp_path / "rounds.jsonl").exists() and not (tmp_path / "updates.arrow").exists()


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_torn_files_keep_every_complete_row(tmp_path, keep, opened):
    log = opened(tmp_path)
    log.start()
    for step in range(1, 101):
        log.add_update(update_row(step, 0))
        log.flush()
        log.add_round(round_row(step))
    log.close()
    for name in ("rounds.jsonl", "updates.arrow"):
        path = tmp_path / name
        os.truncate(path, int(path.stat().st_size * keep))
    for table in (read_rounds(tmp_path), read_updates(tmp_path)):
        steps = table["step"].to_pylist()
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= 100 * keep - 15


def test_rows_reach_the_file_at_once_and_updates_in_batches(tmp_path, opened):
    log = opened(tmp_path)
    log.start()
    log.add_update(update_row(1, 0))
    log.add_round(round_row(1))
    assert read_rounds(tmp_path).num_rows == 1 and read_updates(tmp_path).num_rows == 0
    assert log.position() == (1, 1)
    assert read_updates(tmp_path).num_rows == 1


def test_resume_extends_a_finished_run(tmp_path, opened):
    simulate(tmp_path / "run")
    rows = read_updates(tmp_path / "run").num_rows
    log = opened(tmp_path / "run")
    log.resume(STEPS, rows)
    assert run_state(tmp_path / "run") == "running"
    log.add_update(update_row(STEPS + 1, 1))
    log.add_round(round_row(STEPS + 1))
    log.finish(SUMMARY)
    assert read_rounds(tmp_path / "run").num_rows == STEPS + 1
    assert read_updates(tmp_path / "run").num_rows == rows + 1


def test_resume_refuses_a_checkpoint_the_log_has_not_reached(tmp_path, opened):
    log = opened(tmp_path)
    log.start()
    log.add_round(round_row(1))
    log.close()
    with pytest.raises(RunLogError, match="ends at step 1 but the checkpoint is of step 4"):
        RunLog(tmp_path).resume(4, 0)
    with pytest.raises(RunLogError, match="holds 0 updates but the checkpoint was made after 7"):
        RunLog(tmp_path).resume(1, 7)
    assert read_rounds(tmp_path).num_rows == 1


def test_start_refuses_an_existing_run(tmp_path):
    simulate(tmp_path)
    with pytest.raises(RunLogError, match="already holds a finished run; resume it"):
        RunLog(tmp_path).start()
    with pytest.raises(RunLogError, match="holds no run"):
        read_rounds(tmp_path / "nowhere")


def test_clients_are_counted_from_updates(tmp_path, opened):
    log = opened(tmp_path)
    log.start()
    for step, client, status in [
        (1, 0, "admitted"),
        (1, 1, "lost"),
        (2, 1, "held"),
        (2, 1, "admitted"),
        (3, 0, "failed"),
    ]:
        log.add_update(update_row(step, client, status))
    log.flush()
    while_running = read_clients(tmp_path).to_pylist()
    log.finish(SUMMARY, [{"client_id": 7, "num_examples": 3, "local_metric": 0.5}])
    rows = {row["client_id"]: row for row in read_clients(tmp_path).to_pylist()}
    counts = {c: tuple(rows[c][k] for k in ("dispatches", "participations", "losses")) for c in rows}
    assert counts == {0: (2, 1, 1), 1: (2, 1, 1), 7: (0, 0, 0)}
    assert [row["client_id"] for row in while_running] == [0, 1]
    assert rows[7]["num_examples"] == 3 and rows[0]["num_examples"] == 10


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"step": 1, "accuracy": 0.1}, "unknown columns accuracy"),
        ({**round_row(1), "phase": None}, "column phase needs a value"),
        ({**round_row(1), "lost": 0.5}, "column lost takes int64, got 0.5"),
        ({**round_row(1), "time_s": "1"}, "column time_s takes double, got '1'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, row, message, opened):
    log = opened(tmp_path)
    log.start()
    with pytest.raises(ValueError, match=message):
        log.add_round(row)
    with pytest.raises(ValueError, match="status must be one of admitted"):
        log.add_update(update_row(1, 0, "vanished"))
    with pytest.raises(ValueError, match=r"unknown keys of summary\.json: accuracy"):
        log.write_summary({"status": "finished", "accuracy": 1})


def test_a_full_disk_keeps_finished_rows(tmp_path, opened):
    """A file-size limit makes writes fail half-way, as a full disk does."""
    log = opened(tmp_path)
    log.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(
            RunLogError, match=r"cannot write .*rounds.jsonl: .* is kept: continue with --resume"
        ) as info:
            for step in range(1, 100):
                log.add_round(round_row(step))
        with pytest.raises(RunLogError, match="not open"):
            log.add_round(round_row(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = read_rounds(tmp_path).num_rows
    assert kept > 5 and f"up to step {kept} is kept" in str(info.value)
    assert (tmp_path / "rounds.jsonl").read_bytes().endswith(b"}\n")
    opened(tmp_path).resume(kept, 0)


def test_a_full_disk_during_the_conversion_keeps_the_running_files(tmp_path, monkeypatch, opened):
    log = opened(tmp_path)
    log.start()
    log.add_round(round_row(1))

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetWriter", no_space)
        with pytest.raises(RunLogError, match=r"updates.parquet: the disk is full; free some space"):
            log.finish(SUMMARY)
    assert run_state(tmp_path) == "running"
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]
    log.finish(SUMMARY)
    assert run_state(tmp_path) == "finished"


def test_closing_columns_join_the_last_row_of_the_final_tables_only(tmp_path, opened):
    log = opened(tmp_path)
    log.start()
    for step in (1, 2):
        log.add_round(round_row(step))
    log.position()
    running = (tmp_path / "rounds.jsonl").read_bytes()
    with pytest.raises(ValueError, match="unknown columns accuracy"):
        log.finish(SUMMARY, closing={"accuracy": 0.5})
    assert run_state(tmp_path) == "running" and (tmp_path / "rounds.jsonl").read_bytes() == running
    log.finish(SUMMARY, closing={"metric_value": 0.5, "test_loss": math.nan})
    first, last = read_rounds(tmp_path).to_pylist()
    assert (first["metric_value"], first["test_loss"]) == (0.1, None)
    assert last["metric_value"] == 0.5 and math.isnan(last["test_loss"]) and last["uplink_bytes"] == 200
    assert read_rounds(tmp_path).schema.equals(schemas.ROUNDS, check_metadata=True)
    assert (tmp_path / "rounds.csv").read_text().count("0.5") >= 1


def test_closing_columns_of_a_run_without_steps_have_no_row(tmp_path, opened):
    log = opened(tmp_path)
    log.start()
    log.finish(SUMMARY, closing={"metric_value": 0.5})
    assert read_rounds(tmp_path).num_rows == 0


def test_check_writable(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b", 1000)
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(RunLogError, match="part of the path is a file"):
        check_writable(tmp_path / "file" / "run")
    with pytest.raises(RunLogError, match=r"MB free but the run needs about 1000000000000.0 MB"):
        check_writable(tmp_path, 10**18)


def test_marks_travel_with_the_files(tmp_path):
    simulate(tmp_path)
    schema = pq.read_schema(tmp_path / "rounds.parquet")
    assert set(schemas.simulator_only(schema)) == {
        "train_loss", "test_loss", "metric_value", "test_accuracy", "clip_fraction", "update_norm",
    }  # fmt: skip
    assert schema.field("epsilon").metadata[b"description"].startswith(b"Privacy spent")
    assert schema.metadata[b"fedopt_schema_version"] == str(schemas.SCHEMA_VERSION).encode()


def test_many_updates_stream_into_fixed_row_groups(tmp_path, monkeypatch, opened):
    monkeypatch.setattr("fedopt.runlog.writer.ROW_GROUP_ROWS", 100)
    log = opened(tmp_path)
    log.start()
    for step in range(1, 251):
        log.add_update(update_row(step, step % 7))
        if step % 33 == 0:
            log.flush()
    log.finish(SUMMARY)
    file = pq.ParquetFile(tmp_path / "updates.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)] == [100, 100, 50]
    assert read_updates(tmp_path)["step"].to_pylist() == list(range(1, 251))
