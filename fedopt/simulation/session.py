"""One run with its directory: log, evaluation, checkpoints, resume, report."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fedopt import environment
from fedopt.engine.transfer import all_finite
from fedopt.own_sources import digests, folders
from fedopt.progress import Progress
from fedopt.protocol import Finished, Stepped
from fedopt.runlog import RunLog, check_writable, write_atomically
from fedopt.scenario import Scenario
from fedopt.simulation import checkpoint, ending, endless
from fedopt.simulation.assembly import Parts, assemble
from fedopt.simulation.evaluations import Evaluations
from fedopt.simulation.hooks import Driver, Hooks
from fedopt.simulation.rows import Rows
from fedopt.simulation.simulator import Simulator
from fedopt.simulation.summary import final, known, model_hash

CHECKPOINT, MODEL = "checkpoint.safetensors", "model.safetensors"
FAILURES_LISTED = 20  # the tables count them all
UPDATE_ROW_BYTES, ROUND_ROW_BYTES = 130, 600


def on_virtual_clock(parts: Parts, hooks: Hooks) -> Driver:
    """The driver of a simulation; raises a ValueError if the run could never end."""
    endless.refuse(parts.scenario, parts.data, parts.clock, parts.server.state.exchange)
    return Simulator(
        parts.server,
        parts.computation,
        parts.clock,
        parts.scenario.client.batch_size_of,
        hooks.on_step,
        hooks.on_outcome,
        hooks.on_failure,
        hooks.after_instant,
    )


class Session:
    """Runs a scenario in a directory.

    Args:
        scenario: what to run.
        directory: run directory.
        quiet: no live view.
        data: already loaded data, or None.
        make_driver: makes what drives the server; a deployment gives its own.
        noise: source of privacy noise; None for the simulation's seeded streams.
        withheld: columns that must not be written (a private deployment has not paid for them).
        clock: what the run's times are, in words.
        hold_rows: rows are written when the driver says so (see ``Rows``).
        batch: names of the run directories whose runs are trained together with this one, itself included, in order.
    """

    def __init__(
        self,
        scenario: Scenario,
        directory: Path,
        quiet: bool = False,
        data: Any = None,
        make_driver: Callable[[Parts, Hooks], Driver] = on_virtual_clock,
        noise: Any = None,
        withheld: frozenset[str] = frozenset(),
        clock: str = "virtual time",
        hold_rows: bool = False,
        batch: Sequence[str] = (),
    ):
        self.scenario, self.directory, self.quiet = scenario, directory, quiet
        self._data, self._make_driver, self._noise, self._withheld = data, make_driver, noise, withheld
        self._clock, self._batch = clock, list(batch)
        self.log = RunLog(directory)
        self.rows = Rows(self.log, withheld, hold_rows, lambda row: self.progress.update(row))
        self.warnings: list[str] = []
        self._wall_before, self._started_at = 0.0, environment.now()

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Run to the end, or on from the last checkpoint.

        Returns:
            The summary.
        Raises:
            RunLogError: the directory cannot be written; finished rows are kept.
            ValueError, FileNotFoundError: the scenario does not fit the data or this machine.
        """
        check_writable(self.directory, self._bytes_needed())
        self.parts = assemble(self.scenario, self._data, self._noise)
        self.warnings += self.parts.warnings
        self.evaluations = Evaluations(self.parts.engine)
        rows, save = self.rows, self._save_checkpoint
        hooks = Hooks(self._on_step, rows.outcome, self._on_failure, self._after_instant, save, rows.publish)
        self.driver = self._make_driver(self.parts, hooks)
        self._next_checkpoint = self.scenario.run.checkpoint_every
        with self.log:  # whatever happens, the files are closed and what they hold is kept
            if resume and (self.directory / CHECKPOINT).exists():
                self._restore()
            else:
                self._begin(resume)
            self._clock_started = time.perf_counter()
            self.progress = Progress(self.scenario.run.server_steps, self.quiet, None, self._clock, self.rows.ended)
            with self.progress:
                for warning in self.parts.warnings:
                    self.progress.note(f"warning: {warning}")
                ended = self.driver.run()
            return self._finish(ending.judged(ended, self.rows.counts, self.scenario))

    # ---- start, resume -----------------------------------------------------------------------------------------

    def _bytes_needed(self) -> int:
        steps = self.scenario.run.server_steps or 1000
        return steps * (ROUND_ROW_BYTES + 100 * UPDATE_ROW_BYTES) + (32 << 20)

    def _begin(self, resume: bool) -> None:
        if resume and (self.directory / "rounds.jsonl").exists():
            self.log.resume(0, 0)  # killed before the first checkpoint: the run starts over in the same directory
            self._write_scenario()
            return
        self._write_scenario()  # first: a folder with a scenario can be resumed
        self.log.start(self._known())

    def _write_scenario(self) -> None:
        from fedopt.yaml_writer import to_yaml

        resolved = self.scenario.resolved()
        resolved["engine"] = {**resolved["engine"], **self._pinned()}
        versions = {**environment.versions(), "code": environment.code_version()}
        found = {**self.parts.engine.description(), "versions": versions, "batch": self._batch}
        found |= {"own_code": digests(self.scenario), "own_folders": folders(self.scenario)}
        text = to_yaml({**resolved, "resolved": found})
        write_atomically(self.directory / "scenario.yaml", text)

    def _pinned(self) -> dict[str, Any]:
        """Device, formulation, chunk and block as chosen decide the bits, so a resume must use the same."""
        described = self.parts.engine.description()
        return {
            "device": self.parts.engine.device.type,
            "formulation": described["formulation"],
            "chunk": self.parts.computation.chunk,
            "block": described["block"],
            "threads": described["threads"],
        }

    def _restore(self) -> None:
        device = self.parts.engine.device
        tree = checkpoint.load(self.directory / CHECKPOINT, device)
        server, computation = self.parts.server, self.parts.computation
        server.state, self.driver.state = tree["server"], tree["simulator"]
        computation.restore(tree["computation"])
        computation.states.restore(tree["states"])
        self.evaluations.best, self.evaluations.last = tree["best"], tree["last_evaluation"]
        self.rows.counts, self.rows.waiting = tree["counts"], tree["unwritten"]
        self.warnings, self._wall_before = tree["warnings"], tree["wall_s"]
        self._started_at = tree["started_at"]
        every = self.scenario.run.checkpoint_every
        self._next_checkpoint = (tree["step"] // every + 1) * every
        self.log.resume(tree["step"], tree["update_rows"])

    def _save_checkpoint(self) -> None:
        position = self.log.position()
        server, computation = self.parts.server, self.parts.computation
        tree = {
            "step": position.step,
            "update_rows": position.update_rows,
            "server": server.state,
            "simulator": self.driver.state,
            "computation": computation.storable(),
            "states": computation.states.snapshot(),
            "best": self.evaluations.best,
            "last_evaluation": self.evaluations.last,
            "counts": self.rows.counts,
            "warnings": self.warnings,
            "wall_s": self._wall(),
            "started_at": self._started_at,
            "unwritten": self.rows.waiting,
        }
        checkpoint.save(self.directory / CHECKPOINT, tree)

    # ---- while running -----------------------------------------------------------------------------------------

    def _wall(self) -> float:
        return self._wall_before + time.perf_counter() - self._clock_started

    def _on_failure(self, message: str) -> None:
        self.rows.failure(message)
        failures = self.rows.counts["failures"]  # those before a resume included
        if failures > FAILURES_LISTED:
            return
        if failures == FAILURES_LISTED:
            message += "; further failures are counted as lost, not listed"
        self._warn(message)

    def _warn(self, message: str) -> None:
        self.progress.note(message)
        self.warnings.append(message)

    def _on_step(self, stepped: Stepped, metrics: dict[str, float]) -> str | None:
        run, method = self.scenario.run, self.scenario.aggregator
        state = self.parts.server.state.method
        row = {**stepped.row, "wall_s": self._wall(), "train_loss": metrics.get("train_loss")}
        row["clip_fraction"], row["update_norm"] = metrics.get("clipped"), metrics.get("norm")
        row |= self._epsilon(stepped)
        finite = model_is_finite = all_finite(state.params)
        last = run.server_steps is not None and stepped.step >= run.server_steps
        due = last or stepped.step % run.evaluate_every == 0
        if finite and due and "test_loss" not in self._withheld:
            row |= self.evaluations.make(method.evaluated(state), stepped.step)
            finite = math.isfinite(row["test_loss"])
            vain = ending.standing_still(self.scenario, self.evaluations.moved, self.parts.server.state)
            if vain is not None and vain not in self.warnings:
                self._warn(vain)
        self.rows.round(row)
        if not finite:
            return f"diverged:{ending.why_diverged(self.scenario, stepped.step, model_is_finite)}"
        if self.evaluations.have_reached(run.target_metric):
            return f"finished:the target metric {run.target_metric} is reached after step {stepped.step}"
        return None

    def _after_instant(self) -> None:
        """Called when an instant is complete: the only moment at which a checkpoint is consistent."""
        server = self.parts.server.state
        if server.step >= self._next_checkpoint and not server.finished:
            self._save_checkpoint()
            every = self.scenario.run.checkpoint_every
            self._next_checkpoint = (server.step // every + 1) * every

    def _epsilon(self, stepped: Stepped) -> dict[str, Any]:
        return {} if self.scenario.privacy is None else self.parts.server.affordable.row(self.parts.server.state)

    # ---- end ---------------------------------------------------------------------------------------------------

    def _finish(self, ended: Finished) -> dict[str, Any]:
        from safetensors.torch import save

        method, state = self.scenario.aggregator, self.parts.server.state
        params = method.evaluated(state.method).detach()
        closing = self._closing_evaluation(ended, params)
        tensors = {n: v.contiguous().cpu() for n, v in self.parts.engine.spec.unflatten(params.clone()).items()}
        write_atomically(self.directory / MODEL, save(tensors))
        for name, body in method.files(state.method).items():
            write_atomically(self.directory / name, body)
        self._write_privacy()
        summary = self._summary(ended, params)
        self.log.finish(summary, self._clients(params, ended), closing)
        close_run(self.directory, self.scenario.run.keep_checkpoint)
        return summary

    def _closing_evaluation(self, ended: Finished, params: torch.Tensor) -> dict[str, Any]:
        """Columns for the row of the last step; empty if it has them, or must not. An early stop falls between two
        evaluations, and whether a step is the last one is known only after its row was written."""
        step = self.parts.server.state.step
        if ended.status == "diverged" or self.evaluations.last.get("step") == step or "test_loss" in self._withheld:
            return {}
        found = self.evaluations.make(params, step)
        return {name: value for name, value in found.items() if name not in self._withheld}

    def _write_privacy(self) -> None:
        if self.scenario.privacy is not None:
            body = self.parts.server.affordable.document(self.parts.server.state)
            write_atomically(self.directory / "privacy.json", json.dumps(body, indent=2) + "\n")

    def _clients(self, params: torch.Tensor, ended: Finished) -> list[dict[str, Any]]:
        from fedopt.simulation.clients_table import clients_rows

        evaluate = "none" if "local_metric" in self._withheld else self.scenario.run.evaluate_clients
        rows = clients_rows(self.parts, params, evaluate, ended)
        return [{name: value for name, value in row.items() if name not in self._withheld} for row in rows]

    def _known(self) -> dict[str, Any]:
        return {**known(self.parts, self._started_at, self.warnings), "clock": self._clock}

    def _summary(self, ended: Finished, params: torch.Tensor) -> dict[str, Any]:
        privacy = self._epsilon_summary()
        now, wall = self.driver.state.now, self._wall()
        evaluations = self.evaluations
        numbers = final(self.parts, ended, now, wall, evaluations.last, evaluations.best, self.rows.counts)
        return {**self._known(), **numbers, "model_sha256": model_hash(params), **privacy}

    def _epsilon_summary(self) -> dict[str, Any]:
        if self.scenario.privacy is None:
            return {}
        return self.parts.server.affordable.final(self.parts.server.state)


def close_run(directory: Path, keep_checkpoint: bool = False) -> None:
    """What is left once the tables are final: the report, and no checkpoint unless asked for. May be repeated."""
    from fedopt.report import write_report

    if not keep_checkpoint:
        (directory / CHECKPOINT).unlink(missing_ok=True)
    write_report(directory)
