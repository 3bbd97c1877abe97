"""Zeroth-order work end to end: counters, reductions, replay in another process, resume, private scalars."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedopt
from fedopt.clients.dp_spsa import clipped_total
from fedopt.replay import replay
from fedopt.scenario import ConfigurationError, from_mapping
from fedopt.simulation.assembly import assemble
from fedopt.simulation.simulator import Simulator
from fedopt.simulation.summary import model_hash
from fedopt.zeroth_order import message_costs as costs

D, N = 12, 4
QUADRATICS = {"kind": "fzoos_quadratics", "dimension": D, "clients": N, "heterogeneity": 2.0}
DIGITS = {"kind": "digits", "clients": 6}
FZOOS = {"kind": "fzoos", "features": 60, "local_steps": 3, "candidates": 10, "global_candidates": 12,
         "global_active_queries": 7, "lengthscales": [5.0]}  # fmt: skip
DIFFERENCES = {"kind": "finite_difference", "local_steps": 3, "count": 4}
SPSA = {"kind": "spsa", "radius": 0.01, "batch_size": 8}
TWO = {"kind": "gradient_correction"}
COMFL = {"kind": "decomfl", "step_size": 0.003}
STREAM = {"sampling": {"kind": "uniform", "concurrency": 3}, "devices": {"compute": {"kind": "half_normal"}}}


def scenario(client: Any, aggregator: Any, steps: int = 4, data: Any = None, **more: Any) -> fedopt.scenario.Scenario:
    chosen = data or QUADRATICS
    model = {"kind": "logistic_regression" if chosen["kind"] == "digits" else "point"}
    body = {
        "name": "zo", "seed": 1, "data": chosen, "model": model, "client": client, "aggregator": aggregator,
        "run": {"server_steps": steps, "evaluate_every": 1, "checkpoint_every": 1, "evaluate_clients": "none"},
        "engine": {"device": "cpu", "threads": 1}, **more,
    }  # fmt: skip
    return from_mapping(body)


class Quick:
    """A run without a directory: state, rows of rounds and of updates."""

    def __init__(self, *arguments: Any, **more: Any):
        self.parts = assemble(scenario(*arguments, **more))
        self.start = self.parts.engine.initial_parameters()
        self.rounds: list[dict[str, Any]] = []
        self.updates: list[dict[str, Any]] = []
        self.values: list[float] = []
        self.failures: list[str] = []
        simulator = Simulator(
            self.parts.server, self.parts.computation, self.parts.clock, lambda n: n, self._step,
            self.updates.append, self.failures.append,
        )  # fmt: skip
        self.ended = simulator.run()
        assert self.ended.status == "finished" and not self.failures

    def _step(self, stepped: Any, metrics: Any) -> None:
        self.rounds.append(stepped.row)
        self.values.append(self.parts.engine.evaluate(self.state.params)["loss"])

    @property
    def state(self) -> Any:
        return self.parts.server.state.method

    @property
    def params(self) -> torch.Tensor:
        return self.state.params


# ---- FZooS and the baselines ---------------------------------------------------------------------------------------


def test_fzoos_counts_queries_and_bytes_of_the_card():
    run, features = Quick(FZOOS, TWO, steps=6), 60
    assert [row["phase"] for row in run.rounds] == ["points", "correction"] * 3
    first, second = 1 + 3 + 5 * 2, 1 + 7
    spent = np.diff([0, *(row["queries"] for row in run.rounds)]).tolist()
    assert spent == [N * (first + 10), N * second, N * first, N * second, N * first, N * second]
    up = np.diff([0, *(row["uplink_bytes"] for row in run.rounds)]).tolist()
    assert up == [N * 4 * D, N * 4 * features] * 3
    down = np.diff([0, *(row["downlink_bytes"] for row in run.rounds)]).tolist()
    assert down == [N * (4 * D + 8), N * 4 * D, *[N * 4 * features, N * 4 * D] * 2]
    assert [row["queries"] for row in run.updates[:N]] == [first + 10] * N
    assert run.values[-1] < 0.7 * run.values[0]


def test_fzoos_in_one_exchange_sends_both_together():
    run = Quick({**FZOOS, "global_active_queries": 0, "global_candidates": 0}, {**TWO, "exchanges": 1}, steps=3)
    assert [row["phase"] for row in run.rounds] == ["points"] * 3
    assert np.diff([row["uplink_bytes"] for row in run.rounds]).tolist() == [N * 4 * (D + 60)] * 2
    assert np.diff([row["downlink_bytes"] for row in run.rounds]).tolist() == [N * 4 * (D + 60)] * 2
    assert run.values[-1] < run.values[0]


def test_one_client_is_not_corrected():
    alone = {**QUADRATICS, "clients": 1}
    free = {**FZOOS, "gamma": {"rule": "constant", "value": 0.0}}
    one, other = (Quick(client, TWO, steps=4, data=alone).params for client in (FZOOS, free))
    assert torch.equal(one, other)


def test_correction_matters_and_gamma_zero_is_not_the_default():
    free = {**FZOOS, "gamma": {"rule": "constant", "value": 0.0}}
    assert not torch.equal(Quick(FZOOS, TWO, steps=4).params, Quick(free, TWO, steps=4).params)


def test_corrections_cancel_in_the_mean():
    run = Quick(FZOOS, TWO, steps=2)
    own = torch.stack([run.parts.computation.states.get(i)["weights"] for i in range(N)])
    assert torch.allclose(own.mean(0), run.state.correction, atol=1e-5)


def test_fzoos_with_partial_participation_and_losses():
    run = Quick(
        FZOOS, TWO, steps=6, sampling={"kind": "fixed", "cohort_size": 2}, devices={"dropout": 0.3}
    )  # fmt: skip
    assert len(run.rounds) == 6 and torch.isfinite(run.params).all()


@pytest.mark.parametrize("rule", ["oracle", "bound_minimiser"])
def test_other_gamma_rules_go_down(rule):
    run = Quick({**FZOOS, "gamma": {"rule": rule}}, TWO, steps=4)
    assert run.values[-1] < run.values[0]


def test_variants_are_named_and_can_be_overridden():
    paper = scenario({"kind": "fzoos", "variant": "paper", "features": 9}, TWO).client
    assert paper.window is None and paper.global_active_queries == 0 and paper.features == 9
    reference = scenario({"kind": "fzoos", "variant": "reference", "project": True}, TWO).client
    assert reference.kernel == "matern52" and reference.project and reference.uncertainty == "first_partial"
    program = scenario({"kind": "finite_difference", "variant": "reference"}, {"kind": "fedavg"}).client
    assert program.directions == "orthogonal_unscaled" and not program.project


def test_baselines_count_queries_and_bytes():
    cost, per = costs.vector(D).uplink_bytes, 1 + 3 * 5
    zo = Quick(DIFFERENCES, {"kind": "fedavg"}, steps=2).rounds[-1]
    assert (zo["queries"], zo["uplink_bytes"], zo["downlink_bytes"]) == (2 * N * per, 2 * N * cost, 2 * N * cost)
    two = Quick({**DIFFERENCES, "method": "scaffold2"}, {"kind": "scaffold"}, steps=2).rounds[-1]
    assert (two["queries"], two["uplink_bytes"], two["downlink_bytes"]) == (2 * N * per, 4 * N * cost, 4 * N * cost)
    one = Quick({**DIFFERENCES, "method": "scaffold1"}, {**TWO, "seed_bytes": 0}, steps=4).rounds[-1]
    assert (one["queries"], one["uplink_bytes"], one["downlink_bytes"]) == (
        2 * N * (per + 5),
        4 * N * cost,
        4 * N * cost,
    )


def test_reductions_to_fedzo():
    plain = Quick(DIFFERENCES, {"kind": "fedavg"}, steps=3).params
    assert torch.equal(
        plain, Quick({**DIFFERENCES, "method": "fedprox", "proximal": 0.0}, {"kind": "fedavg"}, steps=3).params
    )
    pulled = Quick({**DIFFERENCES, "method": "fedprox"}, {"kind": "fedavg"}, steps=3).params
    assert not torch.equal(plain, pulled)
    alone = {**QUADRATICS, "clients": 1}
    single = Quick(DIFFERENCES, {"kind": "fedavg"}, steps=3, data=alone).params
    two = Quick({**DIFFERENCES, "method": "scaffold2"}, {"kind": "scaffold"}, steps=3, data=alone).params
    assert torch.allclose(single, two, atol=1e-6)


def test_one_sgd_step_is_an_averaged_gradient_step():
    """All d orthogonal directions, central: exact on quadratics, where F has the gradient 20 (2 x + 1) / 10 d."""
    client = {**DIFFERENCES, "local_steps": 1, "count": D, "scheme": "central", "project": False,
              "optimizer": {"rule": "sgd", "learning_rate": 0.01}}  # fmt: skip
    run = Quick(client, {"kind": "fedavg"}, steps=1)
    x = 20 * run.start.double() - 10
    assert torch.allclose(run.params.double(), run.start - 0.01 * 20 * (2 * x + 1) / (10 * D), atol=1e-6)


def test_safeguard_never_rises_and_counts_its_queries():
    wild = {**DIFFERENCES, "optimizer": {"rule": "sgd", "learning_rate": 3.0}}
    free = Quick(wild, {"kind": "fedavg"}, steps=6)
    kept = Quick(wild, {"kind": "safeguard"}, steps=12)
    assert any(after > before for before, after in pairwise(free.values))
    checked = kept.values[1::2]
    assert all(after <= before + 1e-9 for before, after in pairwise(checked))
    assert kept.rounds[-1]["queries"] == 6 * N * (16 + 2)


def test_wrong_pairs_say_what_to_use():
    with pytest.raises(ValueError, match="gradient_correction"):
        Quick({**DIFFERENCES, "method": "scaffold1"}, {"kind": "fedavg"})
    with pytest.raises(ValueError, match=r"aggregator: \{kind: scaffold\}"):
        Quick({**DIFFERENCES, "method": "scaffold2"}, {"kind": "fedavg"})
    with pytest.raises(ValueError, match="decomfl, feedsign or one_byte"):
        Quick(SPSA, {"kind": "fedavg"})


# ---- seed log ------------------------------------------------------------------------------------------------------

LOGGED = {
    "decomfl": (SPSA, {**COMFL, "local_steps": 2, "perturbations": 3}, {}),
    "decomfl-async": (SPSA, {**COMFL, "buffer_size": 2, "staleness": {"kind": "polynomial"}}, STREAM),
    "jvp": ({**SPSA, "scheme": "jvp"}, COMFL, {}),
    "one_byte": (SPSA, {"kind": "one_byte", "count": 2, "step_size": 0.01, "stochastic_rounding": True}, {}),
    "one_byte-async": (SPSA, {"kind": "one_byte", "step_size": 0.01, "buffer_size": 2}, STREAM),
    "feedsign": (SPSA, {"kind": "feedsign", "step_size": 0.01}, {}),
    "fedkseed": ({"kind": "fedkseed", "steps": 5, "radius": 0.01}, {"kind": "fedkseed", "candidates": 8,
                 "step_size": 0.003, "pro": True}, {}),
}  # fmt: skip


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


@pytest.mark.parametrize("name", ["fzoos", "one_byte-async", "fedkseed"])
def test_resume_has_the_bits_of_an_uninterrupted_run(name, tmp_path: Path):
    client, aggregator, more = (FZOOS, TWO, {}) if name == "fzoos" else LOGGED[name]
    whole = scenario(client, aggregator, steps=6, **more)
    wanted = fedopt.simulate(whole, out=tmp_path).summary["model_sha256"]
    from fedopt.simulation.session import Session

    class Killed(Exception):
        pass

    class Short(Session):
        def _after_instant(self) -> None:
            super()._after_instant()
            if self.parts.server.state.step >= 3:
                raise Killed

    directory = tmp_path / "killed"
    directory.mkdir()
    with pytest.raises(Killed):
        Short(whole, directory, quiet=True).run()
    assert Session(whole, directory, quiet=True).run(resume=True)["model_sha256"] == wanted


def test_decomfl_bytes_with_everybody_and_with_absences():
    aggregator, steps = {**COMFL, "local_steps": 2, "perturbations": 5, "join": "log"}, 5
    run = Quick(SPSA, aggregator, steps=steps)
    for i, row in enumerate(run.updates):
        cost = costs.decomfl(2, 5, missed_rounds=int(i >= N))
        assert (row["uplink_bytes"], row["downlink_bytes"]) == (cost.uplink_bytes, cost.downlink_bytes)
    away = Quick(SPSA, aggregator, steps=steps, sampling={"kind": "fixed", "cohort_size": 1})
    last: dict[int, int] = {}
    for row in away.updates:
        missed = row["version"] - last.get(row["client_id"], 0)
        assert row["downlink_bytes"] == costs.decomfl(2, 5, missed).downlink_bytes
        last[row["client_id"]] = row["version"]


def test_one_byte_and_feedsign_bytes():
    run = Quick(SPSA, {"kind": "one_byte", "count": 3, "step_size": 0.01}, steps=4)
    cost = costs.just_one_byte(own=3, received=3 * (N - 1), peers=1)
    assert {row["uplink_bytes"] for row in run.updates} == {cost.uplink_bytes}
    assert [row["downlink_bytes"] for row in run.updates[N:]] == [cost.downlink_bytes] * (3 * N)
    votes = Quick(SPSA, {"kind": "feedsign", "step_size": 0.01}, steps=3)
    assert {row["uplink_bytes"] for row in votes.updates} == {1}
    assert {row["downlink_bytes"] for row in votes.updates[N:]} == {1}


def test_cut_short_tasks_send_ask_and_count_less():
    run = Quick(
        SPSA, {"kind": "one_byte", "count": 4, "step_size": 0.01}, steps=2,
        devices={"work": {"kind": "fixed_fraction", "low": 0.5, "high": 0.5}},
    )  # fmt: skip
    assert {(row["queries"], row["uplink_bytes"]) for row in run.updates} == {(4, 2)}
    assert all(len(record.scalars) == 2 for record in run.state.records)
    whole = Quick(SPSA, {"kind": "one_byte", "count": 2, "step_size": 0.01}, steps=1)
    assert torch.equal(whole.params, replay_first_step(run))


def replay_first_step(run: Quick) -> torch.Tensor:
    """The model after the first step of a scalar method."""
    from fedopt.zeroth_order.seed_log import apply_

    first = [record for record in run.state.records if record.step == 0]
    return apply_(run.start.clone(), "rademacher", first)


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


@pytest.mark.parametrize("name", ["central", "forward", "fedkseed"])
def test_differences_of_a_function_are_not_lost_in_float32(name, monkeypatch: pytest.MonkeyPatch):
    """A quadratic 10,000 above 0, whose float32 values are 1e-3 apart: no slope of radius 1e-4 would survive."""
    monkeypatch.setitem(sys.modules, "test_zeroth_order_work", sys.modules[__name__])
    data = {"kind": "user_function", "function": "test_zeroth_order_work:raised", "dimension": 5, "clients": 1}
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
    with pytest.raises(ValueError, match="gives values only; use scheme: central"):
        Quick({**SPSA, "scheme": "jvp"}, COMFL, steps=1, data=data)


def test_the_bound_minimiser_does_not_depend_on_the_batch_of_clients():
    client = {**FZOOS, "gamma": {"rule": "bound_minimiser"}}
    together = Quick(client, TWO, steps=4)
    alone = Quick(client, TWO, steps=4, engine={"device": "cpu", "threads": 1, "chunk": 1})
    assert torch.allclose(together.params, alone.params, atol=1e-5)


def test_joining_takes_the_weights_where_the_log_is_longer():
    aggregator = {"kind": "one_byte", "count": 30, "step_size": 0.01}
    by_log = Quick(SPSA, {**aggregator, "join": "log"}, steps=2).updates[N]["downlink_bytes"]
    cheaper = Quick(SPSA, aggregator, steps=2).updates[N]["downlink_bytes"]
    assert by_log == 30 * (N - 1) and cheaper == 4 * D < by_log
    assert not costs.join_by_log_is_cheaper(by_log, D)


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


def test_feedsign_does_not_depend_on_the_scale_of_losses():
    """Halving the curvature of every function leaves all votes, and so the model, as they were."""
    made = []
    for curvature in (1.0, 4.0):
        data = {"kind": "quadratics", "clients": 3, "dimension": 4, "curvatures": [curvature] * 3}
        made.append(Quick(SPSA, {"kind": "feedsign", "step_size": 0.1}, steps=5, data=data).params)
    assert torch.equal(*made)


# ---- models as black boxes, private scalars ------------------------------------------------------------------------


def test_a_models_loss_is_a_black_box():
    trained = Quick({**DIFFERENCES, "directions": "rademacher", "count": 8, "batch_size": 32,
                     "optimizer": {"learning_rate": 0.03}}, {"kind": "fedavg"}, steps=2, data=DIGITS)  # fmt: skip
    assert trained.values[-1] < trained.parts.engine.evaluate(trained.start)["loss"]
    assert trained.rounds[-1]["queries"] == 2 * 6 * (1 + 3 * 9)


def test_losses_as_values_equal_the_engines():
    run = Quick(SPSA, COMFL, steps=1, data=DIGITS)
    engine = run.parts.engine
    points = torch.stack([run.start, run.params, run.start * 2])
    indices = torch.arange(10).view(2, 5)
    shared = engine.loss_values.means(points[None], indices, torch.tensor([5, 3]))
    assert torch.allclose(shared[0, 1], engine.example_losses(run.params[None], indices[:1])[0].mean())
    own = engine.loss_values.means(points.expand(2, -1, -1), indices, torch.tensor([5, 3]))
    assert torch.allclose(shared, own, atol=1e-6)
    assert torch.allclose(shared[1, 0], engine.example_losses(run.start[None], indices[1:, :3])[0].mean())


EXAMPLES = {"unit": "example", "relation": "add_or_remove_one"}
DPZERO = {"kind": "dp_spsa", "sampling_probability": 0.2, "batch_size": 30}


def private(multiplier: float, norm: float = 1.0) -> dict[str, Any]:
    return {**EXAMPLES, "mechanism": {"kind": "dp_sgd", "clipping_norm": norm, "noise_multiplier": multiplier}}


def test_dpzero_pays_through_the_ledger_and_is_logged():
    from fedopt.privacy.events import GaussianEvent, PoissonSampled
    from fedopt.privacy.spending import epsilon_of

    run = Quick(DPZERO, {**COMFL, "perturbations": 3}, steps=3, data=DIGITS, privacy=private(2.0))
    found = run.parts.server.affordable.exact(run.parts.server.state.tally)
    wanted = epsilon_of(((PoissonSampled(0.2, GaussianEvent(2.0)), 3),), "add_or_remove_one", 1e-5, "pld")
    assert found == pytest.approx(wanted, rel=1e-6)
    assert run.updates[0]["uplink_bytes"] == 12


def test_dpzero_noise_has_its_size_and_is_no_function_of_the_directions():
    """The released scalars with and without noise differ by P * N(0, (m C)^2) / b; other directions, same noise."""

    def scalars(multiplier: float, kind: str) -> np.ndarray:
        run = Quick(DPZERO, {**COMFL, "perturbations": 100, "directions": kind}, steps=1, data=DIGITS,
                    privacy=private(multiplier, 1e-3))  # fmt: skip
        return np.array(run.state.records[0].scalars)

    noise = {kind: scalars(5.0, kind) - scalars(1e-9, kind) for kind in ("rademacher", "gaussian")}
    expected = 100 * 5.0 * 1e-3 / 30 / 6**0.5
    spread = expected / (2 * 100) ** 0.5
    assert abs(noise["gaussian"].std() - expected) < 4 * spread
    assert abs(noise["gaussian"].std() * 1.5 - expected) > 4 * spread
    assert np.allclose(noise["rademacher"], noise["gaussian"], atol=expected * 1e-3)


def test_clipped_total_moves_by_at_most_the_norm():
    draw = torch.Generator().manual_seed(0)
    slopes = torch.randn(50, 4, generator=draw, dtype=torch.float64) * 100
    moved = clipped_total(slopes, 2.0) - clipped_total(slopes[1:], 2.0)
    assert 1.99 < moved.norm() <= 2.0 + 1e-12
    assert torch.allclose(clipped_total(slopes * 1e-6, 2.0), slopes.sum(0) * 1e-6 / 4)


def test_refusals_name_a_remedy():
    with pytest.raises(ConfigurationError, match="decomfl shares directions"):
        scenario(SPSA, {"kind": "one_byte"}, data=DIGITS, privacy={"mechanism": {"kind": "gaussian",
                 "noise_multiplier": 1.0}})  # fmt: skip
    with pytest.raises(ValueError, match=r"client: \{kind: spsa\}"):
        Quick(DPZERO, COMFL, data=DIGITS)
