"""What a problem of functions would ignore of a model is refused."""

from __future__ import annotations

from typing import Any

import pytest
from zeroth_order_runs import QUADRATICS

from fedopt.data.fzoos_quadratics import FzoosQuadratics
from fedopt.problems import ConfigurationError
from fedopt.scenario import from_mapping
from fedopt.simulation.assembly import assemble
from scenarios import mapping


def body(data: Any, model: Any) -> dict[str, Any]:
    client = {"kind": "finite_difference", "count": 4}
    return mapping(data=data, model=model, client=client, aggregator="fedavg", sampling="all")


@pytest.mark.parametrize(
    ("data", "model", "told"),
    [
        (QUADRATICS, "mlp", "model.kind: fzoos_quadratics minimises functions of a point, so mlp would not be trained"),
        (QUADRATICS, {"kind": "point", "center": 0.2}, "model.center: has no effect: the starting point is that of the "
         "data; leave it out, and fzoos_quadratics says where it starts"),
        ({"kind": "quadratics", "dimension": 5}, {"kind": "point", "initial": "normal", "spread": 0.5},
         "model.spread: has no effect: the starting point is that of the data; leave it out, and set data.start"),
    ],
)  # fmt: skip
def test_what_a_function_would_ignore_of_a_model_is_refused(data, model, told):
    with pytest.raises(ConfigurationError) as caught:
        from_mapping(body(data, model))
    assert told in str(caught.value)


def test_a_point_with_its_defaults_spelled_out_is_what_a_run_directory_holds():
    made = from_mapping(body(QUADRATICS, "point"))
    assert from_mapping(made.resolved()) == made


def test_the_start_of_a_run_refuses_for_data_of_a_users_own(monkeypatch: pytest.MonkeyPatch):
    """Whose kind need not say that it loads functions."""
    monkeypatch.setattr(FzoosQuadratics, "is_function", False)
    made = from_mapping(body(QUADRATICS, {"kind": "point", "center": 0.2}))
    with pytest.raises(ValueError, match=r"^model.center: has no effect"):
        assemble(made)
