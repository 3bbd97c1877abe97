"""DIFF2's local work: clipped means of per-example gradients, or of their differences between two points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from fedopt.clients.base import ClientWork, without_examples
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates, Engine, ExampleClipping
from fedopt.types import Message, ParamSpec

if TYPE_CHECKING:
    import torch


class GradientDifference(ClientWork):
    """Clipped mean over all local examples of gradients (restart) or of gradient differences per distance.

    With points x and x' from the aggregator diff2, every example gives ``g_i(x)`` clipped to C1 (part ``gradient``), or
    ``(g_i(x) - g_i(x')) / |x - x'|`` clipped to C2 (part ``slope``); the reply is their mean. C1 and C2 come from the
    mechanism diff2; without privacy nothing is clipped.

    Guarantees: one example moves a reply by at most 2 C / n_i. Equal points give exactly zero.

    References: Murata and Suzuki 2023, DIFF2, ClippedMean of Algorithm 1, arXiv:2302.03884.
    """

    examples_at_once: int = Field(64, ge=1, description="per-example gradients held in memory at the same time")

    sends = ("gradient", "slope")

    _clipping: ExampleClipping | None = PrivateAttr(None)

    def protected(self, clipping: ExampleClipping) -> GradientDifference:
        """The same work with these bounds."""
        made = self.model_copy()
        made._clipping = clipping
        return made

    def planned_steps(self, num_examples: int, message: Message) -> int:
        """One pass at a restart, two in difference rounds; none without examples."""
        if not num_examples:
            return 0
        return 1 if message.config.get("restart", True) else 2

    def batch_size_of(self, num_examples: int) -> int:
        """All local examples."""
        return num_examples

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """One float32 per parameter."""
        return 4 * spec.size

    def normalizer(self, steps: int) -> float:
        """One gradient."""
        return 1.0

    def initial_state(self, spec: ParamSpec) -> dict[str, int]:
        """Stateless."""
        return {}

    def unable(self, engine: Engine) -> tuple[str, ...]:
        """Examples."""
        return without_examples(self, engine)

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Clipped means of the cohort; parts: ``gradient`` or ``slope``."""
        import torch

        restart = bool(cohort.messages[0].config["restart"])
        rows, losses = [], []
        for client, message in zip(cohort.clients, cohort.messages, strict=True):
            mean, loss = self._clipped_mean(engine, client, message, restart)
            rows.append(mean)
            losses.append(loss)
        part = "gradient" if restart else "slope"
        return CohortReply({part: DenseUpdates(torch.stack(rows))}, metrics={"train_loss": torch.tensor(losses)})

    def _clipped_mean(self, engine: Any, client: int, message: Message, restart: bool) -> tuple[torch.Tensor, float]:
        """Clipped mean ``[d]`` of one client, and its mean loss at the new point."""
        import torch

        point = message.parts["params"].to(engine.device)
        other = None if restart else message.parts["previous"].to(engine.device)
        distance = 1.0 if other is None else float((point - other).norm())
        examples = torch.from_numpy(engine.data.clients.of(client)).to(engine.device)
        total, loss = torch.zeros_like(point), 0.0
        if not len(examples) or distance == 0.0:
            return total, loss
        for block in examples.split(self.examples_at_once):
            gradients, losses = example_gradients(engine, point, block)
            if other is not None:
                gradients = (gradients - example_gradients(engine, other, block)[0]) / distance
            total += self._clipped_sum(gradients, restart)
            loss += float(losses.sum())
        return total / len(examples), loss / len(examples)

    def _clipped_sum(self, gradients: torch.Tensor, restart: bool) -> torch.Tensor:
        """Sum of rows ``[examples, d]``, each scaled to the bound; one that is not finite counts as zero."""
        import torch

        bound = math.inf
        if self._clipping is not None:
            bound = self._clipping.clipping_norm if restart else self._clipping.difference_clipping_norm or math.inf
        if math.isinf(bound):
            return gradients.sum(0)
        norms = gradients.norm(dim=1)
        factors = (bound / norms.clamp_min(1e-30)).clamp_max(1.0)
        finite = norms.isfinite()
        kept = DenseUpdates(gradients.masked_fill_(~finite[:, None], 0.0))
        return kept.weighted_sum(torch.where(finite, factors, 0.0))  # exact products: noise is for no more


def example_gradients(engine: Any, point: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient ``[examples, d]`` and loss ``[examples]`` of every example at a point ``[d]``."""
    import torch
    from torch.func import functional_call, grad_and_value, vmap

    task = engine.task

    def loss_of(flat: torch.Tensor, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(task.module, task.spec.unflatten(flat), (inputs[None],))
        return task.loss(outputs, target[None]).sum()

    was_training = task.module.training
    task.module.eval()
    try:
        found = vmap(grad_and_value(loss_of), in_dims=(None, 0, 0))(point, task.inputs[indices], task.targets[indices])
    finally:
        task.module.train(was_training)
    return torch.as_tensor(found[0]), torch.as_tensor(found[1])
