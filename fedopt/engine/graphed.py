"""The graphed formulation: every local step is one and the same list of kernels, replayed as a CUDA graph.

A step of a small network is a dozen kernels of a few microseconds, and launching them takes the host longer than
running them. So all that differs from step to step (which examples, rates, who still works) is written into buffers
first, rows that are done or padded move by exactly zero, and a counter on the device says which step it is. Then
nothing depends on the host: on a CUDA device the step is captured once per shape and replayed; elsewhere it runs as it
is, with the same numbers.

Linear layers have one weight per client, as in ``batched``. References: Nguyen et al. 2021, Accelerating PyTorch with
CUDA Graphs (pytorch.org/blog).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from fedopt.engine.base import LocalRule
from fedopt.engine.losses import loss_and_gradient
from fedopt.engine.pieces import DensePiece, PiecewiseUpdates
from fedopt.engine.tasks import Chunk, LossTask, Trained
from fedopt.engine.transfer import to_device

KNOWN = (nn.Linear, nn.ReLU, nn.Flatten, nn.Identity)
MOST_SHAPES = 8  # captured shapes that are kept; each holds the memory of its block
WARM_UP = 3  # steps before a capture, in which libraries set themselves up


class Graphed:
    """Trains a chunk of clients by replaying one step.

    Args:
        task: the model and data; the model must be a chain of linear layers and rectifiers.
        capture: capture on a CUDA device; otherwise steps run one by one.
    """

    name = "graphed"
    preferred_rows = 8

    def __init__(self, task: LossTask, capture: bool = True):
        reason = graphed_refusal(task)
        if reason is not None:
            raise ValueError(f"the graphed formulation does not apply: {reason}")
        self._task = task
        self._capture = capture and task.device.type == "cuda"
        self._inputs = task.inputs.flatten(1)
        self._shapes: dict[tuple[int, int, int], _Replay] = {}

    def twin(self) -> Graphed:
        """Another one, for another thread."""
        return Graphed(self._task)

    @staticmethod
    def supports(rule: LocalRule) -> bool:
        """Plain steps with weight decay: ``y <- (1 - rate * decay) * y - rate * g``."""
        special = rule.momentum or rule.proximal or rule.gradient_clip is not None
        return not special and rule.correction is None and rule.example_clipping is None

    @torch.no_grad()
    def train(self, chunk: Chunk) -> Trained:
        """Train every row of the chunk."""
        rows, steps, width = chunk.indices.shape
        shape = (_power(rows), _power(max(1, steps)), width)
        replay = self._shapes.pop(shape, None) or _Replay(self._task, self._inputs, shape, self._capture)
        self._shapes[shape] = replay  # the most recently used is the last
        if len(self._shapes) > MOST_SHAPES:
            del self._shapes[next(iter(self._shapes))]
        starts = chunk.stacked_starts()
        replay.load(chunk, starts)
        for _ in range(chunk.max_steps):
            replay.step()
        batches = to_device((chunk.counts > 0).sum(1), self._task.device, torch.float32)
        return Trained(replay.updates(starts), replay.losses[:rows] / batches)


def graphed_refusal(task: LossTask) -> str | None:
    """Why a task cannot be computed by replaying a step, or None."""
    layers = _chain(task.module)
    strange = [type(layer).__name__ for layer in layers if type(layer) not in KNOWN]
    if strange or not any(isinstance(layer, nn.Linear) for layer in layers):
        return f"the model is not a chain of linear layers and rectifiers ({', '.join(strange) or 'nothing to train'})"
    if any(not p.requires_grad for p in task.module.parameters()):
        return "some parameters are frozen"
    if task.task.kind not in ("classification", "regression"):
        return f"no closed-form loss gradient for {task.task.kind}"
    return None


def _chain(module: nn.Module) -> list[nn.Module]:
    return list(module.children()) if type(module) is nn.Sequential else [module]


class _Replay:
    """Buffers of one shape, and the step that works on them.

    Args:
        task, inputs: the task; its inputs flattened ``[n, features]``.
        shape: rows, steps and batch, of which rows and steps are upper bounds.
        capture: whether to capture the step.
    """

    def __init__(self, task: LossTask, inputs: torch.Tensor, shape: tuple[int, int, int], capture: bool):
        rows, steps, width = shape
        self._task, self._inputs, self._shape, device = task, inputs, shape, task.device
        self._layers = [layer for layer in _chain(task.module) if isinstance(layer, nn.Linear | nn.ReLU)]
        linear = [layer for layer in self._layers if isinstance(layer, nn.Linear)]
        self._weights = [torch.zeros(rows, *layer.weight.shape, device=device) for layer in linear]
        self._biases = [
            None if layer.bias is None else torch.zeros(rows, 1, layer.out_features, device=device) for layer in linear
        ]
        self._indices = torch.zeros(steps, rows * width, dtype=torch.int64, device=device)
        self._moves = torch.zeros(steps, rows, width, 1, device=device)  # rate / denominator; 0: moves nothing
        self._shares = torch.zeros(steps, rows, width, device=device)  # of an example in its batch's mean loss
        self._keeps = torch.ones(steps, rows, 1, 1, device=device)  # 1 - rate * weight decay
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(rows, device=device)
        self.step: Callable[[], Any] = _captured(self._step, device) if capture else self._step

    def load(self, chunk: Chunk, starts: torch.Tensor) -> None:
        """Write a chunk and its starts ``[rows, d]`` into the buffers; rows and steps beyond it move nothing."""
        rows, steps, width = chunk.indices.shape
        real = np.arange(width) < chunk.counts[..., None]
        active = np.arange(steps) < np.array(chunk.steps)[:, None]
        rates = chunk.rule.rates.numpy().astype(np.float64) * active
        moves = (rates / chunk.denominators)[..., None] * real
        shares = real / np.maximum(chunk.counts, 1)[..., None]
        keeps = 1.0 - rates * chunk.rule.weight_decay
        self._moves.zero_()
        self._shares.zero_()
        self._keeps.fill_(1.0)
        device = self._task.device
        indices = self._indices.view(-1, self._shape[0], width)
        indices[:steps, :rows] = chunk.indices.transpose(0, 1)
        for buffer, values in ((self._moves[..., 0], moves), (self._shares, shares), (self._keeps[..., 0, 0], keeps)):
            buffer[:steps, :rows] = to_device(np.ascontiguousarray(values.swapaxes(0, 1)), device, torch.float32)
        begin = 0
        for parameter in self._parameters():
            size = parameter[0].numel()
            parameter[:rows].copy_(starts[:, begin : begin + size].view(rows, *parameter.shape[1:]))
            begin += size
        self._counter.zero_()
        self.losses.zero_()

    def _parameters(self) -> list[torch.Tensor]:
        """Weights and biases in the order of the flat vector."""
        pairs = zip(self._weights, self._biases, strict=True)
        return [each for pair in pairs for each in pair if each is not None]

    def updates(self, starts: torch.Tensor) -> PiecewiseUpdates:
        """End minus start of the loaded rows, as copies: the buffers are used again."""
        pieces, begin = [], 0
        for parameter in self._parameters():
            size = parameter[0].numel()
            values = parameter[: len(starts)].flatten(1) - starts[:, begin : begin + size]
            pieces.append(DensePiece(values))
            begin += size
        return PiecewiseUpdates(tuple(pieces), len(starts))

    def _step(self) -> None:
        """One local step of every row; reads and writes buffers only, and always the same ones."""
        rows, _, width = self._shape
        indices = self._indices.index_select(0, self._counter)[0]
        seen, activations = self._inputs.index_select(0, indices).view(rows, width, -1), []
        position = 0
        for layer in self._layers:
            activations.append(seen)
            if isinstance(layer, nn.ReLU):
                seen = seen.relu()
                continue
            weight, bias = self._weights[position].transpose(1, 2), self._biases[position]
            seen = torch.bmm(seen, weight) if bias is None else torch.baddbmm(bias, seen, weight)
            position += 1
        targets = self._task.targets.index_select(0, indices)
        losses, gradient = loss_and_gradient(self._task.task, seen, targets.view(rows, width, *targets.shape[1:]))
        self.losses.add_((losses * self._shares.index_select(0, self._counter)[0]).sum(1))
        gradient = gradient * self._moves.index_select(0, self._counter)[0]
        self._backward(gradient, activations, self._keeps.index_select(0, self._counter)[0])
        self._counter.add_(1).remainder_(self._shape[1])  # warming up may take more steps than there are

    def _backward(self, gradient: torch.Tensor, activations: list[torch.Tensor], keep: torch.Tensor) -> None:
        position = len(self._weights)
        for depth in range(len(self._layers) - 1, -1, -1):
            if isinstance(self._layers[depth], nn.ReLU):
                gradient = torch.ops.aten.threshold_backward(gradient, activations[depth], 0.0)
                continue
            position -= 1
            weight, bias, inputs = self._weights[position], self._biases[position], activations[depth]
            below = torch.bmm(gradient, weight) if position else gradient
            weight.mul_(keep).baddbmm_(gradient.transpose(1, 2), inputs, alpha=-1.0)
            if bias is not None:
                bias.mul_(keep).sub_(gradient.sum(1, keepdim=True))
            gradient = below


def _captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The step as a CUDA graph. Its buffers must be such that steps move nothing: warming up executes some."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    return graph.replay


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
