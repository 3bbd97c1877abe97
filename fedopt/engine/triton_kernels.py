# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""The Triton kernels of ``fedopt.engine.kernels``; this module is imported on a CUDA device only."""

import triton
import triton.language as tl


@triton.jit
def unfold(
    images, columns, height, width, down, across, s0, s1, p0, p1, d0, d1,
    KH: tl.constexpr, KW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < down * across
    top, left = (at // across) * s0 - p0, (at % across) * s1 - p1
    for i in tl.static_range(KH):
        for j in tl.static_range(KW):
            row, column = top + i * d0, left + j * d1
            real = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            found = tl.load(images + plane * (height * width) + row * width + column, mask=real, other=0.0)
            tl.store(columns + (plane * (KH * KW) + i * KW + j) * (down * across) + at, found, mask=inside)


@triton.jit
def fold(
    columns, images, height, width, down, across, s0, s1, p0, p1, d0, d1,
    KH: tl.constexpr, KW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < height * width
    row, column = at // width + p0, at % width + p1
    total = tl.zeros((BLOCK,), tl.float32)
    for i in tl.static_range(KH):
        for j in tl.static_range(KW):
            y, x = row - i * d0, column - j * d1
            real = inside & (y >= 0) & (x >= 0) & (y % s0 == 0) & (x % s1 == 0)
            y, x = y // s0, x // s1
            real = real & (y < down) & (x < across)
            place = (plane * (KH * KW) + i * KW + j) * (down * across) + y * across + x
            total += tl.load(columns + place, mask=real, other=0.0).to(tl.float32)
    tl.store(images + plane * (height * width) + at, total, mask=inside)


@triton.jit
def dropped(values, out, keys, begins, size, threshold, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    mixed = (at + tl.load(begins + row)) * tl.load(keys + 2 * row) + tl.load(keys + 2 * row + 1)
    word = mixed.to(tl.uint32, bitcast=True)
    word = word ^ (word >> 16)
    word = word * tl.full((), 0x85EBCA6B, tl.uint32)
    word = word ^ (word >> 13)
    word = word * tl.full((), 0xC2B2AE35, tl.uint32)
    word = word ^ (word >> 16)
    kept = word.to(tl.int32, bitcast=True) >= threshold
    found = tl.load(values + row * size + at, mask=inside, other=0.0)
    tl.store(out + row * size + at, tl.where(kept, found * scale, 0.0), mask=inside)
