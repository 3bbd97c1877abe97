"""Which modules cannot be vectorised over clients, why, and what to do instead."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

LOOP = "or run it with engine.formulation: loop"


def unvectorizable(module: nn.Module, example: torch.Tensor | None = None) -> list[str]:
    """Reasons why a module cannot be batched over clients by ``torch.func.vmap``, each with a remedy; [] if none.

    Recurrent kernels, batch normalisation and lazy layers are known by type. With an example batch the module (a copy)
    is also tried: a buffer that a training step changes, and any operation ``vmap`` refuses, are reasons too.

    Args:
        module: the module, left as it is.
        example: a batch of inputs ``[batch, ...]`` to try it on, or None.
    """
    reasons = [reason for name, layer in module.named_modules() if (reason := _by_type(name, layer))]
    if example is None or reasons:
        return reasons
    changed = _changed_buffers(module, example)
    if changed:
        return [
            f"{name} is a buffer that the forward pass changes; make it a parameter or drop it, {LOOP}"
            for name in changed
        ]
    refusal = _vmap_refusal(module, example)
    return [f"vmap cannot run it ({refusal}); use operations that vmap supports, {LOOP}"] if refusal else []


def mixing_layers(module: nn.Module) -> list[str]:
    """Layers through which one example moves the gradients of others, each with a remedy."""
    from torch import nn

    return [
        f"{name or 'the module'} ({type(layer).__name__}) mixes the examples of a batch, so one example's gradient has "
        "no bound; use nn.GroupNorm"
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]


def _by_type(name: str, layer: nn.Module) -> str | None:
    from torch import nn

    shown = f"{name or 'the module'} ({type(layer).__name__})"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return f"{shown} has no parameters yet; give its sizes, {LOOP}"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return f"{shown} mixes the examples of a batch and updates running statistics; use nn.GroupNorm, {LOOP}"
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
        return f"{shown} updates running statistics; use track_running_stats=False, {LOOP}"
    if isinstance(layer, nn.RNNBase):
        return f"{shown} is a fused recurrent kernel; use model kind char_lstm or write the time loop out, {LOOP}"
    return None


def _changed_buffers(module: nn.Module, example: torch.Tensor) -> list[str]:
    import torch

    tried = copy.deepcopy(module).train()
    before = {name: value.clone() for name, value in tried.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        tried(example)
    after = dict(tried.named_buffers())
    return [name for name in after if name not in before or not torch.equal(after[name], before[name])]


def _vmap_refusal(module: nn.Module, example: torch.Tensor) -> str | None:
    """First line of what ``vmap`` says, or None if two clients' forward and backward pass run."""
    import torch
    from torch.func import functional_call, stack_module_state, vmap

    parameters, buffers = stack_module_state([copy.deepcopy(module), copy.deepcopy(module)])  # type: ignore[arg-type]
    tried = copy.deepcopy(module).train()

    def total(values: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(tried, (values, own), (example,)).sum()

    try:
        with torch.random.fork_rng(devices=[]):
            vmap(torch.func.grad(total), randomness="different")(parameters, buffers)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None
