"""One step of the local rule on flat vectors, in place."""

from __future__ import annotations

import torch

from fedopt.engine.base import ExampleClipping, LocalRule


def apply_rule(
    points: torch.Tensor,
    gradients: torch.Tensor,
    starts: torch.Tensor,
    buffers: torch.Tensor | None,
    rates: torch.Tensor | float,
    rule: LocalRule,
    correction: torch.Tensor | None,
    first: bool,
) -> None:
    """Move ``points`` by one step of ``rule``; ``points``, ``gradients`` and ``buffers`` are overwritten.

    Args:
        points, gradients, starts: ``[rows, d]`` or ``[d]``.
        buffers: momentum buffers like points; None without momentum.
        rates: learning rate, a number or ``[rows]``.
        rule: everything but rates and correction is read from here.
        correction: added to the gradients, like points, or None.
        first: first step of the task (the buffer starts as the gradient).
    """
    if rule.weight_decay:
        gradients.add_(points, alpha=rule.weight_decay)
    if rule.proximal:
        gradients.add_(points - starts, alpha=rule.proximal)
    if correction is not None:
        gradients.add_(correction)
    if rule.gradient_clip is not None:
        norms = gradients.norm(dim=-1, keepdim=True)
        gradients.mul_((rule.gradient_clip / norms).clamp_(max=1.0))
    direction = gradients
    if buffers is not None:
        if first:
            buffers.copy_(gradients)
        else:
            buffers.mul_(rule.momentum).add_(gradients)
        direction = gradients.add_(buffers, alpha=rule.momentum) if rule.nesterov else buffers
    if isinstance(rates, float):
        points.add_(direction, alpha=-rates)
    else:
        points.addcmul_(direction, rates.to(points)[:, None], value=-1.0)


def clipping_factors(clipping: ExampleClipping, norms: torch.Tensor, bound: float) -> torch.Tensor:
    """What each example's gradient is multiplied by, given its norm: ``min(1, C/norm)`` or ``C/(norm + stability)``.

    A zero gradient stays zero. A norm that is NaN or infinite gives exactly 0; since 0 times NaN is NaN, gradients are
    multiplied by ``scale_examples``. References: Abadi et al. 2016, arXiv:1607.00133 (flat); Bu et al. 2023, Automatic
    Clipping, arXiv:2206.07136 (automatic).
    """
    if clipping.style == "automatic":
        factors = bound / (norms + clipping.stability)
    else:
        factors = (bound / norms.clamp_min(1e-30)).clamp_(max=1.0)
    return torch.where(norms.isfinite(), factors, 0.0)


def scale_examples(gradients: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Multiply gradients by clipping factors (broadcast over them), in place; a factor of 0 makes them exactly zero.

    An example whose gradient is NaN or infinite thus counts as zero. Dropping the whole sum instead would let one
    record decide, with no noise on it, whether there is a reply.
    """
    return drop_examples(gradients.mul_(factors), factors)


def drop_examples(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Zeros where a clipping factor (broadcast over the values) is 0, in place, whatever stood there."""
    dropped = factors == 0
    # On a device the host does not wait to see whether there is anything to drop.
    if values.device.type == "cpu" and not bool(dropped.any()):
        return values
    return values.masked_fill_(dropped, 0.0)
