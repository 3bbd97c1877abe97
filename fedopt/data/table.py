"""Any CSV or Parquet table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from fedopt.data._assemble import SplitDataSet, assemble, hold_out, take
from fedopt.data._fetch import digest, find
from fedopt.data._tabular import numeric_columns, standardised
from fedopt.data.base import Examples, FederatedData
from fedopt.types import Task

if TYPE_CHECKING:
    import pandas


class Table(SplitDataSet):
    """Your own CSV or Parquet table, with a target column and, if it has one, a client column.

    Every other column (or ``feature_columns``) is an input: numbers as they are, text as one 0/1 column per value.
    The client column is the natural owner: use it with ``partition: natural_id``. Classes are the sorted distinct
    values of the target. ``standardize`` uses pooled training statistics; under privacy
    they must be declared as ``public: [feature_statistics]``.
    """

    path: str = Field(description="file ending in .csv, .csv.gz, .tsv or .parquet")
    test_path: str | None = Field(None, description="test table of the same format; null = test_fraction")
    target_column: str = Field(description="column to predict")
    client_column: str | None = Field(None, description="column with the natural owner of every row")
    feature_columns: tuple[str, ...] | None = Field(
        None, strict=False, description="input columns; null = all but the target and client columns"
    )
    task: Literal["classification", "regression"] = Field("classification", description="kind of the target")
    standardize: bool = Field(False, description="zero mean and unit variance per input, from the training rows")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of the rows held out, without a test_path")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: no such file.
            ValueError: unknown format or column, missing values, or a test class that is never trained on.
        """
        import pandas

        paths = [_found(path) for path in self._paths()]
        frames = [_read(path) for path in paths]
        frame = pandas.concat(frames, ignore_index=True)
        inputs, _ = numeric_columns(frame[self._features(frame)])
        targets, names = self._targets(frame)
        groups = None if self.client_column is None else frame[self.client_column].astype(str).to_numpy(dtype=str)
        examples = Examples(inputs, targets, groups)
        if len(frames) == 2:
            cut = len(frames[0])
            train, test = take(examples, np.arange(cut)), take(examples, np.arange(cut, len(examples)))
        else:
            train, test = hold_out(examples, self.test_fraction, seed)
        if self.standardize:
            train, test = standardised(train, test)
        task = Task(self.task, (inputs.shape[1],), len(names) or 1)
        source = {"name": paths[0].name, "found": str(paths[0]), "sha256": digest(paths)}
        return assemble(self, seed, task, train, test, names, source)

    def problems(self) -> list[tuple[str, str]]:
        """Missing files and columns, from the tables' headers alone."""
        named = {"target_column": (self.target_column,), "client_column": (self.client_column,)}
        wanted: dict[str, tuple[str | None, ...]] = {**named, "feature_columns": self.feature_columns or ()}
        found: list[tuple[str, str]] = []
        for field, given in zip(("path", "test_path"), self._paths(), strict=False):
            try:
                columns = _columns(_found(given))
            except (OSError, ValueError) as error:
                found.append((field, str(error)))
                continue
            for key, names in wanted.items():
                unknown = [name for name in names if name is not None and name not in columns]
                if unknown:
                    found.append((key, _no_column(given, unknown, columns)))
        return found

    def _paths(self) -> list[str]:
        return [self.path, *([self.test_path] if self.test_path else [])]

    def _features(self, frame: pandas.DataFrame) -> list[str]:
        special = [name for name in (self.target_column, self.client_column) if name is not None]
        wanted = list(self.feature_columns or [name for name in frame.columns if name not in special])
        unknown = [name for name in [*special, *wanted] if name not in frame.columns]
        if unknown:
            raise ValueError(_no_column(self.path, unknown, list(frame.columns)))
        if not wanted:
            raise ValueError(f"{self.path} has no input column beside {', '.join(special)}")
        return wanted

    def _targets(self, frame: pandas.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
        values = frame[self.target_column]
        if values.isna().any():
            raise ValueError(f"column {self.target_column!r} has missing values: fill or drop them first")
        if self.task == "regression":
            return values.to_numpy(dtype=np.float32)[:, None], ()
        names, codes = np.unique(values.to_numpy(), return_inverse=True)
        return codes.astype(np.int64), tuple(map(str, names))


def _found(path: str) -> Path:
    return find("table", Path.is_file, path, [], "Name a file in `path`")


def _no_column(path: str, unknown: list[str], columns: list[str]) -> str:
    return f"{path} has no column {', '.join(unknown)}; it has {', '.join(columns)}"


def _columns(path: Path) -> list[str]:
    """Names of the columns, without reading the rows."""
    if path.name.endswith(".parquet"):
        import pyarrow.parquet

        return list(pyarrow.parquet.read_schema(path).names)
    return list(_read(path, rows=0).columns)


def _read(path: Path, rows: int | None = None) -> pandas.DataFrame:
    import pandas

    if path.name.endswith(".parquet"):
        return pandas.read_parquet(path)
    if path.name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        try:
            return pandas.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",", nrows=rows)
        except (pandas.errors.EmptyDataError, pandas.errors.ParserError) as error:
            raise ValueError(f"{path} holds no table: {error}") from error
    raise ValueError(f"{path}: unknown format; use a name ending in .csv, .csv.gz, .tsv or .parquet")
