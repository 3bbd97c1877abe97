"""Your own function as a problem."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from fedopt.components import import_failure
from fedopt.data._objectives import black_box, noisy
from fedopt.data.base import DataSet, FederatedData

if TYPE_CHECKING:
    import torch


class UserFunction(DataSet):
    """Your own Python function per client, known by its values only; minimised over a flat point.

    ``function: package.module:name`` names a function, or a class that is built with ``options`` and then called:

    | vectorised | call | returns |
    |---|---|---|
    | false | ``f(client, point)``, point ``[d]`` float64 | a number |
    | true | ``f(clients, points)``, ``[cohort]`` and ``[cohort, queries, d]`` NumPy arrays | ``[cohort, queries]`` |

    Points are the function's own copies. Every point that is asked for during training is one query; evaluating F for
    the log is not. With ``lower: 0`` and ``upper: 1`` zeroth-order clients may keep their iterates in the cube.
    """

    is_function = True
    code_fields = ("function",)

    function: str = Field(pattern=r"^[\w.]+:\w+$", description="package.module:name of a function or a class")
    clients: int = Field(5, gt=0, description="number of clients N; the function is told which one")
    dimension: int = Field(gt=0, description="number of coordinates d")
    vectorised: bool = Field(False, description="whether one call gets all points of all clients at once")
    options: dict[str, Any] = Field(default_factory=dict, description="arguments by name, of the class or the function")
    start: float = Field(0.5, allow_inf_nan=False, description="value of every coordinate of the starting point")
    lower: float | None = Field(None, description="0: least value of a coordinate; null: no bound")
    upper: float | None = Field(None, description="1: largest value of a coordinate; null: no bound")
    noise_std: float = Field(0.0, ge=0, description="standard deviation of noise added to a query")

    @model_validator(mode="after")
    def _bounds_fit(self) -> UserFunction:
        if (self.lower is None) != (self.upper is None):
            raise ValueError("give both lower and upper, or neither")
        if (self.lower, self.upper) not in ((None, None), (0.0, 1.0)):
            raise ValueError(
                f"bounds are 0 and 1, got {self.lower} and {self.upper}: zeroth-order clients keep iterates in the "
                "unit cube, so scale inside the function"
            )
        if self.lower is not None and self.upper is not None and not self.lower <= self.start <= self.upper:
            raise ValueError(f"start {self.start} lies outside [{self.lower}, {self.upper}]")
        return self

    def load(self, seed: int) -> FederatedData:
        """Find the function.

        Raises:
            ValueError: it cannot be imported, or not be called with a client, a point and the options.
        """
        objective = UserObjective(self._callable(), self.clients, self.dimension, self)
        return black_box(objective, {"name": self.function, "licence": "yours"})

    def problems(self) -> list[tuple[str, str]]:
        """Whether the function is there and takes its arguments; nothing of it is called."""
        try:
            found = self._found()
        except ValueError as error:
            return [("function", str(error))]
        return self._misfits(found)

    def _found(self) -> Any:
        module, _, name = self.function.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, SyntaxError) as error:
            raise ValueError(f"{self.function!r} cannot be found: {import_failure(error)}; check the path") from error

    def _misfits(self, found: Any) -> list[tuple[str, str]]:
        """What signatures show to be wrong, as (field, message)."""
        arguments = ("clients", "points") if self.vectorised else ("client", "point")
        how = f"called with ({', '.join(arguments)})"
        if not inspect.isclass(found) and callable(found):
            return self._refused("options" if self.options else "function", how, found, arguments, self.options)
        method = next(
            (vars(base)["__call__"] for base in getattr(found, "__mro__", ()) if "__call__" in vars(base)), None
        )
        if method is None:
            return [("function", f"{self.function!r} cannot be called; give a function or a class with __call__")]
        built = self._refused("options", "built", found, (), self.options)
        plain = inspect.isfunction(method)
        return built + (self._refused("function", how, method, (found, *arguments), {}) if plain else [])

    def _refused(
        self, field: str, how: str, what: Callable[..., Any], positional: tuple[Any, ...], named: dict[str, Any]
    ) -> list[tuple[str, str]]:
        """The refusal of these arguments, if the signature is known and does not take them."""
        try:
            # Of what is called, not of what it wraps: a decorator may well change the arguments.
            inspect.signature(what, follow_wrapped=False).bind(*positional, **named)
        except TypeError as error:
            given = f" {'and' if positional else 'with'} options {', '.join(named)}" if named else ""
            return [(field, f"{self.function!r} cannot be {how}{given}: {error}")]
        except ValueError:  # compiled code need not say what it takes
            return []
        return []

    def _callable(self) -> Callable[..., Any]:
        try:
            found = self._found()
        except ValueError as error:
            raise ValueError(f"data.function {error}") from error
        misfits = self._misfits(found)
        if misfits:
            raise ValueError("; ".join(f"data.{field} {message}" for field, message in misfits))
        if inspect.isclass(found):
            return found(**self.options)  # type: ignore[return-value]
        return partial(found, **self.options)


@dataclass(frozen=True)
class UserObjective:
    """The functions of ``UserFunction`` (an ``Objective``)."""

    function: Callable[..., Any]
    num_clients: int
    dimension: int
    settings: UserFunction
    has_gradients: bool = False
    optimum: float | None = None

    @property
    def noise_std(self) -> float:
        """Of a query."""
        return self.settings.noise_std

    @property
    def lower(self) -> float | None:
        """Least value of a coordinate."""
        return self.settings.lower

    @property
    def upper(self) -> float | None:
        """Largest value of a coordinate."""
        return self.settings.upper

    def initial(self, seed: int) -> torch.Tensor:
        """The starting point ``[d]``, the same for every seed."""
        import torch

        return torch.full((self.dimension,), self.settings.start, dtype=torch.float32)

    def values(self, clients: Any, points: torch.Tensor, draw: torch.Tensor | None = None) -> torch.Tensor:
        """f_i at points ``[cohort, queries, d]`` -> ``[cohort, queries]``; ``draw``: standard normals.

        Raises:
            ValueError: the function returns another shape.
        """
        import torch

        who = np.asarray([int(c) for c in clients], dtype=np.int64)
        # Copies both ways: the function may write into its argument, and fill one result again and again.
        where = np.array(points.detach().to("cpu", torch.float64).numpy())
        if self.settings.vectorised:
            found = np.array(self._call(who, where), dtype=np.float64)
        else:
            rows = zip(who.tolist(), where, strict=True)
            found = np.array([[self._number(self._call(c, point)) for point in row] for c, row in rows])
        if found.shape != where.shape[:2]:
            raise ValueError(
                f"{self.settings.function} returned shape {found.shape} for points {where.shape}; a vectorised "
                f"function returns one value per point, {where.shape[:2]}"
            )
        return noisy(torch.from_numpy(found).to(points), self.noise_std, draw)

    def _call(self, *arguments: Any) -> Any:
        try:
            return self.function(*arguments)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # from within the function
            raise ValueError(f"{self.settings.function} cannot be called with (client, point): {error}") from error

    def _number(self, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.settings.function} returned {value!r}, not a number; set data.vectorised if it takes arrays"
            ) from error

    def gradients(self, clients: Any, points: torch.Tensor) -> torch.Tensor:
        """Not known.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self.settings.function} has values only; use a zeroth-order client")

    def value(self, point: Any) -> float:
        """F(point), without noise."""
        import torch

        where = torch.as_tensor(point).detach().to("cpu", torch.float64)
        everybody = range(self.num_clients)
        return float(self.values(everybody, where.expand(self.num_clients, 1, -1)).mean())
