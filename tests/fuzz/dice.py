"""Random settings of any section or component, most of them at their edges.

Options come from the settings classes themselves, so a new component or option is drawn without a change here.
"""

from __future__ import annotations

import random
import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from fedopt.components import component, kind_of_field, names

# Kinds that need files or arrays.
ELSEWHERE = {"trace", "user_arrays", "natural_id"}

# Values of options by name, where what the class allows is too large for a small run, or where the edges lie elsewhere.
VALUES: dict[str, list[Any]] = {
    "active_queries": [0, 1, 2],
    "arguments": [{}],
    "batch_size": [1, 2, 7, 50, 500, "full"],
    "blocks": [[1]],
    "buffer_size": [1, 2, 3, 20],
    "burst": [1, 2],
    "candidates": [0, 1, 5],
    "channels": [[1, 2]],
    "classes": [2, 3],
    "client_steps": [0, 2],
    "client_test_fraction": [0.0, 0.3],
    "clients": [1, 2, 3, 5, 9],
    "cohort_size": [1, 2, 3, 9],
    "count": [1, 2, 5],
    "curvature_max": [1.0, 3.0],
    "curvature_min": [0.5, 1.0],
    "curvatures": [None],
    "centers": [None],
    "dimension": [1, 2, 5],
    "epochs": [None, 1, 2],
    "examples_at_once": [1, 3, 64],
    "examples_per_client": [None, 1, 3],
    "feature_window": [None, 1, 20],
    "features": [1, 2, 30],
    "frequencies": [None],
    "function": ["fuzz.drawing:bowl"],
    "global_active_queries": [0, 1, 5],
    "global_candidates": [0, 1, 5],
    "hidden": [[], [3], [4, 3]],
    "initial_queries": [0, 1, 3],
    "layer_norms": [None, [1.0, 0.5]],
    "lengthscales": [[1.0], [0.5, 5.0]],
    "local_epsilon": [0.5, 2.0],
    "local_steps": [1, 2, 3],
    "min_partition_size": [0, 1, 5],
    "noise_multiplier": [0.0, 0.5, 1.0, 5.0],
    "options": [{}],
    "partition_sizes": [None],
    "restart_every": [1, 2, 5],
    "seconds": [[1.0], [0.5, 2], ["1/3"]],
    "server_step_s": [0.3, 1.0, 5.0],
    "size_log_mean": [1.0, 2.0],
    "size_log_std": [0.0, 1.0],
    "size_max": [None, 5, 20],
    "size_min": [2, 5],
    "source": [{"kind": "tabular_sklearn", "name": "wine", "clients": 1}, {"kind": "digits", "clients": 1}],
    "steps": [None, 1, 2, 5],
    "train_steps": [1, 5],
    "window": [None, 1, 3],
    "window_s": [0.5, 1.0, 10.0],
}
# Set whatever the dice say: the defaults are for larger runs.
ALWAYS = {
    "channels", "client_steps", "clients", "count", "curvature_min", "dimension", "features", "global_candidates",
    "hidden", "lengthscales", "local_steps", "size_log_mean", "size_log_std", "size_min", "train_steps",
}  # fmt: skip
OUTSIDE: list[Any] = [0, -1, float("nan"), float("inf"), "x", None, 1e9]


class Dice:
    """Random settings of sections and components.

    Args:
        seed: of everything that is drawn.
        option: probability that an option is set at all.
        outside: probability that a set option gets a value that is likely not allowed.
    """

    def __init__(self, seed: int, option: float = 0.3, outside: float = 0.0):
        self.random = random.Random(seed)
        self.option, self.outside = option, outside

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def choice(self, values: Any) -> Any:
        return self.random.choice(list(values))

    def part(self, family: str, kinds: Any = None, depth: int = 0) -> dict[str, Any]:
        """A component of a family with random options."""
        known = [kind for kind in kinds or names(family) if kind not in ELSEWHERE]
        kind = self.choice(known)
        return {"kind": kind, **self.options(component(family, kind), depth)}

    def options(self, settings: type[BaseModel], depth: int = 0, skip: tuple[str, ...] = ()) -> dict[str, Any]:
        """Random options of a settings class; required ones always."""
        found = {}
        for name, field in settings.model_fields.items():
            if name in skip:
                continue
            if field.is_required() or name in ALWAYS or self.chance(self.option):
                found[name] = self._value(settings, name, depth)
        return found

    def _value(self, settings: type[BaseModel], name: str, depth: int) -> Any:
        if self.chance(self.outside):
            return self.choice(OUTSIDE)
        field = settings.model_fields[name]
        family = kind_of_field(settings, name)
        if name in VALUES:
            allowed = [v for v in VALUES[name] if _fits(v, field.annotation, field.metadata)]
            if allowed:
                return self.choice(allowed)
        if family is not None:
            return (
                self.part(family.family, depth=depth + 1) if depth < 2 else field.get_default(call_default_factory=True)
            )
        return self._of_type(field.annotation, field.metadata, field.default)

    def _of_type(self, annotation: Any, metadata: list[Any], default: Any) -> Any:
        origin, inner = get_origin(annotation), get_args(annotation)
        if origin is Literal:
            return self.choice(inner)
        if origin in (Union, types.UnionType):
            chosen = self.choice(inner)
            return None if chosen is type(None) else self._of_type(chosen, metadata, default)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return self.options(annotation)
        if annotation is bool:
            return self.chance(0.5)
        if annotation in (int, float):
            return self.choice(_edges(annotation, metadata, default))
        return default if default is None or isinstance(default, (int, float, str)) else list(default)


def _fits(value: Any, annotation: Any, metadata: list[Any]) -> bool:
    """Whether a value of the table is of the type of an option, and inside its limits."""
    allowed = {a for a in (annotation, *get_args(annotation)) if isinstance(a, type)}
    if value is None:
        return type(None) in allowed
    if isinstance(value, str):
        return str in allowed or value in {
            v for a in (annotation, *get_args(annotation)) if get_origin(a) is Literal for v in get_args(a)
        }
    if isinstance(value, (list, dict)):
        return True
    low, high = _limits(metadata)
    typed = bool(allowed & {int, float}) and (isinstance(value, int) or float in allowed)
    return typed and (low is None or value >= low) and (high is None or value <= high)


def _limits(metadata: list[Any]) -> tuple[float | None, float | None]:
    low = next((getattr(m, a) for m in metadata for a in ("ge", "gt") if hasattr(m, a)), None)
    high = next((getattr(m, a) for m in metadata for a in ("le", "lt") if hasattr(m, a)), None)
    return low, high


def _edges(annotation: type, metadata: list[Any], default: Any) -> list[Any]:
    """Values of a number at and near its limits, and usual ones."""
    low, high = _limits(metadata)
    strict_low = any(hasattr(m, "gt") for m in metadata)
    strict_high = any(hasattr(m, "lt") for m in metadata)
    candidates: list[Any] = [0, 1, 2, 3] if annotation is int else [0.0, 0.01, 0.3, 0.9, 1.0, 2.0]
    candidates += [v for v in (low, high) if v is not None]
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        candidates.append(default)
    inside = [
        annotation(v)
        for v in candidates
        if (low is None or v > low or (v == low and not strict_low))
        and (high is None or v < high or (v == high and not strict_high))
    ]
    return sorted(set(inside))
