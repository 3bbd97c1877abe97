"""Methods on the seed log end to end: replay in another process, resume, steps along the gradient."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from zeroth_order_runs import (
    COMFL,
    DIFFERENCES,
    DIGITS,
    FZOOS,
    LOGGED,
    QUADRATICS,
    SPSA,
    STREAM,
    TWO,
    D,
    N,
    Quick,
    scenario,
)

import fedopt
from fedopt.clients._black_box import model_values
from fedopt.engine.base import BatchPlan, Cohort
from fedopt.replay import replay
from fedopt.simulation.session import Session
from fedopt.simulation.summary import model_hash
from fedopt.types import Message
from fedopt.zeroth_order import one_byte
from fedopt.zeroth_order.directions import Directions


@pytest.mark.parametrize("name", LOGGED)
def test_the_log_replays_to_the_very_bits_and_the_method_descends(name):
    from fedopt.zeroth_order import seed_log

    client, aggregator, more = LOGGED[name]
    run = Quick(client, aggregator, steps=8, **more)
    method = run.parts.scenario.aggregator
    log = seed_log.SeedLog.from_bytes(method.files(run.state)["seed_log.bin"])
    assert torch.equal(seed_log.replay(run.start, log), run.params)
    assert run.values[-1] < run.parts.engine.evaluate(run.start)["loss"]


def test_another_process_rebuilds_the_model(tmp_path: Path):
    run = fedopt.simulate(scenario(SPSA, COMFL, data=DIGITS), out=tmp_path)
    assert model_hash(replay(run.directory)) == run.summary["model_sha256"]
    done = subprocess.run(
        [sys.executable, "-m", "fedopt.replay", str(run.directory)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and run.summary["model_sha256"] in done.stdout, done.stderr[-1000:]


VECTORS = {
    "fzoos": (FZOOS, TWO, {}),
    "scaffold1": ({**DIFFERENCES, "method": "scaffold1"}, TWO, {}),
    "scaffold2": ({**DIFFERENCES, "method": "scaffold2"}, {"kind": "scaffold"}, {}),
    "fedzo-fedbuff": (DIFFERENCES, {"kind": "fedbuff", "buffer_size": 2}, STREAM),
    "fzoos-safeguard": (FZOOS, {"kind": "safeguard", "inner": TWO}, {}),
}
EVERYDAY = ("fzoos", "one_byte-async", "fedkseed")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EVERYDAY else pytest.mark.slow) for n in {**VECTORS, **LOGGED}]
)
def test_resume_has_the_bits_of_an_uninterrupted_run(name, tmp_path: Path):
    client, aggregator, more = {**VECTORS, **LOGGED}[name]
    whole = scenario(client, aggregator, steps=6, **more)
    wanted = fedopt.simulate(whole, out=tmp_path).summary["model_sha256"]
    directory = tmp_path / "killed"
    directory.mkdir()
    killed(whole, directory)
    assert Session(whole, directory, quiet=True).run(resume=True)["model_sha256"] == wanted


def killed(whole: fedopt.scenario.Scenario, directory: Path) -> None:
    """A run that ends in the middle of its third step."""

    class Killed(Exception):
        pass

    class Short(Session):
        def _after_instant(self) -> None:
            super()._after_instant()
            if self.parts.server.state.step >= 3:
                raise Killed

    with pytest.raises(Killed):
        Short(whole, directory, quiet=True).run()


def test_another_process_resumes(tmp_path: Path):
    """A fresh process has not imported what a state is made of."""
    whole = scenario(SPSA, COMFL, steps=6)
    wanted = fedopt.simulate(whole, out=tmp_path / "whole").summary["model_sha256"]
    directory = tmp_path / "cut"
    directory.mkdir()
    killed(whole, directory)
    done = subprocess.run(
        [sys.executable, "-m", "fedopt", "simulate", "--resume", str(directory)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    assert fedopt.open_run(directory).summary["model_sha256"] == wanted


def test_every_worker_measures_its_own_function_along_its_own_directions():
    """Each byte is the slope of that worker's function along the directions its record names."""
    run = Quick(SPSA, {"kind": "one_byte", "count": 3, "step_size": 0.01}, steps=1)
    objective, start = run.parts.data.objective, run.start.double()
    gradients = objective.gradients(range(N), start.expand(N, -1))
    assert len(run.state.records) == N
    for worker, record in enumerate(run.state.records):
        rows = Directions("rademacher", D, record.key).matrix(3, dtype=torch.float64)
        slopes = (rows @ gradients[worker]).float()  # central differences are exact on quadratics
        wanted = one_byte.decode(one_byte.encode(slopes))
        torch.testing.assert_close(torch.tensor(record.scalars), wanted, rtol=0.14, atol=1e-3)  # a code further at most
        assert not torch.allclose(torch.tensor(record.scalars), (rows @ gradients[worker - 1]).float(), rtol=0.14)


def test_every_byte_is_measured_on_a_batch_of_its_own():
    method = {"kind": "one_byte", "count": 3, "step_size": 0.01}
    run = Quick(SPSA, method, steps=1, data=DIGITS)
    engine, many = run.parts.engine, range(6)
    cohort = Cohort(tuple(many), (0,) * 6, (Message({}),) * 6, (3,) * 6, run.parts.scenario.seed)
    plan = run.parts.scenario.client.plan(cohort, engine)
    for row, record in enumerate(run.state.records):
        stream, slopes = Directions("rademacher", engine.spec.size, record.key), []
        for k in range(3):
            batch = torch.from_numpy(plan.indices[row, k, : plan.counts[row, k]])
            losses = engine.example_losses(stream.pair(run.start, 0.01, k), batch.expand(2, -1)).double().mean(1)
            slopes.append(float(losses[0] - losses[1]) / 0.02)
        torch.testing.assert_close(torch.tensor(record.scalars), torch.tensor(slopes), rtol=0.14, atol=1e-3)


def test_values_of_a_model_are_losses_on_the_batch_of_the_row_and_step():
    """Two rows, three planned steps of different batches; a step beyond the plan sees the last batch."""
    engine = Quick(SPSA, COMFL, steps=1, data=DIGITS).parts.engine
    draw = np.random.default_rng(0)
    indices, counts = draw.integers(0, 500, (2, 3, 4)), np.array([[4, 3, 4], [2, 4, 1]])
    plan = BatchPlan(indices, counts, np.array([3, 3]), counts.astype(float))
    points = torch.randn(4, 2, engine.spec.size, generator=torch.Generator().manual_seed(0))
    found = model_values(engine, plan, [0, 1])([1, 7])(points)
    for i, (row, step) in enumerate(((0, 1), (0, 2), (1, 1), (1, 2))):
        batch = torch.from_numpy(indices[row, step, : counts[row, step]])
        losses = engine.example_losses(points[i], batch.expand(2, -1))
        torch.testing.assert_close(found[i], losses.mean(1))


def test_a_tie_takes_no_step_or_a_step_forward():
    """Two clients with mirrored quadratics around the start disagree about every direction."""
    data = {
        "kind": "quadratics",
        "dimension": 4,
        "clients": 2,
        "centers": ((1.0,) * 4, (-1.0,) * 4),
        "curvatures": (1.0, 1.0),
    }
    skipped = Quick(SPSA, {"kind": "feedsign", "step_size": 0.1}, steps=1, data=data)
    assert torch.equal(skipped.params, skipped.start) and not skipped.state.records
    taken = Quick(SPSA, {"kind": "feedsign", "step_size": 0.1, "tie": "plus"}, steps=1, data=data)
    assert [record.scalars for record in taken.state.records] == [(1.0,)]
    assert torch.allclose((taken.params - taken.start).abs(), torch.full((4,), 0.1))


def test_a_loss_that_is_not_a_number_is_no_vote():
    """Its reply fails, as that of every other method; the sign of NaN would be an abstention that nobody notices."""
    monkey = {"kind": "user_function", "function": f"{__name__}:broken", "dimension": 3, "clients": 3}
    run = Quick(SPSA, {"kind": "feedsign", "step_size": 0.1}, steps=2, data=monkey, failures=4)
    assert [row["status"] for row in run.updates] == ["failed", "failed", "admitted"] * 2
    assert len(run.state.records) == 2


def broken(client: int, point: np.ndarray) -> float:
    return float(point.sum()) if client == 2 else float("nan")


@pytest.mark.parametrize("name", ["central", "forward", "fedkseed"])
def test_differences_of_a_function_are_not_lost_in_float32(name, monkeypatch: pytest.MonkeyPatch):
    """A quadratic 10,000 above 0, whose float32 values are 1e-3 apart: no slope of radius 1e-4 would survive."""
    monkeypatch.setitem(sys.modules, "test_scalar_methods", sys.modules[__name__])
    data = {"kind": "user_function", "function": "test_scalar_methods:raised", "dimension": 5, "clients": 1}
    work = {"kind": "fedkseed", "steps": 1} if name == "fedkseed" else {**SPSA, "scheme": name}
    more = {"candidates": 1, "directions": "rademacher"} if name == "fedkseed" else {}
    method = {"kind": "fedkseed" if more else "decomfl", "step_size": 0.01, **more}
    run = Quick({**work, "radius": 1e-4}, method, steps=1, data=data)
    gradient = 2 * (run.start.double() - 0.2)
    moved = (run.start - run.params).double()  # 0.01 (z . gradient) z
    assert float(moved @ gradient) == pytest.approx(0.01 * float(moved.sign() @ gradient) ** 2, abs=1e-5)
    assert float(moved @ gradient) > 1e-3


def raised(client: int, point: np.ndarray) -> float:
    return 10_000.0 + float(((point - 0.2) ** 2).sum())


@pytest.mark.parametrize("directions", ["sphere", "coordinate", "rademacher"])
@pytest.mark.parametrize("kind", ["decomfl", "one_byte"])
def test_steps_estimate_the_gradient_whatever_the_length_of_directions(directions, kind):
    """With very many directions one step is the gradient's, also where they have length 1 instead of sqrt(d)."""
    count = {"perturbations": 4000} if kind == "decomfl" else {"count": 4000}
    data = {**QUADRATICS, "clients": 1}
    run = Quick(SPSA, {"kind": kind, "step_size": 1.0, "directions": directions, **count}, steps=1, data=data)
    objective = run.parts.data.objective
    gradient = objective.gradients([0], run.start.double()[None])[0]
    moved = (run.start - run.params).double()
    assert float(moved @ gradient) / float(gradient @ gradient) == pytest.approx(1.0, abs=0.15)


def test_what_has_no_slope_has_no_forward_gradient():
    data = {"kind": "model_metric", "train_steps": 5, "hidden": [2]}
    differences = {**DIFFERENCES, "scheme": "jvp", "directions": "rademacher"}
    for client, aggregator in (({**SPSA, "scheme": "jvp"}, COMFL), (differences, {"kind": "fedavg"})):
        with pytest.raises(ValueError, match="gives values only; use scheme: central"):
            Quick(client, aggregator, steps=1, data=data)


def test_the_bound_minimiser_does_not_depend_on_the_batch_of_clients():
    client = {**FZOOS, "gamma": {"rule": "bound_minimiser"}}
    together = Quick(client, TWO, steps=4)
    alone = Quick(client, TWO, steps=4, engine={"device": "cpu", "threads": 1, "chunk": 1})
    assert torch.allclose(together.params, alone.params, atol=1e-5)


def test_one_client_is_mezo_step_for_step():
    from fedopt.zeroth_order.seed_log import apply_
    from fedopt.zeroth_order.spsa import mezo_step

    run = Quick(SPSA, {**COMFL, "perturbations": 2}, steps=3, data={**QUADRATICS, "clients": 1})
    objective, theta = run.parts.data.objective, run.start.clone()
    for step in range(3):
        losses = lambda points: objective.values([0], points)  # noqa: E731
        # Measured in float64, as every function is; the model stays in float32.
        _, record = mezo_step(theta.double(), "rademacher", step, 1, 0.01, 0.003, losses, count=2)
        apply_(theta, "rademacher", [record])
    assert torch.equal(theta, run.params)


def test_fedkseed_is_the_average_of_local_models():
    from fedopt.zeroth_order import fedkseed

    run = Quick({"kind": "fedkseed", "steps": 6, "radius": 0.01}, {"kind": "fedkseed", "candidates": 5,
                "step_size": 0.01}, steps=1)  # fmt: skip
    objective, candidates = run.parts.data.objective, fedkseed.candidate_directions("gaussian", D, 1)
    models = []
    for i in range(N):
        seeds = fedkseed.choose_seeds(1, [i], 0, 6, 5)
        at = lambda step, i=i: lambda points: objective.values([i], points)  # noqa: E731
        models.append(fedkseed.local_training(run.start, candidates, seeds, 0.01, 0.01, at).models[0])
    assert torch.allclose(torch.stack(models).mean(0), run.params, atol=1e-5)
    row = run.updates[0]
    assert (row["uplink_bytes"], row["downlink_bytes"]) == (min(4 * 5, 8 * 6), 4 * 5 + 8)


def test_fedkseed_pro_counts_no_scalar_as_more_than_a_thousand():
    steep = {"kind": "quadratics", "clients": 3, "dimension": 4, "curvatures": [1e7] * 3}
    run = Quick({"kind": "fedkseed", "steps": 5}, {"kind": "fedkseed", "candidates": 8, "step_size": 1e-12,
                "pro": True}, steps=1, data=steep)  # fmt: skip
    assert float(run.state.accumulated.abs().max()) > 1000
    assert float(run.state.totals.sum()) == pytest.approx(1000 * 15, rel=0.1)


def test_fedkseed_pro_counts_no_skipped_step():
    run = Quick({"kind": "fedkseed", "steps": 5, "loss_clip": 1e-12}, {"kind": "fedkseed", "candidates": 8,
                "pro": True}, steps=2)  # fmt: skip
    assert run.state.counts.tolist() == [1.0] * 8 and not run.state.totals.any()
    assert torch.equal(run.params, run.start) and run.rounds[-1]["queries"] == 2 * N * 2 * 5


def test_feedsign_does_not_depend_on_the_scale_of_losses():
    """Halving the curvature of every function leaves all votes, and so the model, as they were."""
    made = []
    for curvature in (1.0, 4.0):
        data = {"kind": "quadratics", "clients": 3, "dimension": 4, "curvatures": [curvature] * 3}
        made.append(Quick(SPSA, {"kind": "feedsign", "step_size": 0.1}, steps=5, data=data).params)
    assert torch.equal(*made)
