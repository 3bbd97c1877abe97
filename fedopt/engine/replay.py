"""The buffers of the graphed formulation, its one step, and the captured graphs of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from fedopt.engine.dropout import chunk_keys, seen_before
from fedopt.engine.losses import loss_and_gradient
from fedopt.engine.pieces import DensePiece, PiecewiseUpdates
from fedopt.engine.static_layers import StaticConvolution, StaticDropout, StaticLinear, static_layer
from fedopt.engine.tasks import Chunk, LossTask
from fedopt.engine.transfer import to_device

MOST_GRAPHS = 64  # captured steps that are kept
WARM_UP = 2  # steps before a capture, in which libraries set themselves up


class Replay:
    """Buffers for up to ``capacity`` rows and ``steps`` steps of batches of one width, and the step on them.

    Args:
        task: the model and data.
        layers: the chain.
        capacity, steps, width: upper bounds of rows and steps, and the batch.

    On a CUDA device steps are captured as graphs, one per number of rows and with or without weight decay.
    """

    def __init__(self, task: LossTask, layers: list[nn.Module], capacity: int, steps: int, width: int):
        device = task.device
        self.capacity, self.steps, self.width = capacity, steps, width
        self._task = task
        self._seen = torch.zeros(capacity, dtype=torch.int32, device=device)
        used = [layer for layer in layers if type(layer) is not nn.Identity]
        flat_from_the_start = bool(used) and isinstance(used[0], nn.Flatten)
        self._inputs = task.inputs.flatten(1) if flat_from_the_start else task.inputs
        used = used[1:] if flat_from_the_start else used
        self._layers = [static_layer(layer, capacity, device, task.bfloat16, self._seen) for layer in used]
        self._indices = torch.zeros(steps, capacity, width, dtype=torch.int64, device=device)
        self._moves = torch.zeros(steps, capacity, width, 1, device=device)  # rate / denominator; 0: moves nothing
        self._shares = torch.zeros(steps, capacity, width, device=device)  # of an example in its batch's mean loss
        self._keeps = torch.ones(steps, capacity, device=device)  # 1 - rate * weight decay
        self._before = torch.zeros(steps, capacity, dtype=torch.int32, device=device)  # examples before each step
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(capacity, device=device)
        self.graphs: dict[tuple[int, bool], Callable[[], Any]] = {}
        self._pool: Any = None

    def fits(self, rows: int, steps: int) -> bool:
        """Whether a chunk of this size fits the buffers."""
        return rows <= self.capacity and steps <= self.steps

    def load(self, chunk: Chunk, starts: torch.Tensor) -> None:
        """Write a chunk and its starts ``[rows, d]`` into the buffers; rows and steps beyond it move nothing."""
        rows, steps, width = chunk.indices.shape
        real = np.arange(width) < chunk.counts[..., None]
        active = np.arange(steps) < np.array(chunk.steps)[:, None]
        rates = chunk.rule.rates.numpy().astype(np.float64) * active
        moves = (rates / chunk.denominators)[..., None] * real
        shares = real / np.maximum(chunk.counts, 1)[..., None]
        self._moves.zero_()
        self._shares.zero_()
        device = self._task.device
        self._indices[:steps, :rows] = chunk.indices.transpose(0, 1)
        tables = [(self._moves[..., 0], moves, torch.float32), (self._shares, shares, torch.float32)]
        if chunk.rule.weight_decay:
            self._keeps.fill_(1.0)
            tables.append((self._keeps, 1.0 - rates * chunk.rule.weight_decay, torch.float32))
        dropouts = [layer for layer in self._layers if isinstance(layer, StaticDropout)]
        if dropouts:
            tables.append((self._before, seen_before(chunk.counts), torch.int32))
            for layer, keys in zip(dropouts, chunk_keys(chunk, len(dropouts), device), strict=True):
                layer.keys[:rows] = keys
        for buffer, values, dtype in tables:
            buffer[:steps, :rows] = to_device(np.ascontiguousarray(values.swapaxes(0, 1)), device, dtype)
        begin = 0
        for parameter in self.parameters():
            size = parameter[0].numel()
            parameter[:rows].copy_(starts[:, begin : begin + size].view(rows, *parameter.shape[1:]))
            begin += size
        self._counter.zero_()
        self.losses.zero_()

    def parameters(self) -> list[torch.Tensor]:
        """Weights and biases in the order of the flat vector."""
        owners = [layer for layer in self._layers if isinstance(layer, StaticLinear | StaticConvolution)]
        return [each for layer in owners for each in (layer.weight, layer.bias) if each is not None]

    def updates(self, starts: torch.Tensor) -> PiecewiseUpdates:
        """End minus start of the loaded rows, as copies: the buffers are used again."""
        pieces, begin = [], 0
        for parameter in self.parameters():
            size = parameter[0].numel()
            pieces.append(DensePiece(parameter[: len(starts)].flatten(1) - starts[:, begin : begin + size]))
            begin += size
        return PiecewiseUpdates(tuple(pieces), len(starts))

    def step(self, rows: int, decays: bool) -> None:
        """One local step of the first rows, replayed where it was captured."""
        if self._task.device.type != "cuda":
            # What a capture puts aside counts where memory is predicted.
            _saved = self._copies() if self._task.device.type == "meta" else None
            self._step(rows, decays)
            return
        key = (rows, decays)
        graph = self.graphs.pop(key, None) or self._captured(rows, decays)
        self.graphs[key] = graph  # the most recently used is the last
        if len(self.graphs) > MOST_GRAPHS:
            del self.graphs[next(iter(self.graphs))]
        graph()

    def _step(self, rows: int, decays: bool) -> None:
        """Reads and writes buffers only, always the same ones, and asks the host for nothing."""
        width = self.width
        indices = self._indices.index_select(0, self._counter)[0, :rows].flatten()
        self._seen.copy_(self._before.index_select(0, self._counter)[0])
        seen = self._inputs.index_select(0, indices).view(rows, width, *self._inputs.shape[1:])
        for layer in self._layers:
            seen = layer.forward(seen)
        targets = self._task.targets.index_select(0, indices)
        losses, gradient = loss_and_gradient(self._task.task, seen, targets.view(rows, width, *targets.shape[1:]))
        shares = self._shares.index_select(0, self._counter)[0, :rows]
        self.losses[:rows].add_((losses * shares).sum(1))
        gradient = gradient * self._moves.index_select(0, self._counter)[0, :rows]
        keep = self._keeps.index_select(0, self._counter)[0, :rows] if decays else None
        above: Any = gradient
        for position in range(len(self._layers) - 1, -1, -1):
            above = self._layers[position].backward(above, keep, position > 0)
        self._counter.add_(1).remainder_(self.steps)  # warming up may take more steps than there are

    def _captured(self, rows: int, decays: bool) -> Callable[[], None]:
        """The step as a CUDA graph. Warming up takes steps, which are taken back: a chunk has been loaded by now."""
        saved = self._copies()
        with torch.cuda.device(self._task.device):
            side = _side_stream(self._task.device)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self._step(rows, decays)
                    self._forget()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=side):
                self._step(rows, decays)
            # Graphs share their memory: they are replayed one after the other, and a step leaves only buffers behind.
            self._forget()
        self._pool = self._pool or graph.pool()
        for each, before in saved:
            each.copy_(before)
        return graph.replay

    def _forget(self) -> None:
        for layer in self._layers:
            layer.forget()

    def _copies(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What a step changes and its copy."""
        return [(each, each.clone()) for each in (*self.parameters(), self._counter, self.losses)]


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures of a process: products keep a workspace of their own for every stream."""
    return torch.cuda.Stream(device)
