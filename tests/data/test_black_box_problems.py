"""User functions, metrics of a trained model, image attacks: values, shapes, refusals."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

from fedopt.data._class_slots import class_slots
from fedopt.data.image_attack import ImageAttack
from fedopt.data.model_metric import MetricObjective, ModelMetric, _logits
from fedopt.data.user_function import UserFunction

HERE = "test_black_box_problems"


def bowl(client: int, point: np.ndarray) -> float:
    return float(((point - client) ** 2).sum())


class Bowls:
    def __init__(self, step: float = 1.0):
        self.step = step

    def __call__(self, clients: np.ndarray, points: np.ndarray) -> np.ndarray:
        return ((points - self.step * clients[:, None, None]) ** 2).sum(-1)


def bowl_that_clears(client: int, point: np.ndarray) -> float:
    point -= client
    found = float((point**2).sum())
    point[:] = 0
    return found


class ClearingBowls:
    """Clears its argument, and returns the same array every time."""

    def __init__(self):
        self.kept = np.zeros((2, 5))

    def __call__(self, clients: np.ndarray, points: np.ndarray) -> np.ndarray:
        self.kept[:] = ((points - clients[:, None, None]) ** 2).sum(-1)
        points[...] = 0
        clients[...] = 0
        return self.kept


def shapeless(clients: np.ndarray, points: np.ndarray) -> float:
    return 1.0


def worded(client: int, point: np.ndarray) -> str:
    return "small"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def test_user_functions_vectorised_or_not_agree():
    one = UserFunction(function=f"{HERE}:bowl", dimension=3, clients=4).load(0).objective
    all_at_once = UserFunction(function=f"{HERE}:Bowls", dimension=3, clients=4, vectorised=True, options={"step": 1.0})
    many = all_at_once.load(0).objective
    points = torch.rand(2, 5, 3, dtype=torch.float64)
    assert torch.equal(one.values([3, 1], points), many.values([3, 1], points))
    assert one.value(torch.zeros(3)) == pytest.approx(3 * (0 + 1 + 4 + 9) / 4)
    assert one.initial(0).tolist() == [0.5] * 3 and not one.has_gradients


@pytest.mark.parametrize("name, vectorised", [("bowl_that_clears", False), ("ClearingBowls", True)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_function_that_writes_into_its_argument_changes_nothing_outside(name, vectorised, dtype):
    settings = UserFunction(function=f"{HERE}:{name}", dimension=3, clients=4, vectorised=vectorised)
    objective, plain = settings.load(0).objective, UserFunction(function=f"{HERE}:bowl", dimension=3).load(0).objective
    points, other, clients = torch.rand(2, 5, 3, dtype=dtype), torch.rand(1, 5, 3, dtype=dtype), [3, 1]
    before, shared = points.clone(), other.expand(2, -1, -1)  # one point in memory for two clients
    first, second = objective.values(clients, points), objective.values(clients, shared)
    assert torch.equal(points, before) and clients == [3, 1]
    assert torch.equal(first, plain.values(clients, before))
    assert torch.equal(second, plain.values(clients, shared)) and second.max() > 0


def test_user_function_refusals():
    with pytest.raises(ValueError, match="cannot be found"):
        UserFunction(function=f"{HERE}:nothing", dimension=3).load(0)
    broken = UserFunction(function=f"{HERE}:shapeless", dimension=3, vectorised=True).load(0).objective
    with pytest.raises(ValueError, match="one value per point"):
        broken.values([0], torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="not a number"):
        UserFunction(function=f"{HERE}:worded", dimension=3).load(0).objective.values([0], torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="both lower and upper"):
        UserFunction(function=f"{HERE}:bowl", dimension=3, lower=0.0)
    with pytest.raises(ValueError, match=r"bounds are 0 and 1, got -1\.0 and 1\.0"):
        UserFunction(function=f"{HERE}:bowl", dimension=3, lower=-1.0, upper=1.0)


def scaled(client: int, point: np.ndarray, scale: float = 1.0) -> float:
    return scale * float((point**2).sum())


def lonely(point: np.ndarray) -> float:
    return 0.0


class Wordless:
    """Cannot be called."""


NUMBER = 5


@pytest.mark.parametrize(
    "name, vectorised, options, field, told",
    [
        ("nothing", False, {}, "function", "has no attribute 'nothing'; check the path"),
        ("NUMBER", False, {}, "function", "cannot be called; give a function or a class with __call__"),
        ("Wordless", True, {}, "function", "cannot be called; give a function or a class with __call__"),
        ("lonely", False, {}, "function", "cannot be called with (client, point): too many positional arguments"),
        ("scaled", False, {"sclae": 3}, "options",
         "cannot be called with (client, point) and options sclae: got an unexpected keyword argument 'sclae'"),
        ("Bowls", True, {"steps": 1}, "options",
         "cannot be built with options steps: got an unexpected keyword argument 'steps'"),
        ("Bowls", True, {"step": 0.5}, "", ""),
        ("scaled", False, {"scale": 3.0}, "", ""),
        ("ClearingBowls", True, {}, "", ""),
    ],
)  # fmt: skip
def test_signatures_are_checked_without_a_call(name, vectorised, options, field, told):
    settings = UserFunction(function=f"{HERE}:{name}", dimension=3, vectorised=vectorised, options=options)
    if not told:
        assert settings.problems() == [] and settings.load(0).objective.dimension == 3
        return
    ((where, message),) = settings.problems()
    assert where == field and message.startswith(f"'{settings.function}' cannot be ") and message.endswith(told)
    with pytest.raises(ValueError) as caught:
        settings.load(0)
    assert str(caught.value) == f"data.{field} {message}"


def wrapped(*arguments: object) -> float:
    return lonely(arguments[1])  # type: ignore[arg-type]


wrapped.__wrapped__ = lonely  # type: ignore[attr-defined]


def test_a_decorated_function_is_called_as_what_it_became():
    objective = UserFunction(function=f"{HERE}:wrapped", dimension=3).load(0).objective
    assert objective.values([0], torch.zeros(1, 1, 3)).tolist() == [[0.0]]


def test_a_call_that_no_signature_told_of_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "attribute", getattr, raising=False)
    objective = UserFunction(function=f"{HERE}:attribute", dimension=3).load(0).objective
    with pytest.raises(ValueError, match=r"attribute cannot be called with \(client, point\): "):
        objective.values([0], torch.zeros(1, 1, 3))


def test_a_module_that_is_missing_or_no_python_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unparsable_bowl.py").write_text("def f(client, point) return 0\n")
    for function, told in (("unparsable_bowl:f", r"unparsable_bowl\.py, line 1"), ("no_module:f", "No module named")):
        ((field, message),) = UserFunction(function=function, dimension=3).problems()
        assert field == "function" and re.search(rf"'{function}' cannot be found: .*{told}", message)


@pytest.mark.parametrize("metric", ["precision", "recall", "f1", "jaccard"])
def test_metrics_equal_scikit_learn(metric):
    from sklearn import metrics

    draw = np.random.default_rng(0)
    sizes, inputs, labels = (4, 5, 3), draw.normal(size=(40, 4)).astype(np.float32), draw.integers(0, 3, 40)
    theta = torch.from_numpy(draw.normal(size=4 * 5 + 5 + 5 * 3 + 3).astype(np.float32))
    objective = MetricObjective(theta, sizes, ((inputs, labels),), metric, 0.5)
    points = torch.rand(1, 6, len(theta), dtype=torch.float64)
    found = objective.values([0], points)[0]
    changed = theta + 0.5 * (2 * points[0].float() - 1)
    predicted = _logits(changed, sizes, torch.from_numpy(inputs)).argmax(-1).numpy()
    score = {"precision": metrics.precision_score, "recall": metrics.recall_score, "f1": metrics.f1_score,
             "jaccard": metrics.jaccard_score}[metric]  # fmt: skip
    wanted = [1 - score(labels, row, average="macro", zero_division=0.0) for row in predicted]
    assert np.allclose(found.numpy(), wanted, atol=1e-6) and np.std(wanted) > 0


def test_model_metric_starts_at_the_trained_network():
    data = ModelMetric(train_steps=30, hidden=(4,)).load(3)
    objective = data.objective
    assert objective.dimension == 13 * 4 + 4 + 4 * 3 + 3 and data.task.kind == "black_box"
    assert objective.value(objective.initial(0)) < 0.6 < objective.value(torch.zeros(objective.dimension)) + 1


def test_class_slots_are_disjoint_and_more_slots_are_less_skewed():
    labels = np.repeat(np.arange(10), 30)
    for share in (0.1, 0.5, 1.0):
        slots = class_slots(labels, 10, share, 0)
        assert sorted(np.concatenate(slots).tolist()) == list(range(300))
        assert all(len(np.unique(labels[own])) <= round(10 * share) for own in slots)
    assert [len(np.unique(labels[own])) for own in class_slots(labels, 10, 0.1, 0)] == [1] * 10
    with pytest.raises(ValueError, match="raise share"):
        class_slots(np.zeros(9, int), 5, 0.2, 0)


def test_image_attack_is_a_margin_of_the_clients_own_models():
    settings = ImageAttack(clients=3, share=1.0, train_steps=60, channels=(4, 8))
    objective = settings.load(0).objective
    start = objective.initial(0)
    assert objective.dimension == 64 and objective.value(start) > 0
    values = objective.values([2, 0], start.expand(2, 1, -1).double())
    logits = torch.stack([objective.models[i](objective.image[None])[0] for i in (2, 0)])
    others = logits.clone()
    others[:, objective.label] = -torch.inf
    assert torch.allclose(values[:, 0].float(), logits[:, objective.label] - others.amax(1), atol=1e-5)
    for corner, change in ((0.0, -0.3), (0.5, 0.0), (1.0, 0.3)):  # strength 0.3 is the largest change of a pixel
        wanted = (objective.image + change).clamp(0, 1)
        assert torch.allclose(objective.perturbed(torch.full((64,), corner)), wanted, atol=1e-6)
    with pytest.raises(ValueError, match="not broken at the start"):
        settings.model_copy(update={"image": 10_000}).load(0)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["centre", "corner"])
def test_default_models_leave_images_that_are_not_broken_at_the_start(start):
    objective = ImageAttack(start=start).load(0).objective
    assert objective.value(objective.initial(0)) >= 0
