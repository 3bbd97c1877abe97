"""What every device model promises, over every component file."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from fedopt.components import build, component, dump, names, summary
from fedopt.devices.base import Fleet

FAMILIES = ("compute", "network", "availability", "work")
CLIENTS = 6
TRACES = {
    "compute": "client,task,compute_s\n" + "".join(f"{c},{t},{c + t + 0.5}\n" for c in range(3) for t in range(4)),
    "network": "client,task,download_s,upload_s\n"
    + "".join(f"{c},{t},{c + t},{c}\n" for c in range(3) for t in range(4)),
    "availability": json.dumps({"0": {"active": [1, 5], "inactive": [3, 8], "finish_time": 10}}),
}


def kinds(*families: str) -> list[tuple[str, str]]:
    return [(family, kind) for family in families for kind in names(f"fedopt.devices.{family}")]


def model(family: str, kind: str, tmp_path):
    if kind != "trace":
        return component(f"fedopt.devices.{family}", kind)()
    path = tmp_path / ("trace.json" if family == "availability" else "trace.csv")
    path.write_text(TRACES[family])
    return component(f"fedopt.devices.{family}", kind)(path=str(path))


def fleet(seed: int = 0) -> Fleet:
    labels = np.array([[0, 9], [0, 0], [1, 2], [3, 9], [4, 4], [9, 9]])
    return Fleet(seed, CLIENTS, np.array([5, 50, 10, 20, 30, 40]), (labels, np.array([10, 1, 2, 5, 1, 1])))


def answers(bound, family: str, client: int, task: int):
    match family:
        case "compute":
            return bound.seconds(client, task, 7, 5)
        case "network":
            return bound.seconds(client, task, 4_000_000, 1_000_000)
        case "work":
            return bound.steps(client, task, 9)
    return bool(bound.available(np.array([client]), task * 20.0)[0])


@pytest.mark.parametrize(("family", "kind"), kinds(*FAMILIES))
def test_answers_depend_on_the_question_only(family, kind, tmp_path):
    """Asked in any order, twice, or by a fresh object: the same delays for every aggregator."""
    settings = model(family, kind, tmp_path)
    questions = [(client, task) for client in range(CLIENTS) for task in range(6)]
    forward, backward = settings.bind(fleet()), settings.bind(fleet())
    first = {q: answers(forward, family, *q) for q in questions}
    assert {q: answers(backward, family, *q) for q in reversed(questions)} == first
    assert {q: answers(forward, family, *q) for q in questions} == first


@pytest.mark.parametrize(("family", "kind"), kinds("compute", "network", "work"))
def test_numpy_ids_are_ids(family, kind, tmp_path):
    bound = model(family, kind, tmp_path).bind(fleet())
    assert answers(bound, family, np.int64(3), np.int64(2)) == answers(bound, family, 3, 2)


@pytest.mark.parametrize(("family", "kind"), kinds("compute"))
def test_times_are_exact_multiples_or_floats(family, kind, tmp_path):
    settings = model(family, kind, tmp_path)
    bound = settings.bind(fleet())
    for client in range(CLIENTS):
        time = bound.seconds(client, 1, 3, 2)
        assert time >= 0
        if isinstance(time, Fraction):
            assert (time * settings.denominator(CLIENTS)).denominator == 1
        else:
            assert type(time) is float


@pytest.mark.parametrize(("family", "kind"), kinds("compute"))
def test_expected_has_one_time_per_client_or_is_unknown(family, kind, tmp_path):
    expected = model(family, kind, tmp_path).bind(fleet()).expected([3] * CLIENTS, 2)
    assert expected is None or (len(expected) == CLIENTS and all(isinstance(t, float | Fraction) for t in expected))
    assert (expected is None) == (kind == "bursty")


@pytest.mark.parametrize(("family", "kind"), kinds("compute", "availability"))
def test_another_seed_gives_other_draws(family, kind, tmp_path):
    settings = model(family, kind, tmp_path)
    fixed = {"none", "ladder", "constant", "trace", "fixed_computation", "always", "correlated"}
    first, second = settings.bind(fleet(0)), settings.bind(fleet(1))
    same = all(
        answers(first, family, client, task) == answers(second, family, client, task)
        for client in range(CLIENTS)
        for task in range(60)
    )
    assert same == (kind in fixed)


@pytest.mark.parametrize(("family", "kind"), kinds("availability"))
def test_availability_answers_in_the_order_asked(family, kind, tmp_path):
    bound = model(family, kind, tmp_path).bind(fleet())
    ids = np.array([4, 0, 5, 4])
    mixed = bound.available(ids, 2.5)
    assert mixed.dtype == bool and mixed.shape == (4,)
    assert mixed.tolist() == [bool(bound.available(np.array([i]), 2.5)[0]) for i in ids]
    assert bound.available(np.array([], dtype=np.int64), 2.5).shape == (0,)


@pytest.mark.parametrize(("family", "kind"), kinds("availability"))
def test_nothing_changes_before_the_next_change(family, kind, tmp_path):
    bound = model(family, kind, tmp_path).bind(fleet())
    everybody, time = np.arange(CLIENTS), Fraction(0)
    for _ in range(30):
        after = bound.next_change(time)
        if after is None:
            return
        assert after > time
        start = bound.available(everybody, time + (after - time) / 1000)
        assert bound.available(everybody, time + (after - time) * 999 / 1000).tolist() == start.tolist()
        time = after


@pytest.mark.parametrize(("family", "kind"), kinds(*FAMILIES))
def test_settings_survive_a_round_trip_and_describe_themselves(family, kind):
    component_class = component(f"fedopt.devices.{family}", kind)
    settings = component_class()
    problems: list = []
    assert build(f"fedopt.devices.{family}", dump(settings), (), problems) == settings, problems
    assert len(summary(component_class)) > 20
    for name, field in component_class.model_fields.items():
        assert field.description, f"{kind}.{name} has no description"
    json.dumps(component_class.model_json_schema())
