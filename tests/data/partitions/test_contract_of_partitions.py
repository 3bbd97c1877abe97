"""What every partitioner keeps: determinism, valid indices, nothing used twice, errors that say what to change."""

import numpy as np
import pytest

from fedopt.components import build, components, dump, names

TARGETS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))
GROUPS = np.array([f"owner-{i % 24:02d}" for i in range(600)])
CLIENTS = 12
KINDS = names("fedopt.data.partitions")


def _split(kind, seed=3, clients=CLIENTS):
    return components("fedopt.data.partitions")[kind]().split(TARGETS, GROUPS, clients, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_partition_is_a_valid_pure_split(kind):
    first, again, other = _split(kind), _split(kind), _split(kind, seed=4)
    assert np.array_equal(first.indices, again.indices) and np.array_equal(first.offsets, again.offsets)
    assert not np.array_equal(first.indices, other.indices) or kind == "class_ladder"
    assert first.num_clients == CLIENTS and first.offsets[0] == 0 and (first.sizes() >= 1).all()
    assert first.indices.dtype == first.offsets.dtype == np.int64
    assert first.indices.min() >= 0 and first.indices.max() < len(TARGETS) and len(first.indices) == first.offsets[-1]
    if kind != "dirichlet_with_replacement":
        assert len(np.unique(first.indices)) == len(first.indices)
    if kind not in ("dirichlet_with_replacement", "pathological"):
        assert len(first.indices) == len(TARGETS)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_round_trip(kind):
    problems = []
    made = build("fedopt.data.partitions", {"kind": kind}, (), problems)
    assert not problems and build("fedopt.data.partitions", dump(made), (), problems) == made


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "dirichlet_with_replacement"])
def test_more_clients_than_examples_is_refused_with_a_remedy(kind):
    with pytest.raises(ValueError, match=r"fewer clients|at most \d+ clients"):
        _split(kind, clients=601)


@pytest.mark.parametrize("kind", ["dirichlet", "pathological", "shard", "class_ladder", "inner_dirichlet"])
def test_label_partitions_refuse_real_values(kind):
    made = components("fedopt.data.partitions")[kind]()
    with pytest.raises(ValueError, match="one integer class per example"):
        made.split(np.random.default_rng(0).random(100), None, 5, 0)
