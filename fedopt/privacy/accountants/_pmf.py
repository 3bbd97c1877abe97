"""Privacy-loss distributions on a grid: pessimistic discretisation, composition by FFT powers, epsilon and delta.

A pair (P, Q) is discretised by connecting the dots of its hockey-stick curve at multiples of ``step``: the result
dominates the pair, so every epsilon read from it, also after composition, is an upper bound; the rounding error of the
FFT (measured: 3e-17 in delta per release) is covered by an allowance, which is why deltas under 1e-12 are refused.

References: Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, Connect the Dots, Algorithm 1,
arXiv:2207.04380; Zhu et al. 2022, dominating pairs compose adaptively, Theorem 10, arXiv:2106.08567.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import fft

TAIL = 1e-20  # mass beyond the grid of one step; it counts as infinite loss
WINDOW_TAIL = 1e-16  # mass beyond the window of a composition; it counts as infinite loss
FFT_ERROR = 1e-16  # allowance per release for rounding in the transforms; it counts as infinite loss
SMALLEST_DELTA = 1e-12
Curve = Callable[[np.ndarray], np.ndarray]  # epsilon >= 0 -> delta


class LossPmf(NamedTuple):
    """Losses ``(low + i) * step`` with probability ``masses[i]``, and an infinite loss with ``infinity``."""

    step: float
    low: int
    masses: np.ndarray  # shape (size,)
    infinity: float

    def losses(self) -> np.ndarray:
        """Finite losses, ascending, shape (size,)."""
        return (self.low + np.arange(len(self.masses))) * self.step


class CurvePair(NamedTuple):
    """A pair of distributions by its two hockey-stick curves: of P against Q, and of Q against P, at epsilon >= 0."""

    forward: Curve
    backward: Curve

    def span(self) -> tuple[float, float]:
        """Losses that matter: outside, both tails are under ``TAIL``."""
        return -_end(self.backward), _end(self.forward)

    def infinite(self) -> float:
        """Probability of losses beyond every finite one."""
        return float(self.forward(np.array([self.span()[1]]))[0])

    def pmf(self, step: float) -> LossPmf:
        """Connect the dots of the curve at multiples of ``step``.

        Below zero the curve is kept as its excess over 1 - exp(epsilon), which loses no digits.
        """
        low, high = (math.floor(self.span()[0] / step) - 2, math.ceil(self.span()[1] / step) + 2)
        index = np.arange(low, high + 1)
        excess = np.empty(len(index))
        delta = self.forward(index[-low:] * step)
        excess[:-low] = np.exp(index[:-low] * step) * self.backward(-index[:-low] * step)
        excess[-low] = delta[0]
        up = math.expm1(step)
        masses = np.zeros(len(index))
        negative = np.concatenate([excess[: -low + 1], [delta[1] + up]])
        masses[1 : -low + 1] = (negative[2:] - (1 + up) * (negative[1:-1] - negative[:-2]) - negative[1:-1]) / up
        masses[0] = (excess[1] - excess[0]) / up - excess[0]
        masses[-low + 1 : -1] = (delta[2:] - delta[1:-1] - (1 + up) * (delta[1:-1] - delta[:-2])) / up
        masses[-1] = (delta[-1] - delta[-2]) / math.expm1(-step)
        return LossPmf(step, low, np.maximum(masses, 0.0), float(delta[-1]))


class AtomPair(NamedTuple):
    """A discrete pair: loss ``losses[i]`` has probability ``masses[i]`` under P; ``infinity`` has no finite loss."""

    losses: np.ndarray
    masses: np.ndarray
    infinity: float

    def span(self) -> tuple[float, float]:
        """Smallest and largest finite loss."""
        return float(self.losses.min()), float(self.losses.max())

    def infinite(self) -> float:
        """Probability of an infinite loss."""
        return self.infinity

    def pmf(self, step: float) -> LossPmf:
        """Split every atom between its two grid neighbours so that its mass under P and under Q is kept."""
        lower = np.floor(self.losses / step).astype(np.int64)
        offset = self.losses - lower * step
        upper_share = np.clip(-np.expm1(-offset) / -math.expm1(-step), 0.0, 1.0)
        low = int(lower.min())
        masses = np.zeros(int(lower.max()) - low + 2)
        np.add.at(masses, lower - low, self.masses * (1 - upper_share))
        np.add.at(masses, lower - low + 1, self.masses * upper_share)
        return LossPmf(step, low, masses, self.infinity)


Pair = CurvePair | AtomPair


def symmetric(curve: Curve) -> CurvePair:
    """A pair whose two curves are the same."""
    return CurvePair(curve, curve)


def _end(curve: Curve) -> float:
    """An epsilon (of a fine geometric grid) beyond which the curve is under ``TAIL``; the last one if there is none."""
    grid = np.geomspace(1e-7, 1e5, 600)
    small = curve(grid) <= TAIL
    return float(grid[int(np.argmax(small))] if small.any() else grid[-1])


def variance(pmf: LossPmf) -> float:
    """Variance of the finite losses."""
    losses, total = pmf.losses(), pmf.masses.sum()
    mean = float(np.dot(pmf.masses, losses) / total)
    return float(np.dot(pmf.masses, (losses - mean) ** 2) / total)


def _log_mgfs(pmf: LossPmf, orders: np.ndarray) -> list[float]:
    losses, found = pmf.losses(), []
    exponent = np.empty_like(losses)
    for order in orders.tolist():
        top = max(order * losses[0], order * losses[-1])
        np.multiply(losses, order, out=exponent)
        exponent -= top
        with np.errstate(under="ignore"):
            total = float(np.dot(pmf.masses, np.exp(exponent, out=exponent)))
        found.append(top + math.log(total) if total > 0 else math.inf)
    return found


class _Window:
    """Chernoff bounds on where the sum of losses lies."""

    def __init__(self, pmfs: Sequence[tuple[LossPmf, int]]):
        self._pmfs, self._step = [pmf for pmf, _ in pmfs], pmfs[0][0].step
        variances = [variance(pmf) for pmf in self._pmfs]
        narrow = math.sqrt(min(variances)) or self._step
        wide = math.sqrt(sum(n * own for (_, n), own in zip(pmfs, variances, strict=True))) or self._step
        span = max(pmf.step * len(pmf.masses) for pmf in self._pmfs)
        self._orders = np.geomspace(min(0.7 / wide, 5.0 / span), max(25.0 / narrow, 50.0 / span), 16)
        signed = np.concatenate([self._orders, -self._orders])
        self._log_mgfs = np.array([_log_mgfs(pmf, signed) for pmf in self._pmfs])

    def of(self, counts: Sequence[int]) -> tuple[int, int]:
        """Grid indices outside of which the sum has at most ``WINDOW_TAIL`` on either side."""
        low = sum(n * pmf.low for pmf, n in zip(self._pmfs, counts, strict=True))
        high = sum(n * (pmf.low + len(pmf.masses) - 1) for pmf, n in zip(self._pmfs, counts, strict=True))
        used = np.flatnonzero(counts)  # a bound may be infinite, and 0 times it is not 0
        bound = np.asarray(counts, float)[used] @ self._log_mgfs[used] - math.log(WINDOW_TAIL)
        right, left = np.split(bound, 2)
        highest = min(high, math.ceil(float(np.min(right / self._orders)) / self._step))
        lowest = max(low, math.floor(float(np.max(-left / self._orders)) / self._step))
        return min(lowest, highest), highest


class Composer:
    """Compositions of several one-step distributions with any counts, sharing one Fourier transform each.

    Args:
        pmfs: one-step distributions with their largest counts; equal ``step``.
    """

    def __init__(self, pmfs: Sequence[tuple[LossPmf, int]]):
        self._pmfs = [pmf for pmf, _ in pmfs]
        self._window = _Window(pmfs)
        low, high = self._window.of([count for _, count in pmfs])
        longest = max(len(pmf.masses) for pmf in self._pmfs)
        self.size = fft.next_fast_len(max(high - low + 1, longest), real=True)
        transforms = [fft.rfft(self._around_zero(pmf)) for pmf in self._pmfs]
        self._log_sizes = np.array([np.log(np.maximum(np.abs(transform), 1e-300)) for transform in transforms])
        self._angles = np.array([np.angle(transform) for transform in transforms])

    def _around_zero(self, pmf: LossPmf) -> np.ndarray:
        """Masses with loss 0 at index 0: phases stay small, so their powers keep their digits."""
        circle = np.zeros(self.size)
        circle[(pmf.low + np.arange(len(pmf.masses))) % self.size] = pmf.masses
        return circle

    def composed(self, counts: Sequence[int]) -> LossPmf:
        """The distribution after ``counts[i]`` releases of the i-th kind (at most the largest counts).

        Mass left of the window wraps around to its right end, which can only raise epsilon.
        """
        low, high = self._window.of(counts)
        low = max(low, high - self.size + 1)
        powers = np.asarray(counts, float)
        log_size = powers @ self._log_sizes
        kept = np.flatnonzero(log_size > -80.0)  # smaller coefficients do not reach the last digit
        product = np.zeros(self.size // 2 + 1, complex)
        product[kept] = np.exp(log_size[kept] + 1j * (powers @ self._angles[:, kept]))
        around = fft.irfft(product, self.size)
        start = low % self.size
        masses = np.concatenate([around[start:], around[:start]])[: high - low + 1]
        allowance = WINDOW_TAIL + FFT_ERROR * (10 + sum(counts))
        finite = sum(n * math.log1p(-pmf.infinity) for pmf, n in zip(self._pmfs, counts, strict=True))
        return LossPmf(self._pmfs[0].step, low, masses, allowance - math.expm1(finite))


def epsilon_of(pmf: LossPmf, delta: float) -> float:
    """Smallest epsilon >= 0 whose hockey-stick divergence is at most ``delta``; inf if there is none."""
    if pmf.infinity > delta:
        return math.inf
    above = np.empty(len(pmf.masses) + 1)  # mass of losses from each one on, and infinity at the end
    np.cumsum(pmf.masses[::-1], out=above[:-1][::-1])
    above[-1] = 0.0
    above += pmf.infinity
    # The divergence at e is at least (1 - exp(-2)) above(e + 2), so epsilon is not 2 below where above = 1.2 delta.
    heavy = np.flatnonzero(above[:-1] > 1.2 * delta)
    crossing = (pmf.low + int(heavy[-1])) * pmf.step if len(heavy) else 0.0
    reference = max(crossing - 2.0, 0.0)
    start = max(0, math.ceil(reference / pmf.step - 1e-9) - pmf.low)
    stop = min(len(above) - 1, start + int(500.0 / pmf.step) + 1)
    if start >= stop:
        return reference
    above = above[start : stop + 1]
    decay = np.exp(reference - (pmf.low + np.arange(start, stop)) * pmf.step)
    scaled = np.zeros(len(above))
    np.cumsum((pmf.masses[start:stop] * decay)[::-1], out=scaled[:-1][::-1])
    if above[0] - scaled[0] <= delta:
        return reference
    fits = (above[1:] - delta) * decay <= scaled[1:]
    first = int(np.argmax(fits))  # the last loss always fits, since infinity <= delta
    return max(0.0, reference + math.log((above[first] - delta) / scaled[first]))


def delta_of(pmf: LossPmf, epsilon: np.ndarray) -> np.ndarray:
    """Hockey-stick divergence at every epsilon (any real, shape (n,)), clipped to [0, 1]."""
    losses = pmf.losses()
    values = []
    for value in np.atleast_1d(epsilon):
        kept = losses > value
        values.append(pmf.infinity + float(np.dot(-np.expm1(value - losses[kept]), pmf.masses[kept])))
    return np.clip(np.array(values), 0.0, 1.0)
