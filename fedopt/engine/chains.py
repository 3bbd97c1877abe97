"""Chains of layers: what the hand-batched formulations know by heart, and what they leave to others."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from fedopt.engine.convolution import is_plain_convolution

STATELESS = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.MaxPool2d, nn.AvgPool2d, nn.Softplus)
KNOWN = (nn.Linear, nn.Flatten, nn.ReLU, nn.Identity, nn.Dropout, *STATELESS)
WIDE = 2**15  # weights of a layer below this stay in the cache, and the dual form gains nothing


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers of a (nested) ``nn.Sequential``; anything else is one layer."""
    if type(module) is nn.Sequential:
        return [layer for child in module for layer in layers_of(child)]
    return [module]


def split_chain(module: nn.Module, convolutions: bool) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """Trunk and head of a chain: the head starts behind the last layer that is not known by hand.

    ``convolutions`` says whether convolutions count as known. None when there is no such split: not a chain, no linear
    layer in the head, or a trunk with dropout.
    """
    layers = layers_of(module)
    unknown = [
        i for i, layer in enumerate(layers) if not (_is_known(layer) or (convolutions and is_plain_convolution(layer)))
    ]
    cut = unknown[-1] + 1 if unknown else 0
    trunk, head = layers[:cut], layers[cut:]
    while trunk and head and isinstance(head[0], nn.ReLU | nn.MaxPool2d | nn.AvgPool2d | nn.Flatten):
        trunk.append(head.pop(0))
    if not any(isinstance(layer, nn.Linear) for layer in head):
        return None
    return None if any(_has_state(layer) for layer in trunk) else (trunk, head)


def split_refusal(module: nn.Module, convolutions: bool) -> str | None:
    """Why a module cannot be computed as trunk and head, or None."""
    parts = split_chain(module, convolutions)
    if parts is None:
        return "the model is not an nn.Sequential that ends in linear layers"
    front = list(nn.Sequential(*parts[0]).parameters())
    # A trunk is left to autograd, which passes over what is frozen if there is anything else.
    trained = [each for each in front if each.requires_grad]
    return parameters_refusal([*(trained or front), *(p for layer in parts[1] for p in layer.parameters())])


def parameters_refusal(parameters: Iterable[nn.Parameter]) -> str | None:
    """Why the parameters of a chain, layer after layer, are not the flat vector cut into pieces, or None."""
    found = list(parameters)
    if not all(each.requires_grad for each in found):
        return "some parameters are frozen"
    return "layers share parameters" if len(set(map(id, found))) < len(found) else None


def has_wide_layer(module: nn.Module) -> bool:
    """Whether a chain has a linear layer that the dual form would help."""
    return any(isinstance(layer, nn.Linear) and layer.weight.numel() >= WIDE for layer in layers_of(module))


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) != (1, -1):
        return False
    return type(layer) in KNOWN


def _has_state(layer: nn.Module) -> bool:
    stateful = (nn.Dropout, nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    return any(isinstance(each, stateful) for each in layer.modules()) or any(True for _ in layer.buffers())
