"""Does a run repeat? Execute it again and compare every recorded number bit for bit."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedopt import environment
from fedopt.own_sources import digests
from fedopt.runlog import RunLogError, read_clients, read_rounds, read_summary, read_updates, run_state

if TYPE_CHECKING:
    from fedopt.data.base import FederatedData
    from fedopt.scenario import Scenario

# Real time is the only thing that may differ.
TIMED = {"wall_s"}
SUMMARY = ("status", "reason", "steps", "time_s", "final_metric", "final_test_loss", "model_sha256", "epsilon")


@dataclass(frozen=True)
class Verdict:
    """What verification found.

    Args:
        differences: one sentence per table column, key or file that differs; empty if the run repeats.
        reasons: what could explain them, one sentence each.
        compared: what was compared, in words.
    """

    differences: tuple[str, ...]
    reasons: tuple[str, ...]
    compared: str

    @property
    def repeats(self) -> bool:
        """Whether every bit is the same."""
        return not self.differences


def verify(directory: Path, last: bool = False) -> Verdict:
    """Execute a finished run again in a temporary directory and compare.

    Device, formulation, chunk and block are those the run recorded, since they decide the bits. A run that was
    trained together with others is executed together with them again, where their directories are still beside it.

    Args:
        directory: a finished run.
        last: only the steps after the run's last checkpoint (kept with ``run.keep_checkpoint: true``).
    Raises:
        RunLogError: there is no finished run, or no checkpoint to start from.
        ScenarioError, ValueError, FileNotFoundError: the recorded scenario cannot run here.
    """
    from fedopt.scenario import load

    if run_state(directory) != "finished":
        raise RunLogError(f"{directory} holds no finished run; finish it with `fedopt simulate {directory} --resume`")
    scenario = load(directory / "scenario.yaml")
    with tempfile.TemporaryDirectory(prefix="fedopt-verify-") as folder:
        again = Path(folder) / directory.name
        again.mkdir()
        if last:
            _start_from_checkpoint(directory, again)
        _execute(scenario, directory, again, resume=last)
        differences = _differences(directory, again)
        reasons = _reasons(directory, again, digests(scenario)) if differences else ()
    steps = read_summary(directory).get("steps")
    compared = "the steps after the last checkpoint" if last else f"all {steps} server steps"
    return Verdict(tuple(differences), tuple(reasons), compared)


def _execute(scenario: Scenario, directory: Path, again: Path, resume: bool) -> None:
    from fedopt.simulation.session import Session

    batch = _batch(directory)
    if not batch or resume:
        Session(scenario, again, quiet=True, data=_data(scenario, directory)).run(resume=resume)
        return
    from fedopt.scenario import load
    from fedopt.simulation.together import MakeDriver, run_together

    def executed(peer: Path, make_driver: MakeDriver) -> None:
        own = load(peer / "scenario.yaml")
        Session(own, again.parent / peer.name, True, _data(own, peer), make_driver=make_driver).run()

    run_together([partial(_unless_it_fails, partial(executed, peer), peer == directory) for peer in batch])


def _unless_it_fails(executed: Callable[[Any], None], is_verified: bool, make_driver: Any) -> None:
    """A run of the batch; only the failure of the verified one matters."""
    try:
        executed(make_driver)
    except Exception:
        if is_verified:
            raise


def _data(scenario: Scenario, directory: Path) -> FederatedData | None:
    """A comparison may have kept examples apart."""
    from fedopt.comparison.splits import data_of

    note = directory / "comparison.json"
    return data_of(scenario, json.loads(note.read_text())["split"]) if note.exists() else None


def _batch(directory: Path) -> list[Path]:
    """The runs that were trained together with this one, itself included; empty if alone, or if one is gone."""
    found = [directory if name == directory.name else directory.parent / name for name in _resolved(directory, "batch")]
    return found if all((run / "scenario.yaml").exists() for run in found) else []


def _start_from_checkpoint(directory: Path, again: Path) -> None:
    """Files a run killed right after its last checkpoint would have left."""
    from fedopt.runlog import RunLog
    from fedopt.simulation.checkpoint import load
    from fedopt.simulation.session import CHECKPOINT

    if not (directory / CHECKPOINT).exists():
        raise RunLogError(
            f"{directory} kept no checkpoint to start from; run with run.keep_checkpoint: true, or verify it whole"
        )
    for name in (CHECKPOINT, "scenario.yaml"):
        shutil.copy(directory / name, again / name)
    tree = load(again / CHECKPOINT, "cpu")
    with RunLog(again) as log:
        log.start({"name": again.name})
        for row in read_rounds(directory).to_pylist():
            if row["step"] <= tree["step"]:
                log.add_round(row)
        for row in read_updates(directory).slice(0, tree["update_rows"]).to_pylist():
            log.add_update(row)
        log.position()


# ---- comparing -----------------------------------------------------------------------------------------------------


def _differences(recorded: Path, again: Path) -> list[str]:
    found: list[str] = []
    for name, read in (("rounds", read_rounds), ("updates", read_updates), ("clients", read_clients)):
        found += table_differences(name, read(recorded), read(again))
    before, after = read_summary(recorded), read_summary(again)
    for key in SUMMARY:
        if not _same(before.get(key), after.get(key)):
            found.append(f"summary.json: {key} was {before.get(key)!r}, now {after.get(key)!r}")
    for name in ("model.safetensors", "privacy.json"):
        first, second = (d / name for d in (recorded, again))
        if first.exists() != second.exists():
            found.append(f"{name}: {'written then, not now' if first.exists() else 'not written then, but now'}")
        elif first.exists() and first.read_bytes() != second.read_bytes():
            found.append(f"{name}: {_file_difference(first, second)}")
    return found


def _file_difference(first: Path, second: Path) -> str:
    if first.suffix != ".json":
        return "the bytes differ"
    before, after = json.loads(first.read_text()), json.loads(second.read_text())
    keys = [key for key in {**before, **after} if not _same(before.get(key), after.get(key))]
    return "differs in " + ", ".join(keys) if keys else "the bytes differ, the content does not"


def table_differences(name: str, recorded: pa.Table, again: pa.Table) -> list[str]:
    """Sentences on what differs between two tables, columns of real time left out.

    Floats are compared by their bits, so a changed sign of zero counts.
    """
    if recorded.num_rows != again.num_rows:
        return [f"{name}: {recorded.num_rows} rows were recorded, now there are {again.num_rows}"]
    found = []
    for column in dict.fromkeys([*recorded.column_names, *again.column_names]):
        if column in TIMED:
            continue
        if column not in recorded.column_names or column not in again.column_names:
            found.append(f"{name}: column {column} is in one of the two only; another version wrote it")
            continue
        rows = _differing_rows(recorded[column], again[column])
        if len(rows):
            at = int(rows[0])
            place = f"step {recorded['step'][at].as_py()}" if "step" in recorded.column_names else f"row {at}"
            was, now = recorded[column][at].as_py(), again[column][at].as_py()
            share = f"{len(rows)} of {recorded.num_rows} rows"
            found.append(f"{name}: {column} differs in {share}, first at {place}: {was!r}, now {now!r}")
    return found


def _differing_rows(first: pa.ChunkedArray, second: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_floating(first.type) and pa.types.is_floating(second.type):
        nulls = first.is_null().to_numpy() != second.is_null().to_numpy()
        bits = [
            np.ascontiguousarray(pc.fill_null(c, 0.0).to_numpy(), dtype=np.float64).view(np.int64)
            for c in (first, second)
        ]
        return np.flatnonzero(nulls | (bits[0] != bits[1]))
    if first.equals(second):
        return np.zeros(0, np.int64)
    return np.array([i for i, (a, b) in enumerate(zip(first.to_pylist(), second.to_pylist(), strict=True)) if a != b])


def _same(first: Any, second: Any) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


# ---- why -----------------------------------------------------------------------------------------------------------


def _reasons(recorded: Path, again: Path, own_code: Mapping[str, str]) -> list[str]:
    """What is known to have changed since, and what cannot repeat by its nature; ``own_code`` is the user's, now."""
    before, after = read_summary(recorded), read_summary(again)
    found = _changes("version of", before.get("versions") or {}, after.get("versions") or {})
    found += _changes("machine:", before.get("machine") or {}, after.get("machine") or {}, ("processor", "accelerator"))
    settings = ("device", "formulation", "chunk", "block", "threads")
    found += _changes("engine:", before, after, settings)
    then, now = _code(recorded), environment.code_version()
    if then is not None and then != now:
        found.append(f"the code of fedopt changed: {then} then, {now} now; check out the version that made the run")
    found += _changes("code of your own module", _resolved(recorded, "own_code"), own_code)
    batch = _resolved(recorded, "batch")
    if batch and not _batch(recorded):
        found.append(
            f"it was trained together with {len(batch) - 1} other runs, some of them gone, and alone now: sums are "
            "added in another order (at most 1e-5 relative per step)"
        )
    elif batch:
        found.append(
            f"it was trained together with {len(batch) - 1} other runs; if one of them was interrupted or failed then, "
            "or only the last steps were executed now, sums are added in another order (at most 1e-5 relative per step)"
        )
    if str(before.get("device")).startswith("cuda"):
        found.append("some CUDA kernels add in an order that changes from run to run")
    if before.get("final_metric") is None and after.get("final_metric") is not None:
        found.append(
            "a deployed run keeps its own clock, takes noise from the operating system and withholds columns: it "
            "cannot be repeated by a simulation"
        )
    if not found:
        found.append(
            "nothing that was recorded differs: a component of your own that draws random numbers outside "
            "fedopt.rng, changed data files, or an error in fedopt"
        )
    return found


def _changes(what: str, before: Mapping[str, Any], after: Mapping[str, Any], keys: tuple[str, ...] = ()) -> list[str]:
    chosen = keys or tuple({**before, **after})
    return [
        f"{what} {key} changed: {before.get(key)} then, {after.get(key)} now"
        for key in chosen
        if before.get(key) != after.get(key)
    ]


def _code(directory: Path) -> str | None:
    return (_resolved(directory, "versions") or {}).get("code")


def _resolved(directory: Path, key: str) -> Any:
    """What a run recorded about how it was computed; empty where it did not."""
    from fedopt.scenario_file import read_yaml

    values, _ = read_yaml(directory / "scenario.yaml")
    return (values.get("resolved") or {}).get(key) or {}
