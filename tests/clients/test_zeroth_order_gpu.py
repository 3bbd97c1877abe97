"""Zeroth-order methods on a CUDA device: the CPU replays their logs to the same bits, and both descend alike."""

from __future__ import annotations

import pytest
import torch
from zeroth_order_runs import COMFL, DIFFERENCES, DIGITS, FZOOS, LOGGED, SPSA, TWO, Quick

from fedopt.zeroth_order import seed_log

pytestmark = pytest.mark.gpu
CUDA = {"engine": {"device": "cuda"}}
SCALARS = {**LOGGED, "digits": (SPSA, COMFL, {"data": DIGITS})}
VECTORS = {
    "fzoos": (FZOOS, TWO, {}),
    "scaffold1": ({**DIFFERENCES, "method": "scaffold1"}, TWO, {}),
    "rademacher": ({**DIFFERENCES, "directions": "rademacher"}, {"kind": "fedavg"}, {"data": DIGITS}),
    "fedzo": (DIFFERENCES, {"kind": "safeguard"}, {}),
}


@pytest.mark.parametrize("name", SCALARS)
def test_the_cpu_replays_the_log_of_a_cuda_run_to_the_very_bits(name):
    client, aggregator, more = SCALARS[name]
    there, here = (Quick(client, aggregator, steps=6, **more, **on) for on in (CUDA, {}))
    assert there.params.device.type == "cuda" and torch.equal(there.start.cpu(), here.start)
    log = seed_log.SeedLog.from_bytes(there.parts.scenario.aggregator.files(there.state)["seed_log.bin"])
    assert torch.equal(seed_log.replay(here.start, log), there.params.cpu())
    assert there.values[-1] == pytest.approx(here.values[-1], rel=0.05)
    wanted = [(row["queries"], row["uplink_bytes"], row["downlink_bytes"]) for row in here.rounds]
    assert [(row["queries"], row["uplink_bytes"], row["downlink_bytes"]) for row in there.rounds] == wanted


@pytest.mark.parametrize("name", VECTORS)
def test_vector_methods_descend_alike_on_both_devices(name):
    client, aggregator, more = VECTORS[name]
    there, here = (Quick(client, aggregator, steps=6, **more, **on) for on in (CUDA, {}))
    assert there.params.device.type == "cuda"
    assert there.values[-1] == pytest.approx(here.values[-1], rel=0.05)
    assert [row["queries"] for row in there.rounds] == [row["queries"] for row in here.rounds]
    assert here.values[-1] < here.parts.engine.evaluate(here.start)["loss"]
