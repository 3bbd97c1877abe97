"""Models with convolutions, dropout and other layers: every formulation that applies equals the loop."""

import pytest
import torch
from torch import nn

from fedopt.engine.base import ExampleClipping, LocalRule
from fedopt.engine.batched import Batched
from fedopt.engine.convolution import Columns
from fedopt.engine.stacked_trunk import StackedTrunk
from fedopt.models.base import Model


class Images(Model):
    """A small CNN; dropout and normalisation by choice."""

    dropout: float = 0.0
    normalise: bool = False
    batch_norm: bool = False
    wide: int = 8

    def build(self, task):
        norm = [nn.GroupNorm(2, 4)] if self.normalise else [nn.BatchNorm2d(4)] if self.batch_norm else []
        trunk = [nn.Conv2d(1, 4, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]
        head = [nn.Flatten(), nn.Linear(36, self.wide), nn.ReLU(), nn.Dropout(self.dropout)]
        return nn.Sequential(*trunk, nn.Dropout(self.dropout / 2), *head, nn.Linear(self.wide, task.num_outputs))


RULES = {
    "plain": {},
    "everything": {"momentum": 0.7, "nesterov": True, "weight_decay": 0.05, "proximal": 0.3},
    "heavy ball, decay": {"momentum": 0.7, "weight_decay": 0.05},
    "clip": {"gradient_clip": 0.2, "weight_decay": 0.05},
    "examples": {"example_clipping": ExampleClipping(0.3, 0.1), "momentum": 0.5},
}


def run(tiny, formulation, model, rule, dual="auto", order="shuffled", stacked=None, **options):
    engine = tiny.engine(formulation, model, tiny.data("classification", (1, 6, 6), 3), **options)
    if dual == "always" or stacked:
        engine.formulation = engine._formulations.chosen = Batched(engine.task, dual, stacked)
    cohort = tiny.cohort(engine, (3, 5, 1, 4, 2), versions=2)
    plan = engine.plan_batches(cohort, 4, order)
    rates = torch.linspace(0.05, 0.3, 5)[:, None].expand(plan.counts.shape)
    return engine, engine.train(cohort, LocalRule(rates, **rule), plan)


def assert_close(found, expected, tolerance=1e-5):
    error = (found.rows() - expected.rows()).norm(dim=1).max() / expected.rows().norm(dim=1).max()
    assert error <= tolerance, f"relative error {error:.2e}"


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("model", [Images(), Images(normalise=True)], ids=["conv", "group norm"])
@pytest.mark.parametrize("formulation, dual", [("vmap", "auto"), ("batched", "auto"), ("dual", "always")])
def test_convolutions_equal_loop(tiny, rule, model, formulation, dual):
    _, expected = run(tiny, "loop", model, rule)
    engine, found = run(tiny, formulation, model, rule, dual, chunk=3)
    assert engine.selection.formulation == formulation
    assert_close(found.updates, expected.updates)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.updates.norms(), expected.updates.norms(), rtol=1e-5, atol=1e-6)
    weights = torch.linspace(-1.0, 2.0, 5)
    sums = found.updates.weighted_sum(weights), expected.updates.weighted_sum(weights)
    torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", ["shuffled", "poisson"])
@pytest.mark.parametrize("dual", ["auto", "always"])
def test_dropout_masks_are_those_of_the_loop(tiny, order, dual):
    model = Images(dropout=0.5)
    _, expected = run(tiny, "loop", model, {"weight_decay": 0.1}, order=order)
    _, other = run(tiny, "loop", Images(), {"weight_decay": 0.1}, order=order)
    _, found = run(tiny, "dual", model, {"weight_decay": 0.1}, dual, order, chunk=2)
    assert_close(found.updates, expected.updates)
    assert (other.updates.rows() - expected.updates.rows()).norm() > 0.1 * expected.updates.rows().norm()


@pytest.mark.parametrize("rule", [name for name in RULES if name != "examples"])
@pytest.mark.parametrize("order", ["shuffled", "poisson"])
def test_a_trunk_for_all_rows_at_once_equals_the_loop(tiny, rule, order):
    model = Images(normalise=True)
    _, expected = run(tiny, "loop", model, RULES[rule], order=order)
    engine, found = run(tiny, "dual", model, RULES[rule], order=order, stacked=True, chunk=3)
    assert isinstance(engine.formulation._trunk, StackedTrunk)
    assert_close(found.updates, expected.updates)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6, equal_nan=True)


class Strided(Model):
    """Two convolutions with everything a convolution can have, pooling that overlaps, and nested chains."""

    def build(self, task):
        first = nn.Sequential(nn.Conv2d(1, 3, (2, 3), stride=(2, 1), padding=(2, 1)), nn.ReLU(), nn.Dropout(0.2))
        second = nn.Sequential(nn.Conv2d(3, 4, 2, dilation=2, bias=False), nn.MaxPool2d(2, stride=1), nn.ReLU())
        return nn.Sequential(first, second, nn.Flatten(), nn.Dropout(0.3), nn.Linear(24, task.num_outputs))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("model", [Images(dropout=0.5), Strided()], ids=["images", "strided"])
@pytest.mark.parametrize("order", ["shuffled", "poisson"])
def test_convolutions_by_columns_equal_the_loop(tiny, rule, model, order):
    _, expected = run(tiny, "loop", model, rule, order=order)
    engine, found = run(tiny, "dual", model, rule, order=order, stacked=True, chunk=3)
    assert not engine.formulation._has_trunk and engine.formulation.supports(LocalRule(torch.zeros(1, 1), **rule))
    assert_close(found.updates, expected.updates)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("rule", [{}, {"weight_decay": 0.1}, {"momentum": 0.9}], ids=["plain", "decay", "other"])
@pytest.mark.parametrize("model", [Images(dropout=0.5), Strided()], ids=["images", "strided"])
@pytest.mark.parametrize("order", ["shuffled", "poisson"])
def test_the_step_for_graphs_has_convolutions_and_dropout(tiny, rule, model, order):
    _, expected = run(tiny, "loop", model, rule, order=order)
    engine, found = run(tiny, "graphed", model, rule, order=order)
    assert engine.selection.formulation == "graphed"
    assert_close(found.updates, expected.updates)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_columns_by_strides_are_those_of_pytorch():
    layer, draw = nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(2, 1), dilation=(1, 2)), torch.Generator()
    images = torch.randn(5, 2, 7, 9, generator=draw.manual_seed(0))
    columns = Columns(layer)
    expected = columns.of(images)
    found = columns.of_any_device(images)
    assert torch.equal(found, expected)
    other = torch.randn(expected.shape, generator=draw)
    # The transpose: <columns(x), y> = <x, back(y)>.
    torch.testing.assert_close((expected * other).sum(), (images * columns.back(other, 7, 9)).sum(), rtol=1e-4, atol=0)


class DropsTwice(Model):
    """One dropout layer in two places."""

    def build(self, task):
        drop = nn.Dropout(0.5)
        head = [nn.Linear(36, 8), drop, nn.Tanh(), nn.Linear(8, 8), drop, nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *head, nn.Linear(8, task.num_outputs))


@pytest.mark.parametrize("formulation", ["loop", "batched"])
def test_a_dropout_layer_in_two_places_has_streams_of_its_own_in_each(tiny, formulation):
    _, expected = run(tiny, "loop", DropsTwice(), {})
    torch.rand(7)  # PyTorch's own stream has gone on
    _, found = run(tiny, formulation, DropsTwice(), {})
    assert_close(found.updates, expected.updates)


class Adapted(Model):
    """Layers that are frozen, at the front or at the end, or used twice."""

    changed: str

    def build(self, task):
        front = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten()]
        middle, last = nn.Linear(32, 32), nn.Linear(32, task.num_outputs)
        twice = [middle, nn.ReLU()] if self.changed == "shared" else []
        frozen = {"front": front[0], "middle": middle, "last": last}.get(self.changed)
        if frozen is not None:
            frozen.requires_grad_(False)
        return nn.Sequential(*front, middle, nn.ReLU(), *twice, last)


@pytest.mark.parametrize("changed", ["front", "middle", "last", "shared"])
@pytest.mark.parametrize("formulation", ["auto", "batched", "dual", "graphed", "vmap"])
def test_frozen_and_shared_layers_go_elsewhere(tiny, changed, formulation):
    _, expected = run(tiny, "loop", Adapted(changed=changed), {})
    engine, found = run(tiny, formulation, Adapted(changed=changed), {})
    assert_close(found.updates, expected.updates)
    if formulation != "vmap":
        why = "layers share parameters" if changed == "shared" else "some parameters are frozen"
        assert engine.selection.formulation == "loop" and why in engine.selection.reason
        with pytest.raises(ValueError, match=f"batched formulation does not apply: {why}; use loop or vmap"):
            Batched(engine.task, "auto")


class TwoTrained(Model):
    """A trunk of which only one layer is frozen."""

    def build(self, task):
        front = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1))
        front[1].requires_grad_(False)
        return nn.Sequential(front, nn.ReLU(), nn.Flatten(), nn.Linear(32, task.num_outputs))


def test_a_trunk_may_be_frozen_in_part(tiny):
    _, expected = run(tiny, "loop", TwoTrained(), RULES["everything"])
    engine, found = run(tiny, "batched", TwoTrained(), RULES["everything"])
    assert engine.selection.formulation == "batched" and engine.formulation._has_trunk
    assert_close(found.updates, expected.updates)


def test_dropout_goes_to_the_loop_rather_than_vmap(tiny):
    engine, _ = run(tiny, "vmap", Images(dropout=0.5), {})
    assert engine.selection.formulation == "loop"
    assert "draws each client's masks from its own stream" in engine.selection.reason


def test_hidden_dual_layers_by_hand_equal_batched(tiny):
    """A wide hidden layer behind another one: the dual form gives the batched result."""
    model = Images(wide=40)
    _, expected = run(tiny, "batched", model, RULES["everything"])
    _, found = run(tiny, "dual", model, RULES["everything"], "always")
    assert_close(found.updates, expected.updates)


def test_batch_norm_uses_the_loop_and_leaks_nothing_between_clients(tiny):
    """Any order and company of clients gives the same update, and the choice says why."""
    engine = tiny.engine("auto", Images(batch_norm=True), tiny.data("classification", (1, 6, 6), 3))
    assert engine.selection.formulation == "loop" and "nn.Sequential" in engine.selection.reason
    assert "BatchNorm2d" in tiny.engine("vmap", Images(batch_norm=True), engine.data).selection.reason
    together = tiny.cohort(engine, (1, 2), clients=(0, 3))
    alone = tiny.cohort(engine, (2, 1), clients=(3, 0))
    alone = type(alone)(alone.clients, together.tasks[::-1], alone.messages, alone.steps, alone.seed)
    found = []
    for cohort in (together, alone):
        plan = engine.plan_batches(cohort, 4)
        found.append(engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.1)), plan).updates.rows())
    assert torch.equal(found[0], found[1].flip(0))


def test_bfloat16_is_near_float32(tiny):
    _, expected = run(tiny, "loop", Images(), {})
    for formulation in ("loop", "dual"):
        engine, found = run(tiny, formulation, Images(), {}, dtype="bfloat16")
        assert_close(found.updates, expected.updates, 0.05)
        assert (found.updates.rows() != expected.updates.rows()).any()
        assert engine.description()["dtype"] == "bfloat16"
