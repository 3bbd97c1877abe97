"""FZooS and FedZO on the paper's quadratics against the curves of an independent program (d = 300, N = 5, T = 10).

That program's means over three starts, its iterates projected as here: F after 10 rounds. Its safeguard changes nothing
while every round improves.
"""

from __future__ import annotations

from typing import Any

import pytest
from zeroth_order_runs import TWO, Quick

ONE = {"rule": "constant", "value": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("client", "heterogeneity", "value", "width"),
    [
        ({"kind": "fzoos"}, 5.0, 0.113, 0.03),
        ({"kind": "fzoos", "gamma": ONE}, 50.0, 2.700, 0.3),
        ({"kind": "finite_difference"}, 5.0, 1.139, 0.2),
        ({"kind": "finite_difference"}, 50.0, 3.169, 0.3),
    ],
)
def test_value_after_ten_rounds(client: Any, heterogeneity: float, value: float, width: float):
    data = {"kind": "fzoos_quadratics", "clients": 5, "dimension": 300, "heterogeneity": heterogeneity}
    fzoos = client["kind"] == "fzoos"
    run = Quick(client, TWO if fzoos else {"kind": "fedavg"}, steps=20 if fzoos else 10, data=data)
    assert run.values[-1] == pytest.approx(value, abs=width)
    assert run.rounds[-1]["queries"] == (5350 + 50 if fzoos else 10_550)


@pytest.mark.slow
def test_a_decaying_correction_stalls_under_extreme_heterogeneity():
    data = {"kind": "fzoos_quadratics", "clients": 5, "dimension": 300, "heterogeneity": 50.0}
    run = Quick({"kind": "fzoos", "features": 1000}, TWO, steps=12, data=data)
    assert run.values[-1] > run.values[1]
