"""A module whose parameters are views into one flat vector, and the seeded dropout that goes with it."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fedopt.engine.dropout import StreamDropout, mask_keys
from fedopt.engine.transfer import to_device
from fedopt.types import ParamSpec


def spec_of(module: nn.Module) -> ParamSpec:
    """Names and shapes of the trainable parameters, in the module's order."""
    pieces = [(name, tuple(p.shape)) for name, p in module.named_parameters() if p.requires_grad]
    return ParamSpec(tuple(name for name, _ in pieces), tuple(shape for _, shape in pieces))


def flatten(module: nn.Module) -> torch.Tensor:
    """The trainable parameters as a flat copy ``[d]``."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad])


def filled(module: nn.Module, spec: ParamSpec, params: torch.Tensor) -> nn.Module:
    """A copy of a module that holds these parameters ``[d]``."""
    made = copy.deepcopy(module)
    values = spec.unflatten(params.detach().cpu())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(values[name])
    return made


class FlatModule:
    """A private copy of a module; its parameters and gradients are views into ``flat`` and ``gradient`` ``[d]``.

    Writing into ``flat`` in place changes the module, and a backward pass adds into ``gradient``.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self.module = copy.deepcopy(module).to(device)
        self.flat = flatten(self.module).to(device)
        self.gradient = torch.zeros_like(self.flat)
        self.dropouts = _replace_dropout(self.module)
        _forget_statistics(self.module)
        self._buffers = {name: value.clone() for name, value in self.module.named_buffers()}
        spec = spec_of(self.module)
        values, gradients = spec.unflatten(self.flat), spec.unflatten(self.gradient)
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                parameter.data, parameter.grad = values[name], gradients[name]

    def begin_task(self, seed: int, client: int, task: int) -> None:
        """Forget what the last client left in buffers, and make the dropout masks of this task a named stream."""
        for name, value in self.module.named_buffers():
            value.copy_(self._buffers[name])
        if self.dropouts:
            keys = to_device(mask_keys(seed, client, task, len(self.dropouts)), self.flat.device)
            for layer, own in zip(self.dropouts, keys, strict=True):
                layer.begin(own)


def _forget_statistics(module: nn.Module) -> None:
    """Make batch normalisation use the batch at hand always: running statistics are no parameters, so no update has
    them, and a federated average would never see them."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def _replace_dropout(module: nn.Module) -> list[StreamDropout]:
    """Put stream dropout in place of dropout; in the order of the module, which numbers the streams.

    A layer that stands in several places becomes one of its own in each.
    """
    made = []
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if type(child) is nn.Dropout and name:
            layer = StreamDropout(child.p)
            layer.train(child.training)
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, layer)
            made.append(layer)
    return made
