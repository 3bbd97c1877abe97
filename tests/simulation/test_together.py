"""Runs trained in common passes against the same runs alone: numbers, failures, interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedopt.engine.joined import JoinedRuns
from fedopt.runlog import read_rounds, read_summary, read_updates
from fedopt.scenario import Scenario
from fedopt.simulation.session import CHECKPOINT, Session
from fedopt.simulation.together import run_together
from scenarios import small

STEPS = 3
DP_SGD: dict[str, Any] = {
    "unit": "example",
    "relation": "replace_one",
    "mechanism": {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 1.0},
    "delta": 1e-3,
}
KINDS: dict[str, dict[str, Any]] = {
    "sgd, seeds": {},
    "batched, momentum": {"client": {"kind": "sgd", "lr": 0.05, "steps": 4, "momentum": 0.9, "weight_decay": 0.01}},
    "hidden layer, clipped gradients": {
        "model": {"kind": "mlp", "hidden": [8]},
        "client": {"kind": "sgd", "lr": 0.05, "gradient_clip": 0.5},
    },
    "scaffold": {"client": {"kind": "scaffold", "lr": 0.05}, "aggregator": {"kind": "scaffold"}},
    "dp_sgd": {
        "data.public": ["num_examples"],
        "client": {"kind": "dp_sgd", "lr": 0.1, "steps": 3},
        "sampling": {"kind": "all"},
        "privacy": DP_SGD,
    },
}


def scenario(seed: int, **changes: Any) -> Scenario:
    flat = {key.replace(".", "__"): value for key, value in changes.items()}
    return small(
        **{
            "seed": seed,
            "run__server_steps": STEPS,
            "run__evaluate_clients": "none",
            "engine__threads": 1,
            "engine__formulation": "auto",
            **flat,
        }
    )


def alone(each: Scenario, directory: Path) -> Path:
    Session(each, directory, quiet=True).run()
    return directory


def together(scenarios: list[Scenario], folder: Path, resume: bool = False) -> list[Path]:
    def work(i: int) -> Callable[[Any], Path]:
        def executed(make_driver: Any) -> Path:
            Session(scenarios[i], folder / f"{i}", quiet=True, make_driver=make_driver).run(resume=resume)
            return folder / f"{i}"

        return executed

    return run_together([work(i) for i in range(len(scenarios))])


def model(directory: Path) -> torch.Tensor:
    return torch.cat([value.flatten() for value in load_file(directory / "model.safetensors").values()])


def assert_close(first: Path, second: Path) -> None:
    """Equal tables but for rounding: 1e-5 relative per step."""
    assert read_updates(first).drop(["weight"]).equals(read_updates(second).drop(["weight"]))
    rounds = read_rounds(first), read_rounds(second)
    for name in ("test_loss", "train_loss", "update_norm", "participants", "uplink_bytes"):
        values = [np.array(table[name].to_pylist(), float) for table in rounds]
        np.testing.assert_allclose(values[0], values[1], rtol=STEPS * 1e-5, err_msg=name)
    before, after = model(first), model(second)
    assert float((before - after).norm() / before.norm()) < STEPS * 1e-5


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every joined pass."""
    seen: list[int] = []
    original = JoinedRuns._pass

    def counted(self: JoinedRuns, asked: Any, group: Any) -> Any:
        seen.append(len({asked[position][0] for position, _ in group}))
        return original(self, asked, group)

    monkeypatch.setattr(JoinedRuns, "_pass", counted)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_runs_trained_together_have_the_numbers_of_the_runs_alone(kind: str, tmp_path: Path, passes: list[int]) -> None:
    scenarios = [scenario(seed, **KINDS[kind]) for seed in (0, 1, 2)]
    made = together(scenarios, tmp_path)
    assert max(passes) == 3, "no pass held rows of all three runs"
    for i, each in enumerate(scenarios):
        assert_close(alone(each, tmp_path / f"alone{i}"), made[i])
    assert not torch.allclose(model(made[0]), model(made[1]))


def test_rates_and_noise_may_differ_from_row_to_row(tmp_path: Path, passes: list[int]) -> None:
    plain = [scenario(0, client={"kind": "sgd", "lr": lr, "steps": 3}) for lr in (0.01, 0.3)]
    noisy = [scenario(0, **KINDS["dp_sgd"]) for _ in range(2)]
    privacy = {**DP_SGD, "mechanism": {**DP_SGD["mechanism"], "noise_multiplier": 5.0}}
    noisy[1] = scenario(0, **{**KINDS["dp_sgd"], "privacy": privacy})
    for name, pair in (("rates", plain), ("noise", noisy)):
        passes.clear()
        made = together(pair, tmp_path / name)
        assert set(passes) == {2}
        for i, each in enumerate(pair):
            assert_close(alone(each, tmp_path / name / f"alone{i}"), made[i])


def test_runs_of_different_rules_models_and_lengths_go_together(tmp_path: Path) -> None:
    scenarios = [
        scenario(0),
        scenario(0, client={"kind": "sgd", "lr": 0.05, "momentum": 0.5}),
        scenario(1, model={"kind": "mlp", "hidden": [5]}),
        scenario(2, run__server_steps=1),
        scenario(3, sampling={"kind": "uniform", "concurrency": 4}, aggregator={"kind": "fedbuff", "buffer_size": 2}),
    ]
    made = together(scenarios, tmp_path)
    for i, each in enumerate(scenarios):
        assert_close(alone(each, tmp_path / f"alone{i}"), made[i])


def test_a_diverging_run_and_one_that_fails_in_a_pass_leave_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(self: JoinedRuns, asked: Any, group: Any) -> Any:
        calls.append(len(group))
        raise RuntimeError("out of memory")

    scenarios = [scenario(0), scenario(1, client={"kind": "sgd", "lr": 3e38, "steps": 9}), scenario(2)]
    made = together(scenarios, tmp_path / "diverged")
    assert [read_summary(d)["status"] for d in made] == ["finished", "diverged", "finished"]
    lost = [read_summary(d)["lost"] for d in made]
    assert lost[0] == lost[2] == 0 < lost[1], "replies that are not finite are dropped in their own run only"
    monkeypatch.setattr(JoinedRuns, "_pass", broken)
    with pytest.warns(RuntimeWarning, match="trained alone in this pass: out of memory"):
        again = together([scenarios[0], scenarios[2]], tmp_path / "broken")
    assert calls
    for directory, other in zip(again, (made[0], made[2]), strict=True):
        assert_close(other, directory)


def test_interrupted_runs_go_on_from_their_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenarios = [scenario(seed, run__checkpoint_every=1) for seed in (0, 1)]
    original, seen = JoinedRuns.train, []

    def interrupted(self: JoinedRuns, asked: Any) -> Any:
        seen.append(len(asked))
        if len(seen) == STEPS:
            raise KeyboardInterrupt
        return original(self, asked)

    monkeypatch.setattr(JoinedRuns, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        together(scenarios, tmp_path)
    monkeypatch.setattr(JoinedRuns, "train", original)
    assert all((tmp_path / str(i) / CHECKPOINT).exists() for i in range(2))
    made = together(scenarios, tmp_path, resume=True)
    for i, each in enumerate(scenarios):
        assert read_summary(made[i])["status"] == "finished"
        assert_close(alone(each, tmp_path / f"alone{i}"), made[i])
