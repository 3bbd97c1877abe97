"""Handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedopt.data._assemble import SplitDataSet, assemble, hold_out
from fedopt.data.base import Examples, FederatedData
from fedopt.types import Task


class Digits(SplitDataSet):
    """1,797 handwritten digits of 8 x 8 pixels, 10 classes; ships with scikit-learn, no download.

    Inputs ``[1, 8, 8]`` in 0..1 (the stored 0..16 over 16).

    References: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository
    (CC BY 4.0); the test part of it, as packaged by scikit-learn.
    """

    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of all examples held out as the pooled test set")

    def load(self, seed: int) -> FederatedData:
        """Read and split."""
        from sklearn.datasets import load_digits

        stored = load_digits()
        inputs = (stored.images / 16.0).astype(np.float32)[:, None]
        train, test = hold_out(Examples(inputs, stored.target.astype(np.int64)), self.test_fraction, seed)
        source = {"name": "digits", "licence": "CC BY 4.0 (UCI)", "found": "scikit-learn load_digits"}
        names = tuple(str(digit) for digit in range(10))
        return assemble(self, seed, Task("classification", (1, 8, 8), 10), train, test, names, source)
