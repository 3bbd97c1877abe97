"""Refusals between privacy and the rest of a scenario: the reason and what to do instead."""

from __future__ import annotations

from typing import Any

import pytest

from fedopt.scenario import from_mapping
from scenarios import mapping, private, refusal

POISSON: dict[str, Any] = {"kind": "poisson", "cohort_size": 3}
BY_WORK: dict[str, Any] = {"compute": {"kind": "work"}}


def test_a_sound_combination_is_accepted():
    assert from_mapping(private()).privacy is not None
    assert from_mapping(private({"relation": "add_or_remove_one"}, sampling={"kind": "poisson", "cohort_size": 3}))


@pytest.mark.parametrize("data", [{"standardize": False}, {"public": ["feature_statistics"]}])
def test_standardised_inputs_are_declared_public_or_left_alone(data: dict[str, Any]):
    assert from_mapping(private(data={"kind": "tabular_sklearn", "clients": 5, **data})).privacy is not None


@pytest.mark.parametrize(
    "body, words",
    [
        (private(aggregator={"kind": "median"}), ["Median declares no sensitivity bound", "use fedavg"]),
        (private(aggregator={"kind": "fedexp"}), ["declares no sensitivity bound", "norms of raw updates"]),
        (
            private(aggregator={"kind": "fedavg", "weights": "num_examples"}),
            ["aggregator.weights: num_examples is private", "data.public: [num_examples]"],
        ),
        (
            private(data={"kind": "tabular_sklearn", "clients": 5}),
            ["data.standardize: means and deviations", "standardize: false", "data.public: [feature_statistics]"],
        ),
        (
            private({"relation": "add_or_remove_one"}),
            ["privacy.relation: add_or_remove_one does not apply", "zero_out_one, or sampling: poisson"],
        ),
        (
            private({"relation": "add_or_remove_one"}, sampling=POISSON, data__public=["num_examples"]),
            ["data.public: num_examples lists everybody who is there", "use relation: zero_out_one"],
        ),
        (
            private({"relation": "add_or_remove_one"}, sampling={"kind": "poisson", "cohort_size": 3, "deadline_s": 9}),
            ["add_or_remove_one does not apply"],
        ),
        (
            private(
                {"relation": "add_or_remove_one", "max_participations": 2},
                sampling={"kind": "uniform", "concurrency": 4},
                aggregator={"kind": "fedbuff", "buffer_size": 2},
            ),
            ["asynchronous pacing moves every later buffer"],
        ),
        (
            private(sampling={"kind": "uniform", "concurrency": 4}, aggregator={"kind": "fedbuff", "buffer_size": 2}),
            ["privacy.max_participations: is required under asynchronous pacing"],
        ),
        (
            private({"max_participations": 2}, sampling={"kind": "poisson", "cohort_size": 3}),
            ["makes Poisson coins depend on earlier ones", "sampling: fixed"],
        ),
        (private({"trust": "local"}), ["privacy.trust: is local", "protects under trust: central"]),
        (
            private(
                {"max_participations": 2},
                sampling={"kind": "uniform", "concurrency": 4},
                aggregator={"kind": "fedbuff", "buffer_size": 2},
                devices={"compute": {"kind": "constant", "per_step": True}},
            ),
            ["devices.compute: a client's duration depends on its private number of examples", "data.public: [num_"],
        ),
        (
            private(
                sampling={"kind": "fixed", "cohort_size": 4, "deadline_s": 2.0},
                devices={"compute": {"kind": "constant", "per_step": True}},
            ),
            ["decides which release its reply is in; set client.steps"],
        ),
        (private({"unit": "example"}), ["protects unit: client", "mechanism: {kind: dp_sgd}"]),
        (private({"target_epsilon": 3.0}), ["privacy.target_epsilon: the mechanism's noise is given as well"]),
        (private({"mechanism": {"kind": "gaussian"}}), ["has no noise; set its noise_multiplier"]),
        (
            private({"mechanism": {"kind": "gaussian"}, "target_epsilon": 3.0}, run={"time_s": 5.0}),
            ["needs a planned length", "run.server_steps or privacy.max_participations"],
        ),
        (private({"hypothetical_population": 10**6}), ["only through Poisson sampling"]),
        (
            private({"mechanism": {"kind": "tree", "noise_multiplier": 1.0}}),
            ["one participation of a client per tree", "min_separation: 6"],
        ),
        (
            private({"mechanism": {"kind": "banded_matrix", "noise_multiplier": 1.0}}),
            ["how far apart a client's participations are"],
        ),
        (
            private({"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}}),
            ["sgd does not clip per example", "client: {kind: dp_sgd}"],
        ),
        (
            private(
                {"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}},
                client={"kind": "dp_sgd"},
            ),
            ["depend on its private number of examples", "client.sampling_probability"],
        ),
        (private(client={"kind": "dp_sgd", "steps": 2}), ["mechanism gaussian does not"]),
        (mapping(client={"kind": "dp_sgd", "steps": 2}), ["only under a privacy section", "client: {kind: sgd}"]),
        (
            private({"unit": "example", "mechanism": {"kind": "diff2", "noise_multiplier": 1.0}}),
            ["use aggregator: {kind: diff2}", "data.public: [num_examples]"],
        ),
        (
            private(
                {"trust": "distributed", "mechanism": {"kind": "distributed_gaussian", "noise_multiplier": 1.0}},
                sampling={"kind": "poisson", "cohort_size": 3},
            ),
            ["the server sees who takes part"],
        ),
        (
            private(
                {
                    "trust": "distributed",
                    "max_participations": 2,
                    "mechanism": {"kind": "distributed_gaussian", "noise_multiplier": 1.0},
                },
                sampling={"kind": "uniform", "concurrency": 4},
                aggregator={"kind": "fedbuff", "buffer_size": 2},
            ),
            ["needs every reply to count alike", "staleness: constant"],
        ),
        (
            private(
                {
                    "trust": "shuffle",
                    "relation": "add_or_remove_one",
                    "mechanism": {"kind": "shuffle_hemisphere", "local_epsilon": 1.0},
                }
            ),
            ["add_or_remove_one does not apply", "public number of participants"],
        ),
        (
            private(sampling={"kind": "fixed", "cohort_size": 4, "over_selection": 1.5}, devices=BY_WORK),
            ["devices.compute: a client's duration depends on its private number of examples"],
        ),
        (
            private(run={"server_steps": 3, "time_s": 9.0}, devices=BY_WORK),
            ["devices.compute: a client's duration depends on its private number of examples"],
        ),
        (
            private(sampling=POISSON, devices={"availability": {"kind": "markov"}}),
            ["devices.availability: lets the length of a round", "use sampling: fixed"],
        ),
        (
            private(sampling=POISSON, run={"server_steps": 3, "time_s": 9.0}),
            ["run.time_s: lets the length of a round"],
        ),
        (
            private(aggregator={"kind": "gradient_correction"}, client={"kind": "finite_difference"}),
            ["gradient_correction has no privacy analysis", "ask the same clients twice"],
        ),
        (
            private(
                {"unit": "example", "relation": "add_or_remove_one", "mechanism": {"kind": "diff2"}},
                aggregator={"kind": "diff2"},
                client={"kind": "gradient_difference"},
                sampling={"kind": "all"},
                data__public=["num_examples"],
            ),
            ["diff2 divides by the clients' numbers of examples", "replace_one or zero_out_one"],
        ),
        (
            private(
                {"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}},
                client={"kind": "dp_sgd", "sampling_probability": 0.1, "steps": 1},
                data__partition={"kind": "dirichlet_with_replacement", "examples_per_client": 20},
            ),
            ["data.partition: dirichlet_with_replacement gives copies of one example", "use dirichlet"],
        ),
    ],
)
def test_what_nobody_can_bound_is_refused_with_a_remedy(body, words):
    message = refusal(body)
    for word in words:
        assert word in message, message


def test_all_problems_are_reported_together():
    message = refusal(private({"trust": "local", "target_epsilon": 1.0}, aggregator={"kind": "median"}))
    assert message.count("\n") >= 2


def test_checks_do_not_import_torch():
    import subprocess
    import sys

    code = (
        "import sys; from fedopt.scenario import from_mapping; "
        "from_mapping({'data': {'kind': 'digits', 'clients': 5}, 'model': {'kind': 'logistic_regression'}, "
        "'client': {'kind': 'sgd'}, 'sampling': {'kind': 'poisson', 'cohort_size': 2}, "
        "'privacy': {'mechanism': {'kind': 'gaussian'}, 'target_epsilon': 5.0}, 'run': {'server_steps': 3}}); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_one_bound_for_every_tensor_of_the_model():
    from fedopt.simulation.assembly import assemble

    body = private(
        {"unit": "example", "mechanism": {
            "kind": "dp_sgd", "noise_multiplier": 1.0, "clipping": "per_layer", "layer_norms": [1.0]}},
        client={"kind": "dp_sgd", "sampling_probability": 0.1, "steps": 1},
    )  # fmt: skip
    with pytest.raises(ValueError, match="layer_norms has 1 numbers, but the model has 2 parameter tensors"):
        assemble(from_mapping(body))
    body["privacy"]["mechanism"]["layer_norms"] = [1.0, 0.5]
    assemble(from_mapping(body))


def test_plans_that_the_run_would_not_keep():
    """Work that is not what was planned, losses of shares, published sizes and streams under add-or-remove."""
    fixed = {"kind": "dp_sgd", "sampling_probability": 0.1, "steps": 1}
    examples = {"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}}
    work = private(examples, client=fixed, devices={"work": {"kind": "epochs_uniform"}})
    assert "changes the number of local steps" in refusal(work)
    dynamic = private(
        {**examples, "max_participations": 2},
        client=fixed,
        sampling={"kind": "uniform", "concurrency": 4},
        aggregator={"kind": "delayed_nesterov", "fastest_local_steps": 8},
        devices={"compute": {"kind": "constant"}},
    )
    assert "fastest_local_steps changes the number of local steps" in refusal(dynamic)
    dynamic["aggregator"].pop("fastest_local_steps")
    assert from_mapping(dynamic).privacy is not None
    removed = {**examples, "relation": "add_or_remove_one"}
    assert "leave data.public" in refusal(private(removed, client=fixed, data__public=["num_examples"]))
    stream = {"sampling": {"kind": "uniform", "concurrency": 4}, "aggregator": {"kind": "fedbuff", "buffer_size": 2}}
    limited = {**removed, "max_participations": 2}
    assert "moves every later buffer" in refusal(private(limited, client=fixed, **stream))
    shares = {
        "unit": "example",
        "trust": "distributed",
        "relation": "replace_one",
        "mechanism": {"kind": "diff2", "noise": "distributed", "noise_multiplier": 1.0},
    }
    lossy = private(
        shares,
        client={"kind": "gradient_difference"},
        aggregator={"kind": "diff2"},
        sampling={"kind": "all"},
        data__public=["num_examples"],
        devices={"dropout": 0.2},
    )
    assert "takes its share of the noise with it" in refusal(lossy)
    lossy["devices"] = {"availability": {"kind": "bernoulli"}}
    assert "takes its share of the noise with it" in refusal(lossy)
    lossy["devices"] = {}
    assert from_mapping(lossy).privacy is not None


def test_noise_in_shares_needs_one_sum_of_all_replies():
    """Buffered DeComFL adds up per starting version: each sum has the shares of its own replies only."""
    body = private(
        {
            "trust": "distributed",
            "max_participations": 3,
            "mechanism": {"kind": "distributed_gaussian", "noise_multiplier": 1.0, "minimum_survivors": 6},
        },
        sampling={"kind": "uniform", "concurrency": 8},
        aggregator={"kind": "decomfl", "buffer_size": 6},
        client={"kind": "spsa"},
        devices={"compute": {"kind": "constant"}},
    )
    assert "splits them over sums" in refusal(body)
    body["aggregator"] = {"kind": "decomfl"}
    body["sampling"] = {"kind": "fixed", "cohort_size": 6}
    assert from_mapping(body).privacy is not None


def test_batch_normalisation_is_refused_where_examples_are_protected():
    """In a model of ours by its option; in somebody's own module when it is built."""
    from fedopt.simulation.assembly import assemble

    examples = {"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}}
    work = {"kind": "dp_sgd", "sampling_probability": 0.1, "steps": 1}
    ours = private(examples, client=work, model={"kind": "leaf_cnn_celeba", "normalisation": "batch"})
    assert "model.normalisation: batch normalisation mixes the examples of a batch" in refusal(ours)
    own = {"kind": "user_module", "factory": "scenarios:batch_normalised"}
    with pytest.raises(ValueError, match=r"model: 2 \(BatchNorm1d\) mixes the examples of a batch.*use nn.GroupNorm"):
        assemble(from_mapping(private(examples, client=work, model=own)))
    assemble(from_mapping(private(model=own)))  # whole updates are clipped: nothing to refuse
