"""A stand-in for a GPU that computes: a device of its own whose tensors are held, and calculated with, on the CPU.

Whole runs go through on it, and give the numbers of the CPU. What works only because everything lies on one device is
an error here: operations on tensors of two devices, indices on the stand-in into tensors of the CPU, NumPy on a tensor
of the stand-in. (``device_watch`` is stricter, refusing every wait for the device, but has no numbers.)

Not for max-pooling and group normalisation under ``vmap``: their backward pass ends the process here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fedopt.rng import TorchDraws, torch_generator

ATEN = torch.ops.aten
INDEXING = (ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default)
REGISTER = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)  # of PyTorch 2.10 and later
NAME = "standin"
_kept: list[torch.library.Library] = []


class MixedDevicesError(RuntimeError):
    """An operation got tensors of two devices."""


class There(torch.Tensor):
    """A tensor of the stand-in; ``inner`` holds its numbers on the CPU."""

    __slots__ = ("inner",)

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.data.__set__:
            args[0].inner = args[1].inner
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self):
        """PyTorch's own does not go through the dispatcher."""
        return self.cpu().tolist()


class OnTheStandin(TorchDispatchMode):
    """While it is entered, the device ``standin`` exists; counts the operations that it ran there."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        register()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = _run(func, args, kwargs or {})
        self.operations += any(isinstance(leaf, There) for leaf in tree_leaves(made))
        return made


class Draws(TorchDraws):
    """The CPU's numbers of a stream, as tensors of the device that it is for."""

    def __init__(self, named: tuple[torch.device, torch.Generator]):
        self._place, generator = named
        super().__init__(generator)

    @staticmethod
    def named(device: Any, *name: Any) -> tuple[torch.device, torch.Generator]:
        """In place of `fedopt.rng.torch_generator`."""
        return torch.device(device), torch_generator("cpu", *name)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        return lambda *arguments, **more: found(*arguments, **more).to(self._place)


def _held(value: Any) -> Any:
    return value.inner if isinstance(value, There) else value


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _refuse_mixed(func, args, kwargs)
    target = kwargs.get("device")
    given, named = tree_map(_held, args), tree_map(_held, kwargs)
    if target is not None:
        named["device"] = torch.device("cpu")
    # A zero without storage is beyond the kernels that are called from here.
    run = ATEN.zeros.default if func is ATEN._efficientzerotensor.default else func
    made = run(*given, **named)
    if target is not None:
        there = torch.device(target).type == NAME
    else:
        there = any(isinstance(leaf, There) for leaf in tree_leaves((args, kwargs)))
    written = [leaf for leaf in _written(func, args, kwargs) if leaf is not None]

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        same = next((leaf for leaf in written if _held(leaf) is value), None)
        return same if same is not None else There(value) if there else value

    return tree_map(wrapped, made)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments that the operation writes into, which it returns."""
    named = [kwargs.get(a.name, args[i] if i < len(args) else None) for i, a in enumerate(func._schema.arguments)]
    pairs = zip(named, func._schema.arguments, strict=True)
    return tree_leaves([value for value, a in pairs if a.alias_info is not None and a.alias_info.is_write])


def _refuse_mixed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [leaf for leaf in tensors if isinstance(leaf, There)]
    if not there or len(there) == len(tensors) or func is ATEN.copy_.default:
        return
    if func in INDEXING:
        mixed = not isinstance(args[0], There)  # indices on the CPU are copied
    else:
        mixed = any(leaf.dim() > 0 for leaf in tensors if not isinstance(leaf, There))  # numbers are, too
    if mixed:
        raise MixedDevicesError(f"{func} of {[(leaf.device.type, tuple(leaf.shape)) for leaf in tensors]}")


def register() -> None:
    """Once per process, before its first backward pass: the device, and what PyTorch's C++ asks of it below the mode.

    (That is memory, for a list as an index.)
    """
    if _kept:
        return
    REGISTER(NAME)
    everything = torch.library.Library("_", "IMPL", "PrivateUse1")
    everything.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    making = torch.library.Library("aten", "IMPL", "PrivateUse1")

    def empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return There(torch.empty(size, dtype=dtype))

    def empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
        return There(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source, target, non_blocking=False):
        _held(target).copy_(_held(source))
        return target

    making.impl("empty.memory_format", empty)
    making.impl("empty_strided", empty_strided)
    making.impl("_copy_from", copy_from)
    _kept.extend((everything, making))
