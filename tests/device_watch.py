"""A stand-in for a GPU on machines without one: PyTorch's ``meta`` device, watched.

Meta tensors have shapes and no numbers, so the host cannot look at a value: whatever tries raises. The watch adds what
meta does not refuse: copies that would make the host wait, and operations on tensors of different devices, which work
only on a CPU.
"""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class PythonWatch(TorchFunctionMode):
    """Sees what happens before an operation is dispatched: indices and tensors made from Python numbers."""

    def __init__(self, device, violations):
        super().__init__()
        self.device, self.violations = device, violations

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name in ("__getitem__", "__setitem__") and args[0].device == self.device:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(each, list) for each in index):
                self.violations.append(f"{name} with a list")
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == self.device:
            self.violations.append("a tensor made on the device from Python numbers")
        return func(*args, **kwargs)


class DeviceWatch(TorchDispatchMode):
    """Collects violations, and counts the operations it saw."""

    def __init__(self, device="meta"):
        super().__init__()
        self.device, self.violations, self.operations = torch.device(device), [], 0
        self._python = PythonWatch(self.device, self.violations)

    def __enter__(self):
        self._python.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._python.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.operations += 1
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        self._look(func, given, args, kwargs)
        return func(*args, **kwargs)

    def _look(self, func, given, args, kwargs):
        here = [x for x in given if x.device == self.device]
        elsewhere = [x for x in given if x.device != self.device and x.dim() > 0]
        if func in COPIES:
            target = kwargs.get("device") or (args[0].device if func is COPIES[1] else given[0].device)
            source = args[1] if func is COPIES[1] else given[0]
            blocking = not (kwargs.get("non_blocking") or (func is COPIES[1] and len(args) > 2 and args[2]))
            if torch.device(target) != source.device and blocking:
                self.violations.append(f"blocking copy from {source.device} to {target}: {tuple(source.shape)}")
        elif here and elsewhere:
            self.violations.append(f"{func}: operands on {[str(x.device) for x in given]}")
