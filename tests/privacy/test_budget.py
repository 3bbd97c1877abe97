"""Budgets from bare numbers: values, labels, and that no torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fedopt.privacy.budget import (
    budget_from_numbers,
    budget_shuffle,
    effect_of_cohort,
    effect_of_population,
    noise_for_targets,
)
from fedopt.privacy.gaussian_dp import gaussian_epsilon
from fedopt.privacy.releases import AccountingError


def test_bare_numbers():
    found = budget_from_numbers(1.0, 0.01, 1000, 1e-5, "add_or_remove_one")
    assert found["epsilon"] == pytest.approx(1.8282, abs=1e-3)
    assert found["epsilon_over_steps"][-1] == {"step": 1000, "epsilon": found["epsilon"]}
    assert (found["delta"], found["relation"], found["epsilon_accountant"]) == (1e-5, "add_or_remove_one", "pld")
    assert 0 < found["trade_off"]["advantage"] < 1
    json.dumps(found)


def test_relation_changes_the_answer():
    removed, replaced = (
        budget_from_numbers(10.0, 1.0, 100, 1e-5, r)["epsilon"] for r in ("zero_out_one", "replace_one")
    )
    assert (removed, replaced) == (pytest.approx(4.3772, abs=1e-4), pytest.approx(9.9973, abs=1e-4))


def test_without_sampling_there_is_no_amplification():
    """Trap: A without sampling is one Gaussian with mu = sqrt(1000), not 1.8."""
    assert budget_from_numbers(1.0, 1.0, 1000, 1e-5)["epsilon"] == pytest.approx(gaussian_epsilon(1000**0.5, 1e-5))


def test_shuffle():
    one = budget_shuffle(4.0, 100_000, 1, 1e-6)
    assert 0.16754 <= one["epsilon"] <= 0.17279
    many = budget_shuffle(1.0, 1000, 100, 1e-6)
    assert many["epsilon"] == pytest.approx(2.166, rel=5e-3) and many["epsilon_of_one_round"] < many["epsilon"]
    tiny = budget_shuffle(0.01, 2, 3, 1e-9)
    assert tiny["epsilon"] <= tiny["epsilon_without_shuffling"] == pytest.approx(0.03)


def test_noise_for_targets_falls_with_the_target():
    rows = noise_for_targets(0.05, 100, 1e-5, "add_or_remove_one", (1.0, 4.0))
    assert rows[0]["noise_multiplier"] > rows[1]["noise_multiplier"]
    assert all(0.998 * row["target_epsilon"] <= row["epsilon"] <= row["target_epsilon"] for row in rows)


def test_effect_of_cohort_and_population():
    rows = effect_of_cohort(1.0, 1000, (10, 100), 50, 1e-5, "add_or_remove_one")
    assert rows[0]["epsilon"] < rows[1]["epsilon"] and rows[0]["noise_of_mean"] == 10 * rows[1]["noise_of_mean"]
    with pytest.raises(AccountingError, match="cohort must be in"):
        effect_of_cohort(1.0, 10, (20,), 1, 1e-5, "zero_out_one")
    real, imagined = effect_of_population(1.0, 10, (1000, 1_000_000), 50, 1e-5, "add_or_remove_one", simulated=1000)
    assert "hypothetical_population" not in real
    assert imagined["hypothetical_population"] == 1_000_000 and imagined["note"].startswith("HYPOTHETICAL")
    assert imagined["epsilon"] < real["epsilon"]
    labelled = budget_from_numbers(1.0, 1e-5, 100, 1e-7, hypothetical_population=1_000_000)
    assert labelled["note"] == "HYPOTHETICAL: holds only if there were 1000000 units"


@pytest.mark.parametrize(("q", "steps", "text"), [(0.0, 1, "sampling_probability"), (0.5, 0, "steps must be >= 1")])
def test_nonsense_is_refused(q, steps, text):
    with pytest.raises(AccountingError, match=text):
        budget_from_numbers(1.0, q, steps, 1e-5)


def test_no_torch_and_no_accounting_library_is_imported():
    code = (
        "import sys; from fedopt.privacy.budget import budget_from_numbers as b; b(1.0, 0.1, 10, 1e-5); "
        "print([m for m in ('torch', 'dp_accounting', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def scenario_of(**changes):
    from fedopt.scenario import from_mapping
    from scenarios import mapping

    return from_mapping(mapping(**changes))


def test_a_scenario_names_its_noise_and_needs_no_model():
    from fedopt.budget import as_text, budget_of

    skellam = scenario_of(privacy={"trust": "distributed", "mechanism": {"kind": "skellam", "noise_multiplier": 2.0}})
    with pytest.raises(ValueError, match="needs the model; give their number: --dimension"):
        budget_of(skellam)
    assert budget_of(skellam, targets=(), dimension=650)["epsilon"] > 0
    shuffle = scenario_of(
        privacy={
            "trust": "shuffle",
            "relation": "replace_one",
            "mechanism": {"kind": "shuffle_hemisphere", "local_epsilon": 2.0},
        }
    )
    found = budget_of(shuffle, targets=(1.0,))
    assert found["local_epsilon"] == 2.0 and found["noise_for_targets"][0]["local_epsilon"] < 2.0
    assert "local_epsilon: 2.0000" in as_text(found) and "noise_multiplier" not in as_text(found)


def test_a_hypothetical_population_is_said_in_text_json_and_plot(tmp_path):
    from fedopt.budget import as_text, budget_of, plot

    found = budget_of(
        scenario_of(
            privacy={"mechanism": {"kind": "gaussian", "noise_multiplier": 1.0}, "hypothetical_population": 1200},
            sampling={"kind": "poisson", "cohort_size": 4},
        ),
        targets=(),
    )
    assert found["hypothetical_population"] == 1200 and "HYPOTHETICAL" in found["note"]
    assert "HYPOTHETICAL: holds only if there were 1200 units" in as_text(found)
    plot(found, tmp_path / "budget.svg")
    assert (tmp_path / "budget.svg").stat().st_size > 0
    bare = budget_from_numbers(1.0, 0.01, 10, 1e-5, hypothetical_population=1_000_000)
    assert "HYPOTHETICAL: holds only if there were 1000000 units" in as_text(bare)


def test_what_clients_pay_by_their_numbers_of_examples_is_that_of_the_run(tmp_path):
    """Rates are batch size over n_i: the data say what n_i is, no assumption does."""
    import fedopt
    from fedopt.budget import budget_of

    chosen = scenario_of(
        client={"kind": "dp_sgd", "batch_size": 5, "steps": 4},
        data__public=["num_examples"],
        sampling={"kind": "all"},
        privacy={"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}},
        run={"server_steps": 3},
    )
    found = budget_of(chosen, targets=(3.0,))
    assert found["epsilon"] == pytest.approx(fedopt.simulate(chosen, out=tmp_path).summary["epsilon"], rel=1e-9)
    assert found["over_steps"][-1]["epsilon"] == found["epsilon"]
    gone = scenario_of(
        client={"kind": "dp_sgd", "batch_size": 5, "steps": 4},
        data={"kind": "table", "clients": 3, "path": "nowhere.csv", "target_column": "y", "public": ["num_examples"]},
        privacy={"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}},
        sampling={"kind": "all"},
    )
    with pytest.raises(ValueError, match=r"pays depends on its number of examples \(.*nowhere.csv.*set client.sampl"):
        budget_of(gone)


@pytest.mark.parametrize(
    "mechanism",
    [
        {"kind": "skellam", "noise_multiplier": 2.0, "minimum_survivors": 3, "bits": 12},
        {"kind": "shuffle_vector_sum", "bits": 400, "minimum_clients": 3, "clipping_norm": 1.0},
    ],
)
def test_a_buffer_is_the_cohort_of_a_stream(mechanism, tmp_path):
    """Scale and levels follow from how many replies a release has: the buffer's size, not the clients in flight."""
    import fedopt
    from fedopt.budget import budget_of

    chosen = scenario_of(
        privacy={
            "trust": "distributed" if mechanism["kind"] == "skellam" else "shuffle",
            "mechanism": mechanism,
            "max_participations": 2,
            "delta": 1e-4,
        },
        sampling={"kind": "uniform", "concurrency": 10},
        aggregator={"kind": "fedbuff", "buffer_size": 3, "staleness": {"kind": "constant"}},
        devices={"compute": {"kind": "constant"}},
        run={"server_steps": 8},
    )
    spent = fedopt.simulate(chosen, out=tmp_path).summary["epsilon"]
    assert budget_of(chosen, targets=(), dimension=650)["epsilon"] == pytest.approx(spent, rel=1e-6)


def test_examples_are_sampled_inside_the_clients():
    from fedopt.budget import as_text, budget_of

    found = budget_of(
        scenario_of(
            client={"kind": "dp_sgd", "sampling_probability": 0.1, "steps": 2},
            privacy={"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}},
        ),
        targets=(),
    )
    assert "Poisson batches of examples inside the clients" in as_text(found)
