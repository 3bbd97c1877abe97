"""Executing, reusing, resuming and failing; tuning; verification: on real, tiny runs."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import fedopt
from fedopt.comparison.api import Comparison
from fedopt.comparison.expansion import Cell, PlannedRun
from fedopt.comparison.jobs import run_job
from fedopt.comparison.runs import execute
from fedopt.comparison.splits import split_data
from fedopt.runlog import RunLogError, read_summary, run_state
from fedopt.verify import table_differences, verify
from scenarios import mapping, small

BODY = mapping(run__server_steps=2, run__evaluate_clients="none")


def plan(name: str = "A", seed: int = 0, **changes: Any) -> PlannedRun:
    return PlannedRun(Cell("", name), seed, small(seed=seed, run__server_steps=2, name=name, **changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A comparison from Python: two methods, two seeds, one variant that cannot run; tuned with two trials each."""
    description = {
        "name": "c",
        "base": BODY,
        "variants": {"A": {}, "B": {"client.lr": 0.01}, "impossible": {"data.clients": 10**6}},
        "seeds": [0, 1],
        "tune": {"parameters": {"client.batch_size": [5, 20]}},
    }
    return fedopt.compare(description, out=tmp_path_factory.mktemp("out"))


def test_a_failing_run_is_reported_and_loses_nothing(made: Comparison) -> None:
    runs = made.runs.set_index(["variant", "seed"])
    assert made.failed == 2 and runs["status"].tolist() == ["finished"] * 4 + ["failed"] * 2
    assert "1000000" in runs.loc[("impossible", 0), "error"]
    assert runs.loc[("A", 0), "metric"] > runs.loc[("B", 0), "metric"]
    html = made.report.read_text()
    assert "2 of 6 runs failed: impossible, seed 0; impossible, seed 1." in html


def test_early_stops_and_runs_whose_replies_are_no_numbers(tmp_path: Path) -> None:
    base = mapping(run={"time_s": 12.0, "evaluate_every": 5, "evaluate_clients": "none"})
    variants: dict[str, Any] = {"stops": {}, "wild": {"client.lr": 1e38}}
    description = {"name": "c", "base": base, "variants": variants, "seeds": [0, 1]}
    made = fedopt.compare(description, out=tmp_path)
    runs, curves = made.runs.set_index(["variant", "seed"]), made.curves.set_index(["variant", "seed"])
    for seed in (0, 1):
        run, curve = runs.loc[("stops", seed)], curves.loc[("stops", seed)]
        last, summary = curve.iloc[-1], read_summary(made.directory / run["directory"])
        assert run["steps"] % 5, "it stopped between two evaluations"
        assert (last["step"], last["metric"], last["test_loss"]) == (run["steps"], run["metric"], run["test_loss"])
        assert summary["best_step"] in curve["step"].tolist() and summary["best_metric"] == curve["metric"].max()
    assert runs.loc["wild", "status"].tolist() == ["diverged"] * 2 and runs.loc["wild", "metric"].isna().all()
    assert runs.loc["wild", "error"].notna().all() and not made.cells.set_index("variant").loc["wild", "on_frontier"]
    assert made.tests["verdict"].tolist() == ["untested"]
    said = (made.directory / "compare.md").read_text()
    assert "2 of 4 runs diverged: wild, seed 0; wild, seed 1." in said and "| wild | 0 of 2 (2 diverged) |" in said
    again = fedopt.compare(description, out=tmp_path)
    assert again.runs["how"].tolist() == ["reused"] * 4


def test_the_users_own_failing_component_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(
        "from fedopt.aggregators.fedavg import FedAvg\n\n\nclass Broken(FedAvg):\n"
        "    def step(self, state, released, public):\n        raise KeyError('x')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    variants = {"own": {"aggregator": {"kind": "broken:Broken"}}}
    found = fedopt.compare({"name": "c", "base": BODY, "variants": variants, "seeds": [0]}, out=tmp_path, processes=1)
    (error,) = found.runs["error"]
    assert error.startswith(f"broken:Broken.step failed: KeyError: 'x' ({tmp_path / 'broken.py'}:6)")
    assert "Traceback" not in found.report.read_text()


def test_tuning_gives_every_method_the_same_trials_and_is_stated(made: Comparison) -> None:
    assert made.trials is not None
    tried = made.trials.groupby("variant", sort=False)
    assert tried.size().to_dict() == {"A": 2, "B": 2, "impossible": 2}
    for _, rows in list(tried)[:2]:
        assert rows["is_chosen"].sum() == 1
        assert rows.loc[rows["is_chosen"], "metric"].item() == rows["metric"].max()
    best = json.loads(made.trials.query("variant == 'A' and is_chosen")["values"].item())
    assert json.loads(made.runs["chosen"][0]) == best
    html = made.report.read_text()
    assert "got 2 trials with seed 1000 (every combination of client.batch_size in [5, 20])" in html
    assert "No trial of impossible ended with a finite metric" in html
    assert "Chosen at an end of the grid, so that a wider one may do better: A (client.batch_size = " in html


def test_repeating_reuses_finished_runs_and_adds_new_seeds(made: Comparison) -> None:
    body = {"name": "c", "base": BODY, "variants": {"A": {"client.batch_size": 5}, "B": {"client.lr": 0.01}}}
    first = fedopt.compare(body | {"seeds": [0]}, out=made.directory.parent)
    again = fedopt.compare(body | {"seeds": [0, 1]}, out=made.directory.parent)
    assert again.runs["how"].tolist()[0] == "reused" and again.runs["how"].tolist()[2] == "reused"
    assert again.runs["metric"][0] == first.runs["metric"][0]


def test_an_interrupt_ends_the_processes_and_their_runs_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(multiprocessing.active_children())

    def interrupted(futures: Any) -> Any:
        end = time.monotonic() + 60
        while len(list(tmp_path.glob("*/rounds.jsonl"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr("fedopt.comparison.runs.as_completed", interrupted)
    endless = small(run__server_steps=10**6, run__evaluate_clients="none")
    runs = [PlannedRun(Cell("", "A"), seed, endless.model_copy(update={"seed": seed})) for seed in (0, 1)]
    with pytest.raises(KeyboardInterrupt):
        execute(runs, tmp_path, processes=2)
    assert set(multiprocessing.active_children()) == before  # and this line was reached
    assert [run_state(d.parent) for d in tmp_path.glob("*/rounds.jsonl")] == ["running", "running"]


def test_an_unfinished_run_is_resumed_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedopt.simulation import session

    run = plan(run__checkpoint_every=1)
    whole = execute([run], tmp_path / "whole")[0]
    original = session.Session._finish

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session.Session, "_finish", killed)
    with pytest.raises(KeyboardInterrupt):
        execute([run], tmp_path / "cut")
    monkeypatch.setattr(session.Session, "_finish", original)
    resumed = execute([run], tmp_path / "cut")[0]
    assert (whole.how, resumed.how) == ("executed", "resumed")
    hashes = {fedopt.open_run(d.directory).summary["model_sha256"] for d in (whole, resumed)}
    assert len(hashes) == 1


def test_equal_runs_are_executed_once_and_keep_their_labels(tmp_path: Path) -> None:
    first = plan("A")
    twin = replace(first, cell=Cell("", "B"))
    done = execute([first, twin], tmp_path)
    assert [d.run.cell.variant for d in done] == ["A", "B"] and done[0].directory == done[1].directory
    assert len(list(tmp_path.iterdir())) == 1
    note = json.loads((done[0].directory / "comparison.json").read_text())
    assert note["key"] == first.key and note["split"] == "whole"


def test_ray_is_imported_late_and_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ray" not in sys.modules
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeError, match=r"install fedopt\[ray\]"):
        execute([plan()], tmp_path / "without", executor="ray")
    jobs: list[Any] = []  # Ray's calls as they are used; a reference is the number of a job

    def remote(job: Any) -> int:
        jobs.append(job)
        return len(jobs) - 1

    fake: Any = types.ModuleType("ray")
    fake.is_initialized = lambda: True
    fake.exceptions = types.SimpleNamespace(RayError=RuntimeError)
    fake.remote = lambda **_: lambda task: types.SimpleNamespace(remote=remote)
    fake.wait = lambda waiting, num_returns: (waiting[-1:], waiting[:-1])
    fake.get = lambda reference: run_job(jobs[reference])
    monkeypatch.setitem(sys.modules, "ray", fake)
    done = execute([plan(seed=0), plan(seed=1)], tmp_path / "with", executor="ray")
    assert [d.how for d in done] == ["executed"] * 2 and [d.run.seed for d in done] == [0, 1]


@pytest.mark.slow
def test_processes_give_the_same_runs_as_one(tmp_path: Path) -> None:
    runs = [plan(seed=0), plan(seed=1)]
    one, two = execute(runs, tmp_path / "one"), execute(runs, tmp_path / "two", processes=2)
    for a, b in zip(one, two, strict=True):
        assert b.how == "executed", b.error
        summaries = [fedopt.open_run(d.directory).summary for d in (a, b)]
        assert summaries[0]["model_sha256"] == summaries[1]["model_sha256"]


# ---- splits --------------------------------------------------------------------------------------------------------


def test_held_out_examples_are_nobodys_training_examples() -> None:
    data = small().data.load(0)
    split = split_data(data, "held_out:0.25")
    trained = {tuple(data.train.inputs[i].ravel()) for i in split.clients.indices}
    tested = {tuple(row.ravel()) for row in split.test.inputs}
    assert not trained & tested
    assert len(split.test) == pytest.approx(0.25 * len(data.train), abs=12)
    assert (split.clients.sizes() > 0).all()


def test_with_one_example_per_client_whole_clients_are_held_out() -> None:
    data = small(data__clients=len(small().data.load(0).train), data__partition={"kind": "iid"}).data.load(0)
    split = split_data(data, "held_out:0.2")
    assert split.clients.num_clients == data.clients.num_clients and (split.clients.sizes() == 1).all()
    assert len(split.test) == round(0.2 * data.clients.num_clients)
    trained = {tuple(data.train.inputs[i].ravel()) for i in split.clients.indices}
    duplicates = {tuple(row.ravel()) for row in split.test.inputs} & trained
    assert len(duplicates) == 0


def test_halves_of_the_test_set_are_all_of_it() -> None:
    data = small().data.load(0)
    halves = [split_data(data, name) for name in ("first_half", "second_half")]
    joined = np.concatenate([h.test.targets for h in halves])
    assert sorted(joined) == sorted(data.test.targets) and split_data(data, "whole") is data


# ---- verify --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenario = small(run__server_steps=4, run__checkpoint_every=3, run__keep_checkpoint=True)
    return fedopt.simulate(scenario, out=tmp_path_factory.mktemp("verify")).directory


def test_a_run_repeats_whole_and_from_its_last_checkpoint(finished: Path) -> None:
    assert verify(finished).repeats and verify(finished).compared == "all 4 server steps"
    assert (finished / "checkpoint.safetensors").exists() and verify(finished, last=True).repeats


def test_a_cohort_larger_than_a_block_repeats_too(tmp_path: Path) -> None:
    scenario = small(
        data__clients=60, sampling={"kind": "all"}, aggregator={"kind": "fedavg"}, engine={}, run__server_steps=2
    )
    directory = fedopt.simulate(scenario, out=tmp_path).directory
    assert "chunk: 256" in (directory / "scenario.yaml").read_text(), "recorded as chosen, and not as the block"
    assert verify(directory).differences == ()


def test_one_changed_bit_is_found_and_explained(finished: Path) -> None:
    import pyarrow.parquet as parquet

    path, original = finished / "rounds.parquet", (finished / "rounds.parquet").read_bytes()
    table = parquet.read_table(path)
    values = table["time_s"].to_pylist()
    values[2] = float(np.nextafter(values[2], 9e9))
    try:
        position = table.column_names.index("time_s")
        parquet.write_table(table.set_column(position, table.schema.field("time_s"), pa.array(values)), path)
        verdict = verify(finished)
    finally:
        path.write_bytes(original)
    assert not verdict.repeats and len(verdict.differences) == 1
    assert verdict.differences[0].startswith("rounds: time_s differs in 1 of 4 rows, first at step 3: ")
    assert "nothing that was recorded differs" in verdict.reasons[0]


def test_verify_refuses_what_it_cannot_start_from(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunLogError, match="holds no finished run"):
        verify(tmp_path)
    kept = finished / "checkpoint.safetensors"
    kept.rename(tmp_path / "away")
    try:
        with pytest.raises(RunLogError, match="kept no checkpoint to start from"):
            verify(finished, last=True)
    finally:
        (tmp_path / "away").rename(kept)


def test_tables_are_compared_by_bits() -> None:
    first = pa.table({"step": [0, 1, 2], "x": [0.0, float("nan"), None], "wall_s": [1.0, 2.0, 3.0]})
    same = pa.table({"step": [0, 1, 2], "x": [0.0, float("nan"), None], "wall_s": [9.0, 9.0, 9.0]})
    other = pa.table({"step": [0, 1, 2], "x": [-0.0, float("nan"), 1.0], "wall_s": [1.0, 2.0, 3.0]})
    assert table_differences("t", first, same) == []
    assert table_differences("t", first, other) == ["t: x differs in 2 of 3 rows, first at step 0: 0.0, now -0.0"]
    assert "3 rows were recorded, now there are 2" in table_differences("t", first, first.slice(0, 2))[0]


# ---- other tools ---------------------------------------------------------------------------------------------------


def test_tensorboard_reads_what_we_export(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    from fedopt.event_files import export_tensorboard

    written = export_tensorboard(finished, tmp_path)
    (file,) = (tmp_path / finished.name).iterdir()
    events = [event for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
    read = {(e.step, v.tag): v.tensor.float_val[0] for e in events for v in e.summary.value}
    rounds = fedopt.open_run(finished).rounds
    assert len(read) == written and read[4, "learning/test_loss"] == np.float32(rounds["test_loss"].iloc[-1])


def test_run_job_reports_instead_of_raising(tmp_path: Path) -> None:
    from fedopt.comparison.runs import Job

    how, _, error, trace = run_job(Job({"data": 1}, str(tmp_path), "whole", None))
    assert how == "failed" and "ConfigurationError" in error and "Traceback" in trace


# ---- batches -------------------------------------------------------------------------------------------------------


def test_batches_hold_runs_of_one_kind_and_give_every_process_work() -> None:
    from fedopt.comparison.batches import batches
    from fedopt.comparison.jobs import Job

    def job(seed: int, **changes: Any) -> Job:
        return Job(small(seed=seed, **changes).resolved(), f"run{seed}", "whole", None)

    one = [job(seed) for seed in range(5)]
    other = [job(seed, model={"kind": "mlp", "hidden": [3]}) for seed in range(3)]
    jobs = [*one, *other, job(0, model={"kind": "mlp", "hidden": [4]})]
    assert batches(jobs, 2, "always", lambda asked: []) == [[0, 1, 2, 3, 4], [5, 6, 7], [8]]
    assert batches(one, 2, "always", lambda asked: []) == [[0, 1], [2, 3, 4]]
    assert batches(jobs, 2, "never", lambda asked: []) == [[i] for i in range(9)]
    assert batches(jobs, 1, "auto", lambda asked: [False, True]) == [[5, 6, 7], [0], [1], [2], [3], [4], [8]]


@pytest.mark.parametrize(("hidden", "wanted"), [([], True), ([2000], False)])
def test_small_models_are_batched_and_large_ones_are_not(tmp_path: Path, hidden: list[int], wanted: bool) -> None:
    from fedopt.comparison.jobs import Job, worth_batching

    client = {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "steps": 20}
    scenario = small(model={"kind": "mlp", "hidden": hidden}, client=client, engine__formulation="batched")
    assert worth_batching(Job(scenario.resolved(), str(tmp_path), "whole", None)) is wanted


def test_a_batch_is_reused_verified_and_loses_nothing_to_a_failing_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedopt.simulation import session

    original = session.Session._on_step

    def on_step(self: session.Session, stepped: Any, metrics: dict[str, float]) -> str | None:
        if self.scenario.seed == 7:
            raise RuntimeError("the disk is gone")
        return original(self, stepped, metrics)

    monkeypatch.setattr(session.Session, "_on_step", on_step)
    engine: dict[str, Any] = {"engine__formulation": "auto", "engine__threads": 1}
    runs = [plan("A", seed, **engine) for seed in (0, 1)] + [plan("B", 0, client__lr=0.01, **engine)]
    runs.append(plan("A", 7, **engine))
    done = execute(runs, tmp_path, batch="always")
    assert [d.how for d in done] == ["executed"] * 3 + ["failed"] and "the disk is gone" in done[3].error
    assert [d.how for d in execute(runs[:3], tmp_path, batch="never")] == ["reused"] * 3
    assert "batch:" in (done[0].directory / "scenario.yaml").read_text()
    verdict = verify(done[0].directory)
    assert verdict.repeats, verdict


def test_progress_counts_the_runs_that_follow_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedopt.comparison import runs

    monkeypatch.setattr(runs, "run_jobs", lambda jobs: [("failed", 1.0, "no", "")] * len(jobs))
    monkeypatch.setattr("fedopt.comparison.view.time.monotonic", iter([0.0, 10.0, 20.0]).__next__)
    execute([plan(seed=0), plan(seed=1)], tmp_path, quiet=False, later=4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 runs to execute, 0 reused; then at most 4 more"
    assert lines[1].endswith("failed: no (1.0 s); about 0:50 left") and lines[2].endswith("; about 0:40 left")
