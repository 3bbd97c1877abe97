"""A module of the user's own."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from fedopt.components import import_failure
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class UserModule(Model):
    """Your own ``nn.Module``, from a function or class ``package.module:name``.

    It is called with ``arguments``, and with ``task=`` (a ``fedopt.types.Task``: kind, input_shape, num_outputs) if it
    has a parameter of that name. The module must map ``[batch, *input_shape]`` to ``[batch, num_outputs]`` (next_token:
    ``[batch, sequence, num_outputs]``), which is tried on two examples.

    Raises (when built):
        ValueError: it cannot be imported or called, returns no module, has no parameters, or gives another shape.
    """

    code_fields = ("factory",)

    factory: str = Field(description='function or class that returns the module, as "package.module:name"')
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the factory")

    @field_validator("factory")
    @classmethod
    def _named(cls, value: str) -> str:
        module, _, name = value.partition(":")
        if not module or not name:
            raise ValueError(f'must be "package.module:name", got {value!r}')
        return value

    def build(self, task: Task) -> nn.Module:
        """Call the factory and try its module."""
        from torch import nn

        arguments = dict(self.arguments)
        factory = self._imported()
        if "task" in inspect.signature(factory).parameters:
            arguments["task"] = task
        try:
            module = factory(**arguments)
        except TypeError as error:
            raise ValueError(f"model.factory {self.factory} cannot be called with {arguments}: {error}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"model.factory {self.factory} must return an nn.Module, got {type(module).__name__}")
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(f"the module of model.factory {self.factory} has no parameters to train")
        if task.kind != "black_box":
            _try(module, task, self.factory)
        return module

    def problems(self) -> list[tuple[str, str]]:
        """Whether the factory is there; it is not called."""
        try:
            self._imported()
        except ValueError as error:
            return [("factory", str(error))]
        return []

    def _imported(self) -> Any:
        module, _, name = self.factory.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, SyntaxError) as error:
            raise ValueError(f"cannot import model.factory {self.factory}: {import_failure(error)}") from error


def _try(module: nn.Module, task: Task, factory: str) -> None:
    import torch

    tokens = task.kind == "next_token"
    batch = torch.zeros((2, *task.input_shape), dtype=torch.int64 if tokens else torch.float32)
    expected = (2, *task.input_shape, task.num_outputs) if tokens else (2, task.num_outputs)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = tuple(module(batch).shape)
    except RuntimeError as error:
        raise ValueError(f"the module of model.factory {factory} fails on {tuple(batch.shape)}: {error}") from error
    finally:
        module.train(was_training)
    if found != expected:
        raise ValueError(
            f"the module of model.factory {factory} must map {tuple(batch.shape)} to {expected}, it gives {found}"
        )
