"""The schedule under privacy follows from public facts (durations, availability), and the accountant knows it."""

from __future__ import annotations

from typing import Any

import pytest

from fedopt.flower.rules import refusals
from fedopt.scenario import from_mapping
from scenarios import GAUSSIAN, private, refusal

EXAMPLES: dict[str, Any] = {"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}}
DP_SGD: dict[str, Any] = {"kind": "dp_sgd", "sampling_probability": 0.1, "steps": 1}
FIXED_WORK: dict[str, Any] = {"kind": "sgd", "lr": 0.1, "batch_size": 2, "steps": 3}
STREAM: dict[str, Any] = {
    "sampling": {"kind": "uniform", "concurrency": 4},
    "aggregator": {"kind": "fedbuff", "buffer_size": 2},
}


@pytest.mark.parametrize(
    "compute, words",
    [
        ({"kind": "truncated_gaussian", "per": "example"}, "private number of examples"),
        ({"kind": "correlated", "rank_correlation": 0.2}, "private number of examples"),
        ({"kind": "correlated", "rank_correlation": 0.0, "base": {"kind": "ladder"}}, None),
        ({"kind": "truncated_gaussian"}, None),
        ({"kind": "privacy_bugs:SilentTimes"}, "private number of examples"),
    ],
)
def test_devices_that_read_numbers_of_examples_are_refused_where_times_decide(compute, words):
    """Equal work for everybody is not enough where the device model itself looks at how much data a client has."""
    body = private({"max_participations": 2}, **STREAM, client=FIXED_WORK, devices={"compute": compute})
    if words is None:
        assert from_mapping(body).privacy is not None
    else:
        assert words in refusal(body)
    assert from_mapping({**body, "data": {**body["data"], "public": ["num_examples"]}}).privacy is not None


@pytest.mark.parametrize("unit", ["client", "example"])
def test_who_is_there_must_not_depend_on_private_data(unit):
    top: dict[str, Any] = {} if unit == "client" else {"client": DP_SGD}
    changes = {} if unit == "client" else EXAMPLES
    labels = private(changes, **top, devices={"availability": {"kind": "label", "beta": 0.5}})
    assert "label makes clients available by the labels they hold" in refusal(labels)
    labels["data"]["public"] = ["num_examples"]
    assert "use bernoulli" in refusal(labels)
    sizes = private(changes, **top, devices={"availability": {"kind": "data_size"}})
    if unit == "client":
        assert "data_size makes clients available by their private numbers of examples" in refusal(sizes)
        sizes["data"]["public"] = ["num_examples"]
    assert from_mapping(sizes).privacy is not None  # replacing one example changes no client's number of them
    assert from_mapping(private(changes, **top, devices={"availability": {"kind": "bernoulli"}})).privacy is not None


def test_one_example_more_must_not_move_a_deadline():
    """Under add_or_remove_one a client's number of examples is hidden, so its duration must not follow from it."""
    top: dict[str, Any] = {
        "client": DP_SGD,
        "sampling": {"kind": "fixed", "cohort_size": 4, "deadline_s": 2.0},
        "devices": {"compute": {"kind": "work"}},
    }
    message = refusal(private({**EXAMPLES, "relation": "add_or_remove_one"}, **top))
    assert "duration depends on its private number" in message and "use relation: zero_out_one" in message
    assert from_mapping(private(EXAMPLES, **top)).privacy is not None


@pytest.mark.parametrize(
    "top", [STREAM, {"sampling": {"kind": "fixed", "cohort_size": 4, "deadline_s": 2.0}}], ids=["stream", "deadline"]
)
def test_deployed_durations_follow_the_work_whatever_the_device_model_says(top):
    """The simulated devices take no time at all; real ones take longer for more examples."""
    limit = {"max_participations": 2}
    real = from_mapping(private(limit, **top, devices={}))
    (message,) = [text for text in refusals(real) if "real durations" in text]
    assert "decide which release its reply is in; set client.steps" in message
    for sound in (
        private(limit, **top, devices={}, client=FIXED_WORK),
        private(limit, **top, devices={}, data__public=["num_examples"]),
        private(limit, sampling={"kind": "fixed", "cohort_size": 4}, devices={}),
    ):
        assert not [text for text in refusals(from_mapping(sound)) if "real durations" in text]


def test_durations_may_depend_on_public_or_fixed_work():
    timed = {"max_participations": 2, "mechanism": GAUSSIAN}
    common: dict[str, Any] = {
        "sampling": {"kind": "uniform", "concurrency": 4},
        "aggregator": {"kind": "fedbuff", "buffer_size": 2},
        "devices": {"compute": {"kind": "constant", "per_step": True}},
    }
    assert from_mapping(private(timed, **common, data__public=["num_examples"])).privacy is not None
    fixed = {"kind": "sgd", "lr": 0.1, "batch_size": 2, "steps": 3}
    assert from_mapping(private(timed, **common, client=fixed)).privacy is not None


def test_the_accountant_must_know_the_releases():
    body = private({"relation": "replace_one", "accountant": "rdp"}, sampling={"kind": "poisson", "cohort_size": 3})
    assert "Poisson sampling under replace_one has no Renyi bound here; use accountant: pld" in refusal(body)
    body["privacy"]["accountant"] = "pld"
    assert from_mapping(body).privacy is not None


def test_times_may_be_given_client_by_client():
    body = private({"max_participations": 2}, **STREAM, client=FIXED_WORK)
    body["devices"] = {"compute": {"kind": "constant", "seconds": [1.0 + i for i in range(12)]}}
    assert from_mapping(body).privacy is not None
    body["devices"]["compute"]["seconds"] = [1.0, 2.0, 3.0]
    assert "devices.compute: devices.compute.seconds has 3 times for 12 clients; give one" in refusal(body)
