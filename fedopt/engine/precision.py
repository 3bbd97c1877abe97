"""Arithmetic of local training: float32, TF32 on CUDA devices, or bfloat16 by autocast; and what must stay exact.

TF32 keeps 10 bits of every factor of a product. Training bears that, privacy does not: a norm that is too small by one
part in a thousand lets a client contribute more than the clipping norm the noise was made for. So norms, sums of
clipped rows and gradients of clipped examples are computed under ``exact_products``, whatever training uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

Dtype = Literal["float32", "bfloat16", "tf32"]


def use(dtype: str) -> None:
    """Set the process's products and convolutions; PyTorch's own default is TF32 for convolutions on CUDA devices.

    Convolutions are told to add up in one order, since the same run must give the same bits.

    Raises:
        ValueError: unknown dtype.
    """
    if dtype not in ("float32", "bfloat16", "tf32"):
        raise ValueError(f"engine.dtype must be float32, bfloat16 or tf32, got {dtype!r}")
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    torch.backends.cudnn.deterministic = True


def lowered(device: torch.device, bfloat16: bool) -> AbstractContextManager[object]:
    """Autocast to bfloat16, where asked for; not without numbers (``meta``), which autocast does not know."""
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 and device.type != "meta" else nullcontext()


@contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 factors in float32, also where training uses TF32."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def products_are_exact() -> bool:
    """Whether products of float32 factors are float32 now."""
    return torch.get_float32_matmul_precision() == "highest"
