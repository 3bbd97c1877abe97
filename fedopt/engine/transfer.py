"""Between host and device without making the host wait.

On a GPU the host runs ahead of the device: it queues the kernels of a round and never looks at a value. Three things
would make it wait for everything queued so far: a number read back, a copy from ordinary memory, and an index given as
a Python list (which is such a copy). So what the host knows goes to the device from pinned memory through
``to_device``, rows are picked with ``rows_at``, and numbers come back once per collected cohort, through ``read``.
``tests/engine/test_no_synchronisation.py`` fails where a round does otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fedopt.data.base import Examples


def to_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An array, sequence or tensor as a tensor on the device; the host does not wait for the copy."""
    made = torch.as_tensor(values, dtype=dtype)
    if made.device.type != "cpu" or device.type == "cpu":
        return made.to(device)
    if device.type == "cuda":
        made = made.contiguous().pin_memory()  # a view that repeats numbers cannot be pinned
    return made.to(device, non_blocking=True)


def rows_at(values: torch.Tensor, index: Sequence[int]) -> torch.Tensor:
    """``values[index]`` along the first axis; the tensor itself, not a copy, where the index changes nothing."""
    if len(index) == len(values) and all(i == place for place, i in enumerate(index)):
        return values
    return values.index_select(0, to_device(list(index), values.device, torch.int64))


def read(tensors: Sequence[torch.Tensor]) -> list[list[float]]:
    """The numbers of several vectors, in one copy from the device where they lie on one."""
    if all(each.device.type == "cpu" for each in tensors):
        return [each.tolist() for each in tensors]
    device = next(each.device for each in tensors if each.device.type != "cpu")
    flat = torch.cat([to_device(each, device, torch.float64) for each in tensors]).cpu()
    return [part.tolist() for part in flat.split([len(each) for each in tensors])]


def finite_sums(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of each tensor ``[k]`` float64: a finite sum proves every number finite, at the cost of one pass.

    Finite numbers whose sum overflows give an infinite one, so a sum that is not finite proves nothing.
    """
    return torch.stack([each.sum().double() for each in tensors])


def all_finite(values: torch.Tensor) -> bool:
    """Whether every number is finite; the host waits for the answer."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def on_device(examples: Examples, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets as tensors on the device."""
    inputs, targets = np.ascontiguousarray(examples.inputs), np.ascontiguousarray(examples.targets)
    return torch.as_tensor(inputs, device=device), torch.as_tensor(targets, device=device)


def memory_for_rows(device: torch.device) -> int:
    """Bytes for rows in work: a quarter of a CUDA device's memory, else a sixteenth of the machine's, at most 1 GiB.

    Of all of it, not of what is free: that changes.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16, 2**30)
