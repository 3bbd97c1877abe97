"""Tables: columns to real-valued inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedopt.data.base import Examples

if TYPE_CHECKING:
    import pandas


def numeric_columns(frame: pandas.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers stay, booleans become 0/1, everything else one column per value (sorted) ``[n, columns]`` float32.

    Raises:
        ValueError: a value is missing; names the column.
    """
    import pandas

    columns: list[np.ndarray] = []
    names: list[str] = []
    for name in frame.columns:
        values = frame[name]
        if values.isna().any():
            raise ValueError(f"column {name!r} has {int(values.isna().sum())} missing values: fill or drop them first")
        if pandas.api.types.is_numeric_dtype(values) or pandas.api.types.is_bool_dtype(values):
            columns.append(values.to_numpy(dtype=np.float64))
            names.append(str(name))
            continue
        text = values.astype(str).to_numpy(dtype=str)
        for choice in np.unique(text):
            columns.append((text == choice).astype(np.float64))
            names.append(f"{name}={choice}")
    return np.stack(columns, axis=1).astype(np.float32), tuple(names)


def standardised(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """Every column minus its training mean, over its training standard deviation (1 where it is constant)."""
    mean, std = train.inputs.mean(axis=0, dtype=np.float64), train.inputs.std(axis=0, dtype=np.float64)
    scale = np.where(std > 0, std, 1.0)

    def scaled(part: Examples) -> Examples:
        return Examples(((part.inputs - mean) / scale).astype(np.float32), part.targets, part.groups)

    return scaled(train), scaled(test)


def standardised_targets(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """Regression targets minus their training mean, over their training standard deviation."""
    mean, std = train.targets.mean(axis=0, dtype=np.float64), train.targets.std(axis=0, dtype=np.float64)
    scale = np.where(std > 0, std, 1.0)

    def scaled(part: Examples) -> Examples:
        return Examples(part.inputs, ((part.targets - mean) / scale).astype(np.float32), part.groups)

    return scaled(train), scaled(test)
