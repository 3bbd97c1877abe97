"""Seed logs: bit-exact replay here and in another process, lossless formats, fingerprints."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fedopt import rng
from fedopt.zeroth_order import one_byte
from fedopt.zeroth_order.directions import Directions
from fedopt.zeroth_order.seed_log import (
    Record,
    SeedLog,
    apply_,
    exact_hash,
    pack_scalars,
    payload_bytes,
    replay,
    rounded_hash,
    unpack_scalars,
)

D = 5000


def checkpoint(dtype=torch.float32) -> torch.Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(0), dtype=dtype)


def some_log(kind: str = "rademacher") -> SeedLog:
    records = [Record(t, rng.key(0, "log", t), (0.1 * t - 0.35, 1e-3 * t), 0.01 / (t + 1), t % 3) for t in range(8)]
    return SeedLog(kind, D).extend(records)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian", "sphere"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_replay_equals_the_live_model_bit_for_bit(kind, dtype):
    live, start = checkpoint(dtype), checkpoint(dtype)
    log = some_log(kind)
    for record in log.records:
        apply_(live, kind, [record])
    assert torch.equal(replay(start, log), live)
    assert torch.equal(start, checkpoint(dtype)) and not torch.equal(start, live)


def test_a_record_moves_against_the_scalar():
    record = Record(0, rng.key(0, "sign"), (2.0,), 0.5)
    direction = Directions("gaussian", D, record.key).block(0, D)
    moved = apply_(torch.zeros(D), "gaussian", [record])
    assert torch.equal(moved, -direction)


def test_perturbing_in_place_leaves_residue_that_copies_do_not():
    theta, stream, radius = checkpoint(), Directions("gaussian", D, rng.key(0, "residue")), 1e-3
    shaken = theta.clone()
    for step in range(20):
        for scale in (radius, -2 * radius, radius):
            stream.add_(shaken, scale, step)
    assert not torch.equal(shaken, theta)
    assert float((shaken - theta).abs().max()) < 20 * 4 * float(theta.abs().max()) * 2**-23
    stream.pair(theta, radius, 0)
    assert torch.equal(theta, checkpoint())


@pytest.mark.parametrize("scalar_format", ["float64", "float32", "byte", "sign"])
def test_bytes_round_trip_exactly(scalar_format):
    values = {
        "float64": (0.1, -1e-300, 0.0),
        "float32": tuple(torch.tensor([0.1, -3.3, 0.0]).tolist()),
        "byte": tuple(one_byte.decode(torch.tensor([3, 200, 0], dtype=torch.uint8)).tolist()),
        "sign": (1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0),
    }[scalar_format]
    log = SeedLog("gaussian", 17).extend([Record(3, rng.key(1, "k"), values, 0.3, 2), Record(4, 5, values[:1], 1e-9)])
    data = log.to_bytes(scalar_format)
    assert SeedLog.from_bytes(data) == log
    payload = payload_bytes(len(values), scalar_format) + payload_bytes(1, scalar_format)
    assert len(data) == len(SeedLog("gaussian", 17).to_bytes()) + 2 * 44 + payload
    with pytest.raises(ValueError, match="cut short or damaged after 1 of 2 records"):
        SeedLog.from_bytes(data[:-1])


def test_payload_sizes():
    sizes = [payload_bytes(10, f) for f in ("float64", "float32", "byte", "sign")]
    assert sizes == [80, 40, 10, 2]
    assert payload_bytes(10_000, "sign") == 1250  # FeedSign's log of 10,000 steps


def test_a_lossy_format_is_refused():
    with pytest.raises(ValueError, match="format byte would change a scalar"):
        pack_scalars((0.123,), "byte")
    with pytest.raises(ValueError, match="format float32 would change"):
        pack_scalars((0.1,), "float32")
    with pytest.raises(ValueError, match="format sign would change"):
        pack_scalars((0.0,), "sign")
    with pytest.raises(ValueError, match="expected 8 bytes of scalars, got 3"):
        unpack_scalars(b"abc", 2, "float32")
    with pytest.raises(ValueError, match="not a seed log"):
        SeedLog.from_bytes(b"nothing of the kind")


def test_json_round_trips_exactly():
    log = some_log("sphere")
    assert SeedLog.from_json(log.to_json()) == log


def test_not_finite_is_refused():
    with pytest.raises(ValueError, match="record of step 4 holds NaN or infinity"):
        SeedLog("gaussian", 3).extend([Record(4, 1, (float("nan"),), 0.1)])


def test_catching_up_equals_never_leaving():
    log = some_log()
    before = SeedLog(log.kind, D, log.records[:5])
    assert torch.equal(replay(replay(checkpoint(), before), log.since(5)), replay(checkpoint(), log))
    assert log.since(6).num_scalars == 4


def test_drift_control():
    """Restoring a snapshot and re-applying the window removes the residue of in-place perturbation."""
    log, theta = some_log(), checkpoint()
    exact = replay(theta, log)
    drifted = exact.clone()
    for scale in (1e-3, -2e-3, 1e-3):
        Directions("gaussian", D, 5).add_(drifted, scale)
    assert exact_hash(drifted) != exact_hash(exact)
    assert rounded_hash(drifted, 0) == rounded_hash(exact, 0)
    assert exact_hash(replay(theta, log)) == exact_hash(exact)
    assert rounded_hash(exact) != rounded_hash(exact + 0.01)


def test_replay_in_another_process_gives_the_same_bits(tmp_path):
    log = some_log()
    path = tmp_path / "log"
    path.write_bytes(log.to_bytes())
    code = (
        "import sys, torch; from pathlib import Path; from fedopt.zeroth_order.seed_log import *;"
        f"start = torch.randn({D}, generator=torch.Generator().manual_seed(0));"
        "print(exact_hash(replay(start, SeedLog.from_bytes(Path(sys.argv[1]).read_bytes()))))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == exact_hash(replay(checkpoint(), log))
