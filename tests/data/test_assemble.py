"""From examples to federated data: local tests, labels for partitions, feature shift."""

import numpy as np
import pytest

from fedopt.data._assemble import hold_out, limited, partition_labels
from fedopt.data._shift import FeatureShift, _normals, shift_of
from fedopt.data.base import Examples
from fedopt.data.partitions.dirichlet import Dirichlet
from fedopt.data.partitions.dirichlet_with_replacement import DirichletWithReplacement
from fedopt.data.partitions.natural_id import NaturalId
from fedopt.data.user_arrays import UserArrays
from fedopt.types import Task

RNG = np.random.default_rng(0)
X, Y = RNG.random((400, 1, 4, 4)).astype(np.float32), np.repeat(np.arange(4), 100)
X_TEST, Y_TEST = RNG.random((80, 1, 4, 4)).astype(np.float32), np.repeat(np.arange(4), 20)
GROUPS, GROUPS_TEST = np.arange(400) % 10, np.arange(80) % 12


def _load(seed=0, **settings):
    given = {"clients": 8, **settings}
    return UserArrays.of(X, Y, X_TEST, Y_TEST, GROUPS, GROUPS_TEST, **given).load(seed)


def test_held_out_tests_are_the_clients_own_examples_and_no_longer_trained_on():
    data = _load(partition=Dirichlet(alpha=0.5), client_test_fraction=0.25)
    whole = _load(partition=Dirichlet(alpha=0.5))
    assert len(data.test) == 80 + len(data.client_tests.indices)
    for client in range(8):
        kept = data.train.inputs[data.clients.of(client)]
        held = data.test.inputs[data.client_tests.of(client)]
        before = whole.train.inputs[whole.clients.of(client)]
        both = np.concatenate([kept, held]).reshape(len(before), -1)
        assert np.array_equal(np.sort(both, axis=0), np.sort(before.reshape(len(before), -1), axis=0))
        assert len(held) == pytest.approx(len(before) * 0.25, abs=1) and len(kept) >= 1
    assert np.array_equal(data.test.inputs[:80], X_TEST)


def test_a_client_keeps_one_example_to_train_on_however_much_is_held_out():
    data = _load(partition=Dirichlet(alpha=0.5), clients=40, client_test_fraction=0.99)
    before = _load(partition=Dirichlet(alpha=0.5), clients=40).clients.sizes()
    assert before.min() < 10
    assert (data.clients.sizes() >= 1).all() and (data.client_tests.sizes() >= 1)[before >= 2].all()
    tiny = _load(partition=Dirichlet(alpha=0.5), clients=40, client_test_fraction=0.01)
    assert (tiny.client_tests.sizes() == np.where(before >= 2, np.clip(np.rint(before * 0.01), 1, None), 0)).all()


def test_held_out_is_refused_where_clients_share_examples():
    with pytest.raises(ValueError, match="set client_test_source: matched"):
        _load(partition=DirichletWithReplacement(), client_test_fraction=0.2)


def test_matched_tests_have_the_clients_class_proportions():
    partition = DirichletWithReplacement(alpha=0.3, examples_per_client=200)
    data = _load(partition=partition, client_test_fraction=1 - 1e-9, client_test_source="matched")
    assert len(data.test) == 80 and set(data.client_tests.sizes()) == {200}
    for client in range(8):
        train = np.bincount(Y[data.clients.of(client)], minlength=4) / 200
        test = np.bincount(Y_TEST[data.client_tests.of(client)], minlength=4) / 200
        error = np.sqrt(train * (1 - train) / 200)
        assert (np.abs(train - test) <= 4 * error + 1e-12).all()


def test_owner_tests_follow_the_natural_owner():
    data = _load(partition=NaturalId(), client_test_source="owner", clients=10)
    for client in range(10):
        assert set(GROUPS_TEST[data.client_tests.of(client)]) == {client}
    assert data.client_tests.sizes().sum() == (GROUPS_TEST < 10).sum()
    with pytest.raises(ValueError, match="every natural owner at one client"):
        _load(client_test_source="owner")


def test_hold_out_and_limit():
    train, test = hold_out(Examples(X, Y, GROUPS), 0.2, 0)
    assert (len(train), len(test)) == (320, 80)
    assert len(np.unique(np.concatenate([train.inputs, test.inputs]).reshape(400, -1), axis=0)) == 400
    assert not np.array_equal(test.inputs, hold_out(Examples(X, Y), 0.2, 1)[1].inputs)
    few = limited(Examples(X, Y), 30, 0, "train")
    assert len(few) == 30 and len(limited(few, 99, 0, "train")) == 30
    with pytest.raises(ValueError, match="leaves one side empty"):
        hold_out(Examples(X[:2], Y[:2]), 0.01, 0)


def test_labels_of_regression_and_text():
    values = RNG.normal(size=(1000, 1)).astype(np.float32)
    bins = partition_labels(Task("regression", (1,), 1), Examples(values, values))
    assert np.bincount(bins).tolist() == [100] * 10 and values[bins == 9].min() >= values[bins == 8].max()
    tokens = np.zeros((6, 5), dtype=np.int64)
    text = Task("next_token", (5,), 3)
    assert partition_labels(text, Examples(tokens, tokens, np.array(list("bbaacc")))).tolist() == [1, 1, 0, 0, 2, 2]
    assert partition_labels(text, Examples(tokens, tokens)).tolist() == [0] * 6


def test_rotation_turns_by_client_and_keeps_the_pixels():
    data = _load(feature_shift=FeatureShift(rotations=4))
    own = data.clients.of(1)
    assert np.array_equal(data.transforms.apply(1, X[own], own), np.rot90(X[own], 1, (2, 3)))
    assert np.array_equal(data.transforms.apply(4, X[own], own), X[own])
    written = data.materialised()
    assert written.transforms is None and written.materialised() is written
    assert np.array_equal(written.train.inputs[data.clients.of(6)], np.rot90(X[data.clients.of(6)], 2, (2, 3)))
    assert np.array_equal(written.test.inputs[3], np.rot90(X_TEST[3], 3, (1, 2)))  # dealt in turn to client 3's view


def test_noise_grows_along_the_ladder_and_is_the_same_in_every_batch():
    shift = shift_of(FeatureShift(noise_std=2.0), (50,), 4, 0)
    blank, ids = np.zeros((4000, 50), dtype=np.float32), np.arange(4000)
    for client in range(4):
        std, expected = shift.apply(client, blank, ids).std(), 2.0 * (client + 1) / 4
        tolerance = 4 * expected / np.sqrt(2 * blank.size)
        assert abs(std - expected) < tolerance
        assert abs(std - 1.5 * expected) > tolerance and abs(std - expected / 1.5) > tolerance
    part = shift.apply(2, blank[:5], ids[100:105])
    assert np.array_equal(part, shift.apply(2, blank, ids)[100:105])
    assert not np.array_equal(part, shift.apply(2, blank[:5], ids[100:105], "test"))


def test_noise_is_standard_normal():
    from scipy.stats import kstest

    drawn = _normals(12345, np.arange(2000), 10)
    assert kstest(drawn.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(drawn.T) - np.eye(10)).max() < 4.5 / np.sqrt(2000)
    assert abs(np.corrcoef(drawn.ravel(), _normals(12346, np.arange(2000), 10).ravel())[0, 1]) < 4 / np.sqrt(20000)


def test_shared_examples_are_copied_for_every_client():
    partition = DirichletWithReplacement(examples_per_client=100)
    data = _load(partition=partition, feature_shift=FeatureShift(rotations=2), client_test_fraction=0.1,
                 client_test_source="matched")  # fmt: skip
    written = data.materialised()
    assert len(written.train) == 800 and len(np.unique(written.clients.indices)) == 800
    odd = data.clients.of(5)
    assert np.array_equal(written.train.inputs[written.clients.of(5)], np.rot90(X[odd], 2, (2, 3)))
    assert np.array_equal(written.train.targets[written.clients.of(5)], Y[odd])
    tests = data.client_tests.of(5)
    assert np.array_equal(written.test.inputs[written.client_tests.of(5)], np.rot90(X_TEST[tests], 2, (2, 3)))


def test_impossible_shifts_are_refused():
    with pytest.raises(ValueError, match="turns images"):
        shift_of(FeatureShift(rotations=2), (10,), 3, 0)
    with pytest.raises(ValueError, match="not square"):
        shift_of(FeatureShift(rotations=4), (1, 4, 5), 3, 0)
