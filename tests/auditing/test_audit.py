"""Audits of whole scenarios: clean code passes, quiet noise is caught, results reach run directory and report."""

from __future__ import annotations

import copy
import json
import re

import pytest
from audited_scenarios import EXAMPLES, FIXED, MANY, ROUNDS
from typer.testing import CliRunner

import fedopt
from fedopt.auditing.audit import audit_scenario
from fedopt.auditing.settings import Audit
from fedopt.cli import app
from fedopt.scenario import ConfigurationError, from_mapping
from fedopt.simulation.assembly import assemble
from fedopt.yaml_writer import to_yaml

HEADLINE = r"^claimed \d+\.\d, certified lower bound \d+\.\d, estimate \d+\.\d$"


def scenario(body, **privacy):
    made = copy.deepcopy(body)
    made["privacy"] |= privacy
    return from_mapping(made)


def test_clean_client_level_code_passes_and_says_all_three_numbers():
    """Over ten seeds the bound is 2.1 +- 0.4; the claim is 7.6."""
    result = audit_scenario(scenario(MANY, max_participations=4), seed=1)
    assert not result.alarm and re.match(HEADLINE, result.headline())
    assert result.certified is not None and 0.5 < result.certified < result.claimed
    assert result.canaries == 150 and result.terms["relation"] == "zero_out_one"
    kinds = {finding.method: finding.kind for finding in result.findings}
    assert kinds == {"one_run": "certified", "one_run_f_dp": "certified", "one_shot": "estimate"}
    assert all(f.alpha == 0.025 for f in result.findings if f.kind == "certified")  # they share 0.05


def test_replace_one_claims_are_converted_to_presence():
    one, two = (
        audit_scenario(scenario(FIXED, relation=r), Audit(method="one_shot", server_steps=2), seed=1)
        for r in ("zero_out_one", "replace_one")
    )
    assert one.claimed == pytest.approx(two.claimed) and two.terms["relation"] == "zero_out_one"


def test_quiet_noise_is_caught_by_a_certified_bound():
    quiet = {"kind": "privacy_bugs:QuietGaussian", "clipping_norm": 0.5, "noise_multiplier": 8.0}
    result = audit_scenario(scenario(MANY, mechanism=quiet), Audit(server_steps=3), seed=2)
    assert result.certified is not None and result.certified > result.claimed
    assert result.alarm and "exceeds the claimed epsilon" in result.reason() and "ALARM" in result.text()


def test_repeats_run_independent_trials():
    settings = Audit(method="repeats", repeats=24, server_steps=2)
    result = audit_scenario(scenario(FIXED, max_participations=2), settings, seed=3)
    (finding,) = result.findings
    assert finding.method == "repeats" and finding.kind == "certified"
    assert finding.epsilon is not None and finding.epsilon <= result.claimed and "missed" in finding.detail


def test_example_level_canaries_go_through_dp_sgd():
    clean = audit_scenario(scenario(EXAMPLES), Audit(canaries=200), seed=4)
    assert not clean.alarm and clean.terms["unit"] == "example" and clean.canaries == 200

    def without_noise(one, data, noise):
        parts = assemble(one, data, noise)
        work = parts.computation.work
        quiet = work._clipping.__class__(**{**vars(work._clipping), "noise_std": 1e-6})
        parts.computation.work = work.protected(quiet)
        return parts

    claim = {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 8.0}
    broken = audit_scenario(scenario(EXAMPLES, mechanism=claim), Audit(canaries=200), build=without_noise, seed=4)
    assert broken.alarm and broken.certified > broken.claimed


@pytest.mark.slow
def test_example_level_canaries_go_through_diff2():
    body = {
        **ROUNDS,
        "data": {"kind": "digits", "clients": 5, "public": ["num_examples"]},
        "client": {"kind": "gradient_difference"},
        "sampling": {"kind": "all"},
        "aggregator": {"kind": "diff2", "restart_every": 2, "server_lr": 0.5},
        "privacy": {
            "unit": "example",
            "relation": "replace_one",
            "mechanism": {"kind": "diff2", "clipping_norm": 5.0, "noise_multiplier": 2.0},
        },
        "run": {"server_steps": 3},
    }
    result = audit_scenario(from_mapping(copy.deepcopy(body)), Audit(canaries=100, checks=True), seed=5)
    assert not result.alarm and result.certified is not None
    quiet = {"kind": "diff2", "clipping_norm": 5.0, "noise_multiplier": 20.0}

    def without_noise(one, data, noise):
        parts = assemble(one, data, noise)
        parts.server.mechanism = parts.server.mechanism.model_copy(update={"noise_multiplier": 1e-3})
        return parts

    bad = copy.deepcopy(body)
    bad["privacy"]["mechanism"] = quiet
    claimed = audit_scenario(from_mapping(bad), Audit(canaries=100), seed=5).claimed
    broken = audit_scenario(from_mapping(bad), Audit(canaries=100, method="one_run"), build=without_noise, seed=5)
    assert broken.certified is not None and broken.certified > claimed


def test_local_trust_is_audited_on_single_replies():
    local = {"kind": "local_gaussian", "clipping_norm": 0.5, "noise_multiplier": 0.1}
    one = scenario(FIXED, trust="local", relation="replace_one", mechanism=local, max_participations=4)
    result = audit_scenario(one, Audit(checks=True), seed=6)
    assert not result.alarm and result.certified is not None and result.certified > 0.2


def test_simulate_audits_where_the_scenario_says_so(tmp_path):
    body = copy.deepcopy(FIXED)
    body["audit"] = {"server_steps": 2, "checks": True}
    run = fedopt.simulate(from_mapping(body), out=tmp_path)
    found = json.loads((run.directory / "audit.json").read_text())
    assert found == run.audit and not found["alarm"] and len(found["checks"]) == 9
    page = run.report.read_text()
    assert "Named checks" in page and found["headline"] in page and "certified lower bound" in page


def test_command_line_fails_with_3_on_an_alarm(tmp_path):
    body = copy.deepcopy(MANY)
    body["privacy"]["mechanism"] = {"kind": "privacy_bugs:QuietGaussian", "clipping_norm": 0.5, "noise_multiplier": 8.0}
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml(body))
    run = fedopt.simulate(path, out=tmp_path / "out")
    arguments = ["audit", str(run.directory), "--method", "one_run", "--steps", "3", "--seed", "2", "--json"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 3, answer.output
    printed = json.loads(answer.stdout)
    assert printed["alarm"] and printed["certified"] > printed["claimed"]
    assert json.loads((run.directory / "audit.json").read_text()) == printed
    assert "ALARM" in run.report.read_text()
    clean = CliRunner().invoke(
        app, ["audit", str(path), "--set", "privacy.mechanism.kind=gaussian", "--method", "one_shot", "--steps", "2"]
    )
    assert clean.exit_code == 0 and clean.stdout.startswith("claimed ")


def test_what_cannot_be_audited_is_refused(tmp_path):
    body = copy.deepcopy(FIXED)
    del body["privacy"]
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml(body))
    answer = CliRunner().invoke(app, ["audit", str(path)])
    assert answer.exit_code == 2 and "no privacy section, so there is no claim to audit" in answer.output
    with pytest.raises(ConfigurationError, match="no claim to audit; add one or leave audit out"):
        from_mapping({**body, "audit": {}})
    answer = CliRunner().invoke(app, ["audit", str(path), "--method", "guess"])
    assert answer.exit_code == 2 and "method" in answer.output
