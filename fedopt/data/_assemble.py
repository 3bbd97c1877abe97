"""From examples and settings to federated data: what all data kinds share, so that a kind only reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fedopt.components import KindOf
from fedopt.data._shift import FeatureShift, shift_of
from fedopt.data.base import ClientIndex, DataSet, Examples, FederatedData, Partition
from fedopt.data.partitions.iid import Iid
from fedopt.rng import generator
from fedopt.types import Task


class SplitDataSet(DataSet):
    """Base of data kinds whose examples are split over clients by a partition."""

    clients: int = Field(100, gt=0, description="number of clients")
    partition: Annotated[Partition, KindOf("fedopt.data.partitions")] = Field(
        Iid(), description="how examples are assigned to clients"
    )
    client_test_fraction: float = Field(
        0.0, ge=0, lt=1, description="local test share of every client, as a fraction of its examples; 0 = none"
    )
    client_test_source: Literal["held_out", "matched", "owner"] = Field(
        "held_out",
        description="local tests: held out from the client's own examples (they join the pooled test set), drawn from "
        "the test set with the client's class proportions, or the test examples of the client's natural owners",
    )
    feature_shift: FeatureShift | None = Field(None, description="per-client rotation and noise of the inputs")
    public: tuple[Literal["num_examples", "class_counts", "feature_statistics"], ...] = Field(
        (), strict=False, description="what of the split, and of the inputs' scale, everybody may know"
    )


def assemble(
    settings: SplitDataSet,
    seed: int,
    task: Task,
    train: Examples,
    test: Examples,
    class_names: tuple[str, ...] = (),
    source: dict[str, Any] | None = None,
) -> FederatedData:
    """Split examples over clients, give out local tests, attach the feature shift.

    Args:
        settings: the data kind.
        seed: run seed.
        task: what is learned.
        train, test: pooled examples.
        class_names: for plots.
        source: name, licence, where it was found, hash.
    Raises:
        ValueError: the split is impossible; says what to change.
    """
    clients = settings.partition.split(partition_labels(task, train), train.groups, settings.clients, seed)
    client_tests = None
    if settings.client_test_source == "owner":
        client_tests = _tests_of_owners(train, test, clients)
    elif settings.client_test_fraction > 0 and settings.client_test_source == "matched":
        labels = partition_labels(task, train), partition_labels(task, test)
        client_tests = _matched_tests(clients, *labels, settings.client_test_fraction, seed)
    elif settings.client_test_fraction > 0:
        clients, client_tests, test = _held_out_tests(clients, train, test, settings.client_test_fraction, seed)
    shift = settings.feature_shift
    if shift is not None and not np.issubdtype(train.inputs.dtype, np.floating):
        raise ValueError("feature_shift needs real-valued inputs, not tokens: remove it")
    transforms = None if shift is None else shift_of(shift, task.input_shape, settings.clients, seed)
    return FederatedData(task, train, test, clients, client_tests, transforms, None, class_names, source or {})


def partition_labels(task: Task, examples: Examples, bins: int = 10) -> np.ndarray:
    """Integer labels that partitioners skew ``[n]``.

    Classes; ten equally filled bins of the first output for regression; for text the natural owner (0 without one).
    """
    if task.kind == "classification":
        return examples.targets.astype(np.int64)
    if task.kind == "regression":
        values = examples.targets.reshape(len(examples), -1)[:, 0]
        return np.searchsorted(np.quantile(values, np.arange(1, bins) / bins), values).astype(np.int64)
    if examples.groups is None:
        return np.zeros(len(examples), dtype=np.int64)
    return np.unique(examples.groups, return_inverse=True)[1].astype(np.int64)


def hold_out(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Random (train, test) split of a data set without an official one; the test set is the same for every split.

    Raises:
        ValueError: one side would be empty.
    """
    held = round(len(examples) * fraction)
    if not 0 < held < len(examples):
        raise ValueError(
            f"test_fraction {fraction} of {len(examples)} examples leaves one side empty: use a value nearer to 0.2"
        )
    order = generator(seed, "test_split").permutation(len(examples))
    return take(examples, np.sort(order[held:])), take(examples, np.sort(order[:held]))


def limited(examples: Examples, limit: int | None, seed: int, part: str) -> Examples:
    """A random subset of at most ``limit`` examples, in their order."""
    if limit is None or limit >= len(examples):
        return examples
    return take(examples, np.sort(generator(seed, f"limit_{part}").permutation(len(examples))[:limit]))


def take(examples: Examples, index: np.ndarray) -> Examples:
    """Selected examples."""
    groups = None if examples.groups is None else examples.groups[index]
    return Examples(examples.inputs[index], examples.targets[index], groups)


def joined(first: Examples, second: Examples) -> Examples:
    """Two sets of examples, one after the other."""
    groups = None
    if first.groups is not None and second.groups is not None:
        groups = np.concatenate([first.groups, second.groups])
    inputs = np.concatenate([first.inputs, second.inputs])
    return Examples(inputs, np.concatenate([first.targets, second.targets]), groups)


def _owner_of_position(index: ClientIndex) -> np.ndarray:
    return np.repeat(np.arange(index.num_clients), index.sizes())


def _pick(index: ClientIndex, mask: np.ndarray) -> ClientIndex:
    sizes = np.bincount(_owner_of_position(index)[mask], minlength=index.num_clients)
    return ClientIndex(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), index.indices[mask])


def _held_out_tests(
    clients: ClientIndex, train: Examples, test: Examples, fraction: float, seed: int
) -> tuple[ClientIndex, ClientIndex, Examples]:
    """A random share of every client's own examples leaves its training data and joins the end of the test set.

    Clients with two or more examples hold out at least one and keep at least one.
    """
    if len(np.unique(clients.indices)) < len(clients.indices):
        raise ValueError(
            "this partition repeats examples, so held-out ones would also be trained on: set client_test_source: "
            "matched"
        )
    sizes, owners = clients.sizes(), _owner_of_position(clients)
    held = np.where(sizes >= 2, np.clip(np.rint(sizes * fraction), 1, np.maximum(sizes - 1, 1)), 0).astype(np.int64)
    order = np.lexsort((generator(seed, "client_tests").random(len(owners)), owners))
    rank = np.empty(len(owners), dtype=np.int64)
    rank[order] = np.arange(len(owners)) - clients.offsets[owners]
    mask = rank < held[owners]
    tests = _pick(clients, mask)
    moved = ClientIndex(tests.offsets, len(test) + np.arange(len(tests.indices), dtype=np.int64))
    return _pick(clients, ~mask), moved, joined(test, take(train, tests.indices))


def _matched_tests(
    clients: ClientIndex, labels: np.ndarray, test_labels: np.ndarray, fraction: float, seed: int
) -> ClientIndex:
    """Test examples with the client's class proportions, with replacement: each of a random choice of its examples
    (``fraction`` of them, at least one) is replaced by a random test example of the same class."""
    sizes = clients.sizes()
    wanted = np.where(sizes > 0, np.maximum(np.rint(sizes * fraction), 1), 0).astype(np.int64)
    rng = generator(seed, "client_tests")
    owners = np.repeat(np.arange(len(sizes)), wanted)
    chosen = labels[clients.indices[clients.offsets[owners] + (rng.random(len(owners)) * sizes[owners]).astype(int)]]
    by_class = np.argsort(test_labels, kind="stable")
    counts = np.bincount(test_labels, minlength=int(labels.max(initial=0)) + 1)
    if (counts[chosen] == 0).any():
        missing = int(chosen[counts[chosen] == 0][0])
        raise ValueError(f"the test set has no example of class {missing}: set client_test_source: held_out")
    starts = np.cumsum(counts) - counts
    indices = by_class[starts[chosen] + (rng.random(len(chosen)) * counts[chosen]).astype(np.int64)]
    return ClientIndex(np.concatenate([[0], np.cumsum(wanted)]).astype(np.int64), indices.astype(np.int64))


def _tests_of_owners(train: Examples, test: Examples, clients: ClientIndex) -> ClientIndex:
    """The test examples whose natural owner trains at the client."""
    if train.groups is None or test.groups is None:
        raise ValueError("these data have no natural owners on both sides: set client_test_source: held_out")
    owner_names, codes = np.unique(train.groups, return_inverse=True)
    client_of = np.full(len(owner_names), -1, dtype=np.int64)
    held_by = _owner_of_position(clients)
    client_of[codes[clients.indices]] = held_by
    if (client_of[codes[clients.indices]] != held_by).any():
        raise ValueError(
            "client_test_source: owner needs every natural owner at one client: use partition: natural_id without "
            "surplus_clients: divide"
        )
    position = np.searchsorted(owner_names, test.groups).clip(0, len(owner_names) - 1)
    known = owner_names[position] == test.groups
    owners = np.where(known, client_of[position], -1)
    order = np.argsort(owners, kind="stable")
    order = order[np.searchsorted(owners[order], 0) :]
    sizes = np.bincount(owners[order], minlength=clients.num_clients)
    return ClientIndex(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), order.astype(np.int64))
