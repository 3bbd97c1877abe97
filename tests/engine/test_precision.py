"""TF32 is for training; norms and sums that privacy rests on are float32 products whatever the run asks for."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fedopt.engine import precision
from fedopt.engine.base import ExampleClipping, LocalRule

PRODUCTS = ("aten.bmm", "aten.mm", "aten.mv", "aten.addmm", "aten.baddbmm", "aten.baddbmm_")


class Products(TorchDispatchMode):
    """Precision at which every product was asked for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).rpartition(".")[0] in PRODUCTS:
            self.seen.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_convolutions_follow_the_choice_too():
    for dtype, matmul, convolution in (("tf32", "high", True), ("float32", "highest", False)):
        precision.use(dtype)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (matmul, convolution)
    with pytest.raises(ValueError, match=r"engine\.dtype must be"):
        precision.use("float16")


@pytest.mark.parametrize("formulation", ["batched", "dual", "vmap"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_norms_and_sums_are_exact_products(tiny, formulation, decay):
    engine = tiny.engine(formulation, dtype="tf32")
    cohort = tiny.cohort(engine, (3, 6, 2, 9, 4))
    plan = engine.plan_batches(cohort, 4)
    with Products() as training:
        updates = engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.1), weight_decay=decay), plan).updates
    with Products() as releasing:
        updates.norms()
        updates.weighted_sum(torch.ones(5))
        updates.rows()
    assert "high" in training.seen
    assert releasing.seen and set(releasing.seen) == {"highest"}
    assert torch.get_float32_matmul_precision() == "high"


def test_gram_norms_are_exact_where_training_is_not(tiny, monkeypatch):
    """The Gram matrix, and x W_0 where weights shrink: products made in training, on which norms rest."""
    from fedopt.engine.dual_core import DualLayer

    engine, seen = tiny.engine("dual", dtype="tf32"), []
    squares = DualLayer._squares

    def watched(self):
        with Products() as products:
            found = squares(self)
        seen.append(products.seen)
        return found

    monkeypatch.setattr(DualLayer, "_squares", watched)
    cohort = tiny.cohort(engine, (3, 6, 2, 9, 4), versions=2)
    plan = engine.plan_batches(cohort, 4)
    engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.1), weight_decay=0.1), plan)
    assert seen and all(set(each) == {"highest"} and len(each) >= 3 for each in seen)  # two of them x W_0 again


@pytest.mark.parametrize("formulation", ["batched", "vmap"])
def test_gradients_of_clipped_examples_are_exact(tiny, formulation):
    engine = tiny.engine(formulation, dtype="tf32")
    cohort = tiny.cohort(engine, (2, 2))
    plan = engine.plan_batches(cohort, 4)
    rates = torch.full(plan.counts.shape, 0.1)
    counts = []
    for clipping in (None, ExampleClipping(0.5, 0.0)):
        with Products() as products:
            engine.train(cohort, LocalRule(rates, example_clipping=clipping), plan)
        counts.append(products.seen.count("highest"))
    assert counts[1] > counts[0]
