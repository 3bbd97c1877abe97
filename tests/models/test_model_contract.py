"""What every model kind promises: shapes, counts, seeds, chains, and the same gradients batched over clients."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from fedopt.components import build, component, dump, names, summary
from fedopt.models._inspect import unvectorizable
from fedopt.types import Task

GREY = Task("classification", (1, 28, 28), 10)
COLOUR = Task("classification", (3, 32, 32), 10)
TEXT = Task("next_token", (12,), 20)
VALUES = Task("regression", (7,), 2)

CASES = {  # name -> (kind, settings, task, number of parameters by hand)
    "logistic": ("logistic_regression", {}, GREY, 7850),
    "logistic without bias": ("logistic_regression", {"bias": False}, GREY, 7840),
    "linear": ("linear_regression", {}, VALUES, 16),
    "mlp": ("mlp", {}, GREY, 784 * 200 + 200 + 2010),
    "mlp 2NN": ("mlp", {"hidden": (200, 200)}, GREY, 199_210),
    "mlp tanh": ("mlp", {"hidden": (4, 3), "activation": "tanh"}, VALUES, 32 + 15 + 8),
    "mlp softplus": ("mlp", {"hidden": (5,), "activation": "softplus"}, VALUES, 52),
    "mlp linear": ("mlp", {"hidden": ()}, VALUES, 16),
    "femnist": ("leaf_cnn_femnist", {}, Task("classification", (1, 28, 28), 62), 6_603_710),
    "femnist small": ("leaf_cnn_femnist", {"dense": 8}, Task("classification", (1, 8, 9), 3), 832 + 51264 + 2056 + 27),
    "celeba": ("leaf_cnn_celeba", {}, Task("classification", (3, 84, 84), 2), 31_202),
    "celeba batch": ("leaf_cnn_celeba", {"normalisation": "batch"}, Task("classification", (3, 84, 84), 2), 31_202),
    "celeba plain": ("leaf_cnn_celeba", {"normalisation": "none"}, COLOUR, 28_640 + 32 * 4 * 10 + 10),
    "pfl": ("pfl_cnn", {}, COLOUR, 1_626_442),
    "fedavg": ("fedavg_cnn", {}, GREY, 1_663_370),
    "resnet8": ("resnet_groupnorm", {}, COLOUR, 78_042),
    "resnet18": ("resnet_groupnorm", {"blocks": (2, 2, 2, 2), "width": 64}, COLOUR, 11_173_962),
    "lstm": ("char_lstm", {}, Task("next_token", (12,), 80), 819_920),
    "lstm small": ("char_lstm", {"hidden": 6, "embedding": 3, "layers": 3}, TEXT, 60 + 264 + 2 * 336 + 140),
    "transformer": ("transformer", {}, TEXT, 20 * 64 + 12 * 64 + 2 * (12 * 4096 + 13 * 64) + 128 + 64 * 20 + 20),
    "transformer dropout": ("transformer", {"width": 8, "layers": 1, "heads": 2, "dropout": 0.3}, TEXT, 1324),
}
SMALL = ["logistic", "linear", "mlp tanh", "femnist small", "celeba", "resnet8", "lstm small", "transformer"]


def made(name: str) -> tuple[torch.nn.Module, Task, int]:
    kind, settings, task, count = CASES[name]
    torch.manual_seed(0)
    return component("fedopt.models", kind)(**settings).build(task), task, count


def batch(task: Task, size: int = 3) -> torch.Tensor:
    drawing = torch.Generator().manual_seed(1)
    if task.kind == "next_token":
        return torch.randint(task.num_outputs, (size, *task.input_shape), generator=drawing)
    return torch.randn((size, *task.input_shape), generator=drawing)


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_counts(name):
    module, task, count = made(name)
    inputs = batch(task)
    expected = (3, *task.input_shape, task.num_outputs) if task.kind == "next_token" else (3, task.num_outputs)
    with torch.no_grad():
        outputs = module(inputs)
    assert outputs.shape == expected and outputs.isfinite().all()
    assert sum(parameter.numel() for parameter in module.parameters()) == count


@pytest.mark.parametrize("name", SMALL)
def test_the_global_seed_decides_the_start(name):
    first, second = made(name)[0], made(name)[0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    torch.manual_seed(1)
    kind, settings, task, _ = CASES[name]
    other = component("fedopt.models", kind)(**settings).build(task)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_clients_batched_by_vmap_equal_one_by_one(name):
    """Gradients of three clients with their own parameters and their own batches, to 1e-5 relative."""
    original, task, _ = made(name)
    modules = [copy.deepcopy(original) for _ in range(3)]
    for number, module in enumerate(modules):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1 + 0.1 * number)
    inputs = torch.stack([batch(task, 2).roll(number) for number in range(3)])

    def loss(parameters, one):
        return functional_call(modules[0], parameters, (one,)).square().sum()

    together = vmap(grad(loss))(stack_module_state(modules)[0], inputs)
    for number, module in enumerate(modules):
        module.zero_grad()
        module(inputs[number]).square().sum().backward()
        for key, parameter in module.named_parameters():
            gap = (together[key][number] - parameter.grad).norm() / parameter.grad.norm().clamp_min(1e-12)
            assert gap < 1e-5, (key, gap)
    assert unvectorizable(original, inputs[0]) == []


@pytest.mark.parametrize("name", ["logistic", "mlp", "mlp softplus", "femnist", "celeba", "pfl", "fedavg"])
def test_chains_are_sequences_of_standard_layers(name):
    module = made(name)[0]
    assert type(module) is torch.nn.Sequential
    assert all(type(layer).__module__.startswith("torch.nn.modules") for layer in module)


@pytest.mark.parametrize("name", ["pfl", "transformer dropout"])
def test_dropout_only_while_training(name):
    module, task, _ = made(name)
    inputs = batch(task)
    assert not torch.equal(module(inputs), module(inputs))
    module.eval()
    assert torch.equal(module(inputs), module(inputs))
    assert unvectorizable(module, inputs) == []


@pytest.mark.parametrize("kind", names("fedopt.models"))
def test_settings_survive_a_round_trip_and_describe_themselves(kind):
    component_class = component("fedopt.models", kind)
    settings = component_class(**({"factory": "torch.nn:Linear"} if kind == "user_module" else {}))
    problems: list = []
    assert build("fedopt.models", dump(settings), (), problems) == settings, problems
    assert len(summary(component_class)) > 10
    assert all(field.description for field in component_class.model_fields.values())


@pytest.mark.parametrize(
    ("kind", "task", "message"),
    [
        ("logistic_regression", VALUES, "is for classification, not regression; use linear_regression or mlp"),
        ("linear_regression", GREY, "is for regression, not classification; use logistic_regression"),
        ("mlp", TEXT, "not next_token; use char_lstm or transformer"),
        ("char_lstm", GREY, "is for next_token, not classification"),
        ("transformer", Task("next_token", (3, 4), 5), r"needs inputs of shape \(sequence,\), got \(3, 4\)"),
        ("fedavg_cnn", VALUES, r"needs images \(channels, height, width\) of at least 4x4, got \(7,\); use mlp"),
        ("pfl_cnn", Task("classification", (3, 5, 9), 2), "at least 6x6, got"),
        ("point", GREY, "is for black_box, not classification"),
    ],
)
def test_tasks_that_do_not_fit_name_a_model_that_does(kind, task, message):
    with pytest.raises(ValueError, match=message):
        component("fedopt.models", kind)().build(task)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("mlp", {"hidden": (3, 0)}, "every hidden layer must have >= 1 units"),
        ("transformer", {"width": 10, "heads": 4}, "heads must divide width = 10, got 4"),
        ("resnet_groupnorm", {"width": 9}, "groups must divide width = 9, got 2"),
        ("resnet_groupnorm", {"blocks": (1, 0)}, "every stage must have >= 1 blocks"),
    ],
)
def test_settings_are_checked(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        component("fedopt.models", kind)(**settings)


def test_mlp_initial_loss_is_that_of_guessing():
    module, task, _ = made("mlp")
    loss = torch.nn.functional.cross_entropy(module(batch(task, 200)), torch.arange(200) % 10)
    assert abs(loss.item() - math.log(10)) < 0.2
