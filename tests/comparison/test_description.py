"""Comparison files: every problem at once, with file and line; and what they expand to."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedopt.comparison.api import checked_description
from fedopt.comparison.description import Tune
from fedopt.comparison.expansion import expand, override, run_key
from fedopt.comparison.tuning import candidates
from fedopt.scenario import ScenarioError
from scenarios import small

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "scenarios" / "comparisons").glob("*.yaml"))

BASE = """name: base
data: {kind: digits, clients: 12}
model: {kind: logistic_regression}
client: {kind: sgd, lr: 0.2, batch_size: 20}
run: {server_steps: 6}
"""
GOOD = """name: good
base: base.yaml
variants:
  plain: {}
  slow: {client.lr: 0.01}
  private:
    privacy: {mechanism: {kind: gaussian}}
epsilons: [1, 8]
seeds: [0, 4]
"""


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        checked_description(write(tmp_path, text))
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_levels_apply_to_private_variants_and_seeds_to_all(tmp_path: Path) -> None:
    runs = expand(checked_description(write(tmp_path, GOOD)))
    assert [run.label for run in runs] == [
        "plain, seed 0",
        "plain, seed 4",
        "slow, seed 0",
        "slow, seed 4",
        "private, epsilon 1, seed 0",
        "private, epsilon 1, seed 4",
        "private, epsilon 8, seed 0",
        "private, epsilon 8, seed 4",
    ]
    assert runs[2].scenario.client.lr == 0.01 and runs[3].scenario.seed == 4  # type: ignore[attr-defined]
    assert runs[4].scenario.privacy is not None and runs[4].scenario.privacy.target_epsilon == 1.0
    assert len({run.key for run in runs}) == 8


def test_noise_multipliers_replace_the_mechanisms(tmp_path: Path) -> None:
    runs = expand(checked_description(write(tmp_path, GOOD.replace("epsilons: [1, 8]", "noise_multipliers: [0.5, 2]"))))
    assert runs[-1].scenario.privacy.mechanism.noise_multiplier == 2.0  # type: ignore[union-attr, attr-defined]
    assert runs[-1].cell.label == "private, noise multiplier 2"


def test_several_bases_and_a_mapping_from_python() -> None:
    base = {"data": {"kind": "digits"}, "model": {"kind": "logistic_regression"}, "client": {"kind": "sgd", "lr": 0.1}}
    bases = {"short": base | {"run": {"server_steps": 1}}, "long": base | {"run": {"server_steps": 9}}}
    runs = expand(checked_description({"name": "n", "bases": bases, "variants": {"a": None}, "seeds": [0]}))
    assert [(r.label, r.scenario.run.server_steps) for r in runs] == [("short / a, seed 0", 1), ("long / a, seed 0", 9)]


def test_all_problems_of_the_file_at_once(tmp_path: Path) -> None:
    text = "name: bad name\nbase: base.yaml\nvariants: {a: {}}\nsead: [1]\nprocesses: 0\n"
    found = problems(tmp_path, text)
    assert any(p.startswith("c.yaml:4:1: sead: unknown option of a comparison; did you mean seeds?") for p in found)
    assert any(p.startswith("c.yaml:5:1: processes: must be >= 1, got 0") for p in found)
    assert any(p.startswith("c.yaml:1:1: name:") for p in found) and len(found) == 3


def test_mistakes_of_every_sort_come_in_one_go_each_with_its_line(tmp_path: Path) -> None:
    text = """name: bad
base: base.yaml
sead: 3
epsilons: [-1]
variants:
  plain: {}
  fast: {client.lr: -1}
  odd: 5
  private: {privacy: {mechanism: {kind: gaussian}, deltta: 0.1}}
seeds: [4, 4, x]
baseline: other
tune: {parameters: {client.lr: [0.1, 0.2], client.batch_size: 5}, tries: 3}
"""
    found = problems(tmp_path, text)
    assert sorted(int(problem.split(":")[1]) for problem in found) == [3, 4, 7, 8, 9, 10, 11, 12, 12], found
    assert any(p.startswith("c.yaml:12:8: tune.parameters: client.batch_size: must be a list") for p in found)
    repeated = problems(tmp_path, text.replace("x]", "5]"))
    assert "c.yaml:10:1: seeds: must not repeat, got [4, 4, 5]." in repeated and len(repeated) == len(found)


@pytest.mark.parametrize(
    ("change", "only"),
    [
        (("seeds: [0, 4]", "seeds: no\ntune: {parameters: {client.lr: [1]}, seed: 0}"), "c.yaml:9:1: seeds:"),
        (("seeds: [0, 4]", "tune: {method: rand, trials: 3, parameters: {client.lr: {low: 1}}}"), "c.yaml:9:8: tune"),
        (("  private:\n    privacy: {mechanism: {kind: gaussian}}", "  private: []\nbaseline: private"), "c.yaml:6:3:"),
        (("epsilons: [1, 8]", "epsilons: many"), "c.yaml:8:1: epsilons:"),
    ],
)
def test_what_follows_from_another_mistake_is_not_said(tmp_path: Path, change: tuple[str, str], only: str) -> None:
    (found,) = [p for p in problems(tmp_path, GOOD.replace(*change)) if "no variant has a privacy section" not in p]
    assert found.startswith(only)


def test_several_mistakes_inside_one_section(tmp_path: Path) -> None:
    wrong = "tune: {method: rand, tries: 3, share: 2, parameters: {client.lr: [1]}}\nvariants: {a: 1, b: 2}\n"
    found = problems(tmp_path, "name: c\nbase: base.yaml\n" + wrong)
    assert sorted(p.split(": ")[1] for p in found) == [
        "tune.method",
        "tune.share",
        "tune.tries",
        *("variants." + v for v in "ab"),
    ]


def test_changes_from_the_command_line_are_checked_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("client.lr: 0.01", "client.lr: -1"))
    with pytest.raises(ScenarioError) as caught:
        checked_description(path, {"baseline": "nobody", "delta": 2})
    said = str(caught.value)
    assert "delta: must be < 1, got 2" in said and "c.yaml:5:10: variants.slow.client.lr: must be > 0" in said


def test_problems_of_runs_stand_where_they_were_caused(tmp_path: Path) -> None:
    text = GOOD.replace("slow: {client.lr: 0.01}", "slow: {client.lr: -1, aggregator: {kind: fedag}}")
    found = problems(tmp_path, text)
    assert found[0] == "c.yaml:5:10: variants.slow.client.lr: must be > 0, got -1." or found[1].startswith(
        "c.yaml:5:10"
    )
    assert any(p.startswith("c.yaml:5:") and "did you mean fedavg?" in p for p in found)
    (tmp_path / "base.yaml").write_text(BASE.replace("server_steps: 6", "server_stops: 6"))
    with pytest.raises(ScenarioError) as caught:
        checked_description(tmp_path / "c.yaml")
    assert any("base.yaml:5:" in p and "did you mean server_steps?" in p for p in caught.value.problems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("base: base.yaml", "base: nowhere.yaml"), "c.yaml:2:1: base:"),
        (("base: base.yaml\n", ""), "c.yaml:1: comparison: give either base or bases."),
        (("seeds: [0, 4]", "seeds: [4, 4]"), "c.yaml:9:1: seeds: must not repeat, got [4, 4]."),
        (("epsilons: [1, 8]", "epsilons: [1, -8]"), "c.yaml:8:1: epsilons: must be > 0 and not repeat"),
        (
            ("seeds: [0, 4]", "baseline: other"),
            "c.yaml:9:1: baseline: 'other' is no variant; known: plain, slow, private.",
        ),
        (("privacy: {mechanism: {kind: gaussian}}", "client.lr: 0.1"), "no variant has a privacy section"),
        (
            ("seeds: [0, 4]", "tune: {parameters: {client.lr: [1]}, seed: 0}"),
            "c.yaml:9:38: tune.seed: 0 is a seed of the comparison",
        ),
        (("seeds: [0, 4]", "tune: {parameters: {client.lr: 3}}"), "client.lr: must be a list of values, got 3"),
        (
            ("seeds: [0, 4]", "tune: {parameters: {client.lr: [1, 2]}, variants: {slow: {client.lr: [1]}}}"),
            "every method must get the same number of trials, got plain 2, slow 1, private 2",
        ),
        (("seeds: [0, 4]", "tune: {parameters: {client.lr: [-1]}}"), "must be > 0, got -1"),
        (("seeds: [0, 4]", "tune: {method: random, parameters: {client.lr: [1]}}"), "random draws need trials"),
    ],
)
def test_refusals(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert any(message in problem for problem in problems(tmp_path, GOOD.replace(*change)))


def test_override_replaces_components_and_merges_sections() -> None:
    body = {"client": {"kind": "sgd", "lr": 1, "momentum": 0.9}, "sampling": "all", "privacy": {"delta": 0.1}}
    override(body, {"client": {"kind": "proximal"}, "privacy": {"trust": "local"}, "sampling.cohort_size": 3})
    assert body == {
        "client": {"kind": "proximal"},
        "sampling": {"kind": "all", "cohort_size": 3},
        "privacy": {"delta": 0.1, "trust": "local"},
    }


def test_equal_content_has_an_equal_key() -> None:
    assert run_key(small()) == run_key(small(name="other", engine__threads=2, engine__chunk=4)), "how, not what"
    others = [small(seed=4), small(client__lr=0.3), small(engine__dtype="bfloat16")]
    keys = {run_key(small()), *map(run_key, others), run_key(small(), "first_half")}
    assert len(keys) == 5


def test_candidates() -> None:
    grid = Tune(parameters={"a": [1, 2], "b": [3, 4, 5]}, variants={"own": {"c": list(range(6))}})
    assert candidates(grid, "x")[1] == {"a": 1, "b": 4} and len(candidates(grid, "x")) == 6
    assert candidates(grid, "own")[5] == {"c": 5}
    drawn = candidates(
        Tune(method="random", trials=200, parameters={"lr": {"low": 0.01, "high": 1.0, "log": True}}), "x"
    )
    values = [d["lr"] for d in drawn]
    assert (
        min(values) >= 0.01
        and max(values) <= 1.0
        and drawn
        == candidates(
            Tune(method="random", trials=200, parameters={"lr": {"low": 0.01, "high": 1.0, "log": True}}), "y"
        )
    ), "every method gets the same draws"
    assert 0.35 < sum(v < 0.1 for v in values) / 200 < 0.65, "half of the draws lie below the geometric middle"


@pytest.mark.parametrize("path", [p for p in FILES if "base" not in p.stem], ids=lambda p: p.stem)
def test_comparisons_that_ship_are_valid(path: Path) -> None:
    checked_description(path)
