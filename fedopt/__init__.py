"""fedopt: a fast, honest simulator for private and federated optimisation.

>>> import fedopt
>>> callable(fedopt.simulate)
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedopt.api import Run, open_run, simulate
    from fedopt.comparison.api import Comparison, compare
    from fedopt.scenario import Scenario, load

__all__ = ["Comparison", "Run", "Scenario", "compare", "load", "open_run", "simulate"]

_WHERE = {
    "Comparison": "fedopt.comparison.api",
    "Run": "fedopt.api",
    "compare": "fedopt.comparison.api",
    "open_run": "fedopt.api",
    "simulate": "fedopt.api",
    "Scenario": "fedopt.scenario",
    "load": "fedopt.scenario",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line starts without torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'fedopt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
