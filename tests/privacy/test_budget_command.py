"""``fedopt budget`` as it is typed: numbers, shuffles, scenarios, tables and plots; neither training nor torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedopt.cli import app

NUMBERS = "--noise-multiplier 1.0 --sampling-probability 0.01 --steps 1000 --delta 1e-5 --relation add_or_remove_one"
SHUFFLE = "--shuffle --local-epsilon 4 --clients 100000 --steps 1 --delta 1e-6"
SCENARIO = Path(__file__).parents[2] / "scenarios" / "privacy" / "dp-fedavg.yaml"


def answer(line: str, code: int = 0) -> str:
    """What the command prints."""
    done = CliRunner().invoke(app, ["budget", *line.split()])
    assert done.exit_code == code, done.output
    return done.output


def test_bare_numbers_and_shuffles_print_json_with_an_epsilon():
    found = json.loads(answer(f"{NUMBERS} --json"))
    assert found["epsilon"] == pytest.approx(1.8282, abs=1e-3)
    assert (found["delta"], found["relation"], found["steps"]) == (1e-5, "add_or_remove_one", 1000)
    shuffled = json.loads(answer(f"{SHUFFLE} --json"))
    assert 0.16754 <= shuffled["epsilon"] <= 0.17279 and shuffled["trust"] == "shuffle"
    replaced = json.loads(answer(f"{NUMBERS.replace('add_or_remove_one', 'replace_one')} --json"))
    assert replaced["epsilon"] == pytest.approx(2.843, abs=1e-3)


def test_a_scenario_answers_with_tables_and_a_plot(tmp_path):
    text = answer(f"{SCENARIO} --plot {tmp_path}/budget.svg")
    for title in (
        "epsilon over steps",
        "noise for targets",
        "epsilon and noise of the mean over cohorts",
        "unit: client",
    ):
        assert title in text
    assert (tmp_path / "budget.svg").read_text().count("<svg") == 1
    found = json.loads(answer(f"{SCENARIO} --json"))
    assert 7.99 <= found["epsilon"] <= 8.0  # its target
    assert [row["target_epsilon"] for row in found["noise_for_targets"]] == [0.5, 1.0, 2.0, 4.0, 8.0]
    noise = [row["noise_multiplier"] for row in found["noise_for_targets"]]
    assert noise == sorted(noise, reverse=True) and noise[-1] == pytest.approx(found["noise_multiplier"], rel=1e-3)
    epsilons = [row["epsilon"] for row in found["over_steps"]]
    assert epsilons == sorted(epsilons) and epsilons[-1] == found["epsilon"]
    cohorts = found["over_cohorts"]
    assert cohorts[0]["epsilon"] < cohorts[-1]["epsilon"] and cohorts[0]["noise_of_mean"] > cohorts[-1]["noise_of_mean"]


def test_an_imagined_population_is_said_everywhere():
    for line, many in ((NUMBERS, 1_000_000), (SHUFFLE, 1_000_000), (str(SCENARIO), 9_000)):
        assert f"HYPOTHETICAL: holds only if there were {many} units" in answer(f"{line} --population {many}")
        assert json.loads(answer(f"{line} --population {many} --json"))["hypothetical_population"] == many
    real, supposed = (
        json.loads(answer(f"{SCENARIO} {more} --json"))["noise_multiplier"] for more in ("", "--population 9000")
    )
    assert supposed < real  # the same target with more to hide among


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "give a scenario, or --noise-multiplier, or --shuffle"),
        ("--shuffle --local-epsilon 4", "--shuffle needs --local-epsilon and --clients"),
        ("--noise-multiplier 0", "noise_multiplier must be > 0, got 0.0"),
        ("--noise-multiplier 1 --sampling-probability 2", "sampling_probability must be in (0, 1], got 2.0"),
        ("--noise-multiplier 1 --delta 0", "delta must be in [1e-12, 1), got 0.0"),
        ("--noise-multiplier 1 --relation swap", "relation must be one of"),
        (str(SCENARIO.parents[1] / "quickstart.yaml"), "the scenario has no privacy section"),
    ],
)
def test_what_cannot_be_answered_says_why(line, words):
    assert words in answer(line, code=2)


def test_a_scenario_is_answered_without_torch():
    code = (
        f"import sys; sys.argv = ['fedopt', 'budget', {str(SCENARIO)!r}]\n"
        "from fedopt.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600, capture_output=True)
