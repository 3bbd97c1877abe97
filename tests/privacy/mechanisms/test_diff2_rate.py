"""DIFF2's reason to be: its squared gradient norm falls with the examples as N^(-4/3), that of DP-GD as N^-1."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diff2_runs import run, setting

from fedopt.engine.base import DenseUpdates
from fedopt.privacy.gaussian_dp import gaussian_mu_of
from fedopt.privacy.mechanisms.diff2 import GRADIENT, SLOPE, Diff2
from fedopt.types import Public

DIMENSION, MU = 100, gaussian_mu_of(3.0, 1e-5)


class Flattening:
    """``-log(1 + x^2) / 2 + |y|^2 / 2``: along x it goes down for ever, ever more slowly; noise sits in y.

    Gradients fall as slowly as descent on a smooth non-convex objective can: squared, as one over the sum of the steps.
    In a bowl they would fall geometrically, and only the noise would be left.
    """

    def work(self, cohort, engine):
        """Gradients at a restart, else their differences over the distance."""
        (message,) = cohort.messages
        point, before = message.parts["params"], message.parts.get("previous")
        if message.config["restart"]:
            return SimpleNamespace(parts={GRADIENT: DenseUpdates(gradient(point)[None])})
        slope = (gradient(point) - gradient(before)) / (point - before).norm()
        return SimpleNamespace(parts={SLOPE: DenseUpdates(slope[None])})


def gradient(point):
    found = point.clone()
    found[0] = -point[0] / (1 + point[0] ** 2)
    return found


def squared_gradient(examples: int, rounds: int, every: int) -> float:
    """Mean over the last quarter of a run at (epsilon 3, delta 1e-5), step 1/2, from x = 1."""
    public = Public(1, 1.0, is_private=True, num_examples=np.array([examples]), dimension=DIMENSION + 1)
    engine = SimpleNamespace(task=SimpleNamespace(spec=SimpleNamespace(size=DIMENSION + 1)))
    mechanism = Diff2().with_noise_level(2 / MU, rounds, setting(every))  # 2: multipliers are over C, not over 2 C
    start = torch.zeros(DIMENSION + 1)
    start[0] = 1.0
    states = run(engine, rounds, every, work=Flattening(), mechanism=mechanism, public=public, lr=0.5, start=start)
    return float(np.mean([float(gradient(s.params).square().sum()) for s in states[-max(1, rounds // 4) :]]))


def tuned(examples: int, differences: bool) -> float:
    """The best of a grid of lengths (and restart intervals) around those that balance the bound's terms."""
    a = MU * examples / math.sqrt(DIMENSION)
    if not differences:
        return min(squared_gradient(examples, math.ceil(a * share), 1) for share in (0.5, 0.8, 1.2))
    found = []
    for length in (a ** (4 / 3) / 4 * share for share in (1, 2, 4)):
        for share in (0.7, 1.5):
            every = round(min(1.0, share * 2 / math.sqrt(length)) * 2 * length)
            found.append(squared_gradient(examples, math.ceil(2 * length), every))
    return min(found)


def test_the_gradient_falls_with_the_examples_at_the_rates_of_the_theory():
    sizes = [300, 1000, 3300]
    errors = {kind: [tuned(n, kind) for n in sizes] for kind in (False, True)}
    slopes = {kind: np.polyfit(np.log(sizes), np.log(found), 1)[0] for kind, found in errors.items()}
    assert slopes[False] == pytest.approx(-1.0, abs=0.1), (slopes, errors)
    assert slopes[True] == pytest.approx(-4 / 3, abs=0.1), (slopes, errors)
    assert errors[True][-1] < 0.6 * errors[False][-1]
