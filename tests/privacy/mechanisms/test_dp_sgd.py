"""DP-SGD in clients: the noise that training really adds has its scale, whichever way a cohort is computed."""

from __future__ import annotations

import math

import pytest
import torch
from privacy_cohorts import assert_only_this_scale

import fedopt
from fedopt.privacy.mechanisms.dp_sgd import DpSgd
from fedopt.protocol import Finished
from fedopt.scenario import from_mapping
from fedopt.simulation.assembly import assemble
from fedopt.simulation.simulator import Simulator
from scenarios import mapping

STYLES = {
    "flat": {"clipping_norm": 1e-3},
    "automatic": {"clipping": "automatic", "clipping_norm": 1e-3},
    "per_layer": {"clipping": "per_layer", "layer_norms": [6e-4, 8e-4]},  # together C = 0.001
}


def test_norms_of_layers_together_are_what_the_noise_is_for():
    """The sum of squares: one example may use up every layer's norm at once."""
    mechanism = DpSgd(clipping="per_layer", layer_norms=(3.0, 4.0, 12.0), noise_multiplier=2.0)
    assert mechanism.example_norm() == 13.0 and mechanism.example_clipping().noise_std == 26.0
    assert mechanism.example_clipping().clipping_norm == 13.0
    assert mechanism.release({}, 1, 1, None, None, None).facts["noise_std"] == 26.0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("formulation", ["loop", "auto"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_noise_of_local_steps_has_its_scale(formulation, steps, style):
    """z = 1000 and C = 0.001 drown the gradients: a reply is ``steps`` draws of lr z C / B, the model their mean."""
    scenario = from_mapping(
        mapping(
            privacy={
                "unit": "example",
                "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1000.0, **STYLES[style]},
            },
            client={"kind": "dp_sgd", "lr": 0.5, "batch_size": 4, "sampling_probability": 0.1, "steps": steps},
            sampling={"kind": "all"},
            run={"server_steps": 1, "evaluate_every": 1},
            engine__formulation=formulation,
        )
    )
    parts = assemble(scenario)
    before = parts.server.state.method.params.clone()
    simulator = Simulator(
        parts.server, parts.computation, parts.clock, scenario.client.batch_size_of, lambda *_: None, lambda _: None
    )
    assert isinstance(simulator.run(), Finished)
    moved = parts.server.state.method.params - before
    assert_only_this_scale(moved, 0.5 * 1000.0 * 1e-3 / 4 * (steps / 12) ** 0.5)


@pytest.mark.parametrize("formulation", ["loop", "auto"])
def test_without_noise_and_clipping_whole_batches_are_plain_sgd(formulation, tmp_path):
    """Everybody is drawn with probability 1: the steps are those of full batches."""
    top = {
        "data": {"kind": "digits", "clients": 12, "public": ["num_examples"]},
        "run": {"server_steps": 2, "evaluate_every": 2},
        "engine__formulation": formulation,
    }
    plain = {"kind": "sgd", "lr": 0.5, "batch_size": "full", "steps": 3}
    private = {"kind": "dp_sgd", "lr": 0.5, "batch_size": 1000, "steps": 3}
    quiet = {"kind": "dp_sgd", "clipping_norm": math.inf, "noise_multiplier": 0.0}
    one = fedopt.simulate(from_mapping(mapping(client=plain, **top)), out=tmp_path)
    other = fedopt.simulate(
        from_mapping(mapping(client=private, privacy={"unit": "example", "mechanism": quiet}, **top)), out=tmp_path
    )
    assert other.summary["epsilon"] is None  # infinite
    for name, value in one.parameters().items():
        assert torch.allclose(value, other.parameters()[name], atol=1e-6)
    clipped = {**quiet, "clipping_norm": 0.01}
    third = fedopt.simulate(
        from_mapping(mapping(client=private, privacy={"unit": "example", "mechanism": clipped}, **top)), out=tmp_path
    )
    assert not torch.allclose(next(iter(one.parameters().values())), next(iter(third.parameters().values())), atol=1e-3)
