"""Deployment on Flower: the only package that imports flwr, and only when something of it is used."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "VirtualGrid": "fedopt.flower.virtual_grid",
    "Accountant": "fedopt.flower.accountant",
    "client_app": "fedopt.flower.client_app",
    "server_app": "fedopt.flower.server_app",
}


class FlowerMissing(RuntimeError):
    """flwr is not installed; the message says how to get it."""


def require_flwr() -> None:
    """Make sure that flwr can be imported.

    Raises:
        FlowerMissing: it cannot.
    """
    from importlib.util import find_spec

    if find_spec("flwr") is None:
        raise FlowerMissing(
            "deployment needs Flower 1.41, which is an optional extra: pip install 'fedopt[flower]' on every machine"
        )


def __getattr__(name: str) -> Any:
    """The public names, imported when first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    require_flwr()
    return getattr(import_module(_HOMES[name]), name)
