"""Which modules cannot be vectorised."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedopt.models._inspect import unvectorizable
from fedopt.models.leaf_cnn_celeba import LeafCnnCeleba
from fedopt.types import Task

IMAGE = torch.zeros(2, 3, 8, 8)


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(inputs)


class Branching(nn.Module):
    """Decides on a value of the batch, which vmap cannot."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.linear(inputs)
        return outputs if outputs.sum().item() > 0 else -outputs


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.BatchNorm2d(3), "the module (BatchNorm2d) mixes the examples of a batch"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), "1 (BatchNorm2d) mixes"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "track_running_stats=False"),
        (nn.LSTM(3, 3), "use model kind char_lstm"),
        (nn.GRU(3, 3), "fused recurrent kernel"),
        (nn.LazyLinear(3), "has no parameters yet"),
    ],
)
def test_known_types_are_named_with_a_remedy(module, message):
    (reason,) = unvectorizable(module)
    assert message in reason
    assert reason.endswith("engine.formulation: loop")


@pytest.mark.parametrize(
    "module",
    [nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Dropout(0.5)), nn.InstanceNorm2d(3, affine=True)],
)
def test_stateless_modules_pass(module):
    assert unvectorizable(module, IMAGE) == []


def test_batch_norm_of_the_faithful_leaf_network_is_named():
    task = Task("classification", (3, 16, 16), 2)
    assert len(unvectorizable(LeafCnnCeleba(normalisation="batch").build(task))) == 4
    assert unvectorizable(LeafCnnCeleba().build(task), torch.zeros(2, 3, 16, 16)) == []


def test_a_buffer_that_changes_is_found_by_trying_and_left_alone():
    module = Counting()
    assert unvectorizable(module) == []
    (reason,) = unvectorizable(module, torch.zeros(2, 4))
    assert reason.startswith("calls is a buffer that the forward pass changes")
    assert module.calls == 0


def test_what_vmap_refuses_is_quoted():
    (reason,) = unvectorizable(Branching(), torch.zeros(2, 4))
    assert "vmap cannot run it" in reason and ".item()" in reason


def test_trying_leaves_random_numbers_alone():
    torch.manual_seed(0)
    unvectorizable(nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)), torch.zeros(2, 4))  # only the layer draws
    found = torch.rand(1)
    torch.manual_seed(0)
    nn.Linear(4, 2)
    assert torch.equal(found, torch.rand(1))
