"""Small tables that ship with scikit-learn."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from fedopt.data._assemble import SplitDataSet, assemble, hold_out
from fedopt.data._tabular import standardised, standardised_targets
from fedopt.data.base import Examples, FederatedData
from fedopt.types import Task


class TabularSklearn(SplitDataSet):
    """Small tables that ship with scikit-learn: breast_cancer, wine (classes) and diabetes (regression).

    | name | examples | inputs | outputs |
    |---|---|---|---|
    | breast_cancer | 569 | 30 | 2 classes |
    | wine | 178 | 13 | 3 classes |
    | diabetes | 442 | 10 | 1 value |

    Standardisation uses the pooled training mean and deviation (and, for diabetes, of the target). No noise covers
    them: under privacy they must be declared as ``public: [feature_statistics]``, or ``standardize: false`` be set.

    References: UCI Machine Learning Repository (breast cancer Wisconsin diagnostic, wine; CC BY 4.0); Efron et al.
    2004, Least Angle Regression (diabetes).
    """

    clients: int = Field(10, gt=0, description="number of clients")
    name: Literal["breast_cancer", "wine", "diabetes"] = Field("breast_cancer", description="which table")
    standardize: bool = Field(True, description="zero mean and unit variance per column, from the training examples")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of all examples held out as the pooled test set")

    def load(self, seed: int) -> FederatedData:
        """Read and split."""
        import sklearn.datasets

        options = {"scaled": False} if self.name == "diabetes" else {}
        stored = getattr(sklearn.datasets, f"load_{self.name}")(**options)
        names: tuple[str, ...] = ()
        if self.name == "diabetes":
            targets = stored.target.astype(np.float32)[:, None]
            task = Task("regression", (stored.data.shape[1],), 1)
        else:
            names = tuple(map(str, stored.target_names))
            targets = stored.target.astype(np.int64)
            task = Task("classification", (stored.data.shape[1],), len(names))
        train, test = hold_out(Examples(stored.data.astype(np.float32), targets), self.test_fraction, seed)
        if self.standardize:
            train, test = standardised(train, test)
        if self.standardize and task.kind == "regression":
            train, test = standardised_targets(train, test)
        source = {"name": self.name, "licence": "see scikit-learn", "found": f"scikit-learn load_{self.name}"}
        return assemble(self, seed, task, train, test, names, source)
