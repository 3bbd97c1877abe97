"""The end of a run: an early stop is evaluated and shown, wherever the run was resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fedopt
from fedopt.protocol import Finished
from fedopt.report.run_data import load_run
from fedopt.scenario import from_mapping
from fedopt.simulation import ending
from fedopt.simulation.assembly import assemble
from fedopt.simulation.session import Session
from scenarios import private, small

MEASURED = ["test_loss", "metric_value", "test_accuracy"]
EVERY = {"server_steps": 50, "evaluate_every": 4, "checkpoint_every": 2}
STOPS = {
    "participations": lambda: from_mapping(private({"max_participations": 2}, run=EVERY)),
    "time": lambda: small(run={"time_s": 12.0, "evaluate_every": 100, "checkpoint_every": 2}),
}


class Interrupt(Exception):
    """Stands for a kill at a chosen moment."""


@pytest.mark.parametrize("stop", STOPS)
def test_the_closing_evaluation_is_in_the_last_row(tmp_path: Path, stop: str) -> None:
    scenario = STOPS[stop]()
    summary = Session(scenario, tmp_path / "run", quiet=True).run()
    run = fedopt.open_run(tmp_path / "run")
    steps, every = summary["steps"], scenario.run.evaluate_every
    assert steps > 1 and steps % every and steps != scenario.run.server_steps  # it ended between two evaluations
    evaluated = run.rounds[run.rounds.metric_value.notna()]
    assert evaluated.step.tolist() == [*range(every, steps, every), steps]
    last = run.rounds.iloc[-1]
    assert (last.metric_value, last.test_loss) == (summary["final_metric"], summary["final_test_loss"])
    assert last.test_accuracy == last.metric_value and last.metric_name == "accuracy"
    assert evaluated.metric_value.max() == summary["best_metric"]
    assert evaluated[MEASURED].notna().all(axis=None)
    written = pd.read_csv(tmp_path / "run" / "rounds.csv")
    assert written.metric_value.iloc[-1] == summary["final_metric"]
    values = load_run(tmp_path / "run").rounds["metric_value"].to_numpy(zero_copy_only=False)
    assert np.isfinite(values[-1])  # what the report draws


@pytest.mark.parametrize("moment", ["step", "end", "conversion"])
def test_an_early_stop_has_the_same_tables_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    scenario = STOPS["participations"]()
    whole = Session(scenario, tmp_path / "whole", quiet=True).run()

    def killed(*_: Any) -> Any:
        raise Interrupt

    with monkeypatch.context() as patch:
        if moment == "step":
            original = Session._on_step

            def stopping(self: Session, stepped: Any, metrics: dict[str, float]) -> str | None:
                return killed() if stepped.step == whole["steps"] - 1 else original(self, stepped, metrics)

            patch.setattr(Session, "_on_step", stopping)
        elif moment == "end":
            patch.setattr(Session, "_finish", killed)
        else:  # the tables are written, and the running files are still there
            patch.setattr("fedopt.runlog.writer.RunLog._remove_running_files", killed)
        with pytest.raises(Interrupt):
            Session(scenario, tmp_path / "cut", quiet=True).run()
    resumed = Session(scenario, tmp_path / "cut", quiet=True).run(resume=True)
    assert [resumed[k] for k in ("final_metric", "best_step")] == [whole[k] for k in ("final_metric", "best_step")]
    one, other = (fedopt.open_run(tmp_path / name).rounds.drop(columns="wall_s") for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(one, other)
    assert one.metric_value.notna().iloc[-1]


HIDDEN = {"kind": "mlp", "hidden": [8]}
NO_REPLY = [
    ({}, "6 server steps were made"),
    ({"devices__dropout": 0.3}, "6 server steps were made"),
    ({"run": {"time_s": 12.0, "evaluate_every": 5, "checkpoint_every": 2}}, "the time limit is reached"),
]


@pytest.mark.parametrize(("changes", "ended"), NO_REPLY)
def test_a_run_without_one_usable_reply_is_no_success(tmp_path: Path, changes: dict[str, Any], ended: str) -> None:
    summary = Session(small(model=HIDDEN, client__lr=1e30, **changes), tmp_path / "run", quiet=True).run()
    run = fedopt.open_run(tmp_path / "run")
    failed, tasks = (run.updates.status == "failed").sum(), len(run.updates)
    assert failed and summary["admitted"] == 0 and set(run.updates.status) <= {"failed", "lost"}
    assert ("lost" in set(run.updates.status)) == ("devices__dropout" in changes)
    told = f"0 replies were usable: {failed} of {tasks} client tasks gave NaN or infinite values, so the model learned"
    assert summary["status"] == "diverged" and summary["reason"].startswith(told)
    assert summary["reason"].endswith(f"nothing; lower client.lr ({ended})")
    assert told in run.report.read_text()


def test_replies_of_before_a_resume_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after the last checkpoint, so few replies are left."""
    scenario = small(model=HIDDEN, client__lr=1e30, run={"server_steps": 6, "evaluate_every": 2, "checkpoint_every": 5})
    whole = Session(scenario, tmp_path / "whole", quiet=True).run()

    def killed(*_: Any) -> Any:
        raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_finish", killed)
        with pytest.raises(Interrupt):
            Session(scenario, tmp_path / "cut", quiet=True).run()
    assert Session(scenario, tmp_path / "cut", quiet=True).run(resume=True)["reason"] == whole["reason"]


def test_runs_in_which_nobody_was_meant_to_reply_are_fine(tmp_path: Path) -> None:
    """Empty Poisson cohorts, and clients that all drop out, say nothing of the learning rate."""
    empty = small(sampling={"kind": "poisson", "cohort_size": 0.001}, run={"server_steps": 4, "evaluate_every": 2})
    summary = Session(empty, tmp_path / "empty", quiet=True).run()
    assert (summary["status"], summary["dispatches"], summary["steps"]) == ("finished", 0, 4)
    gone = small(devices__dropout=0.9999, run={"time_s": 20.0, "evaluate_every": 2})
    summary = Session(gone, tmp_path / "gone", quiet=True).run()
    assert (summary["status"], summary["admitted"]) == ("finished", 0) and summary["lost"] > 0


FLAT: dict[str, Any] = {
    "data": {"kind": "user_function", "function": f"{__name__}:flat", "dimension": 4, "clients": 3},
    "model": "point",
    "sampling": "all",
    "client": {"kind": "finite_difference", "count": 3, "local_steps": 2, "radius": 0.01},
    "run": {"server_steps": 25, "evaluate_every": 2, "checkpoint_every": 4},
}


def flat(client: int, point: np.ndarray) -> float:
    """Rounded: constant around the start."""
    return float(np.round((5 * (point - 0.1) ** 2).sum()))


def not_there(client: int, point: np.ndarray) -> float:
    """A number where the clients look, none where the model goes."""
    return float(point.sum()) if np.abs(point - 0.5).max() < 0.05 else np.nan


def nowhere(client: int, point: np.ndarray) -> float:
    return np.nan


ESTIMATED_FLAT = {
    "radius": {},
    "box": {"client": {"kind": "fzoos", "features": 20, "local_steps": 2}, "aggregator": "gradient_correction"},
    "scalars": {"client": {"kind": "spsa"}, "aggregator": {"kind": "decomfl", "step_size": 0.1}},
}


@pytest.mark.parametrize("kind", ESTIMATED_FLAT)
@pytest.mark.parametrize("steps", [25, 4])
def test_values_asked_for_in_vain_are_warned_of_once(tmp_path: Path, kind: str, steps: int) -> None:
    changes = {**FLAT, **ESTIMATED_FLAT[kind], "run": {**FLAT["run"], "server_steps": steps}}
    scenario = small(**changes)
    summary = Session(scenario, tmp_path / "run", quiet=True).run()
    option = "box" if kind == "box" else "radius"
    (warning,) = summary["warnings"]
    assert warning.startswith("the model is still where it started: where a function is flat within client." + option)
    assert warning.endswith(f"every estimate is zero; raise client.{option}")
    assert warning in (tmp_path / "run" / "report.html").read_text()


def test_what_moves_even_late_or_has_gradients_is_not_warned_of(tmp_path: Path) -> None:
    wide = {**FLAT, "client": {**FLAT["client"], "radius": 0.4}}
    still = {"client__lr": 1e-30}
    for number, changes in enumerate((wide, still)):
        assert Session(small(**changes), tmp_path / str(number), quiet=True).run()["warnings"] == []


STEPS = [
    ({"client": {**FLAT["client"], "optimizer": {"rule": "sgd"}}, "aggregator": {"kind": "fedavg", "server_lr": 9.0}},
     "lower client.optimizer.learning_rate or aggregator.server_lr"),
    ({"client": {"kind": "spsa"}, "aggregator": {"kind": "decomfl", "step_size": 1.0}}, "lower aggregator.step_size"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), STEPS)
def test_a_function_without_a_value_at_the_model_is_told_apart_from_a_model_that_diverged(tmp_path, changes, told):
    data = {**FLAT["data"], "function": f"{__name__}:not_there"}
    summary = Session(small(**{**FLAT, **changes, "data": data}), tmp_path / "run", quiet=True).run()
    assert summary["status"] == "diverged"
    assert summary["reason"].startswith("the value of the model after step 2 is NaN or infinite, the model itself is n")
    assert f"let the functions return numbers wherever they are asked, or {told}" in summary["reason"]


def test_functions_that_never_return_a_number(tmp_path: Path) -> None:
    data = {**FLAT["data"], "function": f"{__name__}:nowhere"}
    run = {"server_steps": 3, "evaluate_every": 4}
    scenario = small(**{**FLAT, "data": data, "run": run})
    judged = ending.judged(Finished("finished", "so"), {"admitted": 0, "lost": 3, "not_finite": 3}, scenario)
    assert judged.reason.endswith(
        "nothing; see what the functions return at the start, or lower client.optimizer.learning_rate (so)"
    )


def test_the_option_to_lower_is_one_that_the_scenario_has() -> None:
    wrapped = small(**{**FLAT, "aggregator": {"kind": "safeguard", "inner": {"kind": "fedavg"}}})
    assert ending.why_diverged(wrapped, 3, True).endswith(
        "lower client.optimizer.learning_rate or aggregator.inner.server_lr"
    )
    assert ending.why_diverged(small(), 3, False) == (
        "the model is NaN or infinite after step 3; lower client.lr or aggregator.server_lr"
    )
    assert ending.judged(Finished("finished", "so"), {"admitted": 1, "lost": 9, "not_finite": 8}, small())[1] == "so"
    assert ending.judged(Finished("finished", "so"), {"admitted": 0, "lost": 9, "not_finite": 0}, small())[1] == "so"


CENTERS = {"data": {"kind": "quadratics", "clients": 4}, "model": {"kind": "point"}, "sampling": {"kind": "all"}}


@pytest.mark.parametrize("changes", [{"devices": {}}, {**CENTERS, "devices": {"compute": {"kind": "lognormal"}}}])
def test_time_that_does_not_pass_ends_no_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"take no time on these devices.*time_s = 2; set run\.server_steps"):
        Session(small(run={"time_s": 2.0}, **changes), tmp_path / "run", quiet=True).run()
    assert not (tmp_path / "run" / "scenario.yaml").exists()
    assemble(small(run={"time_s": 2.0}, **changes))  # a deployment waits for the real clock


@pytest.mark.parametrize(
    "changes",
    [
        {"run": {"time_s": 2.0}, "devices": {}, "aggregator": {"kind": "fedfix", "weights": "gap"}},
        {"run": {"time_s": 2e-3}, "devices": {"network": {"kind": "bandwidth"}}},
        {"run": {"time_s": 2.0, "server_steps": 3}, "devices": {}},
    ],
)
def test_a_timer_a_transfer_or_a_number_of_steps_ends_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert Session(small(**changes), tmp_path / "run", quiet=True).run()["status"] == "finished"
