"""DP-SGD in clients: the noise that training really adds has its scale, whichever way a cohort is computed."""

from __future__ import annotations

import pytest
from privacy_cohorts import assert_only_this_scale

from fedopt.protocol import Finished
from fedopt.scenario import from_mapping
from fedopt.simulation.assembly import assemble
from fedopt.simulation.simulator import Simulator
from scenarios import mapping


@pytest.mark.parametrize("formulation", ["loop", "auto"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_noise_of_local_steps_has_its_scale(formulation, steps):
    """z = 1000 and C = 0.001 drown the gradients: a reply is ``steps`` draws of lr z C / B, the model their mean."""
    scenario = from_mapping(
        mapping(
            privacy={
                "unit": "example",
                "mechanism": {"kind": "dp_sgd", "clipping_norm": 1e-3, "noise_multiplier": 1000.0},
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
