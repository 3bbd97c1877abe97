"""DP-SGD as local work."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from pydantic import Field, PrivateAttr, model_validator

from fedopt.clients._local_training import normalizer
from fedopt.clients.base import ClientWork, too_large_denominator, without_examples
from fedopt.engine.base import Cohort, CohortReply, Engine, ExampleClipping, LocalRule
from fedopt.types import Message, ParamSpec

if TYPE_CHECKING:
    import numpy as np

    from fedopt.engine.base import BatchPlan


class DpSgd(ClientWork):
    """Local DP-SGD: Poisson batches, per-example clipping, noise, expected-batch denominator.

    Every local step draws each example with probability q, sums the clipped gradients, adds noise and divides by the
    expected batch, also when nobody was drawn. q is ``sampling_probability``, or ``min(1, batch_size / n_i)``. What is
    clipped and how much noise is added comes from the privacy section's mechanism dp_sgd; without it this work is
    refused. Momentum and weight decay act after the noise.

    Guarantees: one event per local step for each of the client's examples. With ``sampling_probability`` and ``steps``
    set nothing depends on the client's number of examples. A client without examples replies with noise only where its
    rate is fixed, and with zeros otherwise.

    References: Abadi et al. 2016, Deep Learning with Differential Privacy, Algorithm 1, arXiv:1607.00133.
    """

    lr: float = Field(0.05, gt=0, description="client learning rate, > 0")
    batch_size: int = Field(10, ge=1, description="expected examples per local step, and the denominator")
    sampling_probability: float | None = Field(
        None, gt=0, le=1, description="probability of every example per step; null is batch_size over n_i"
    )
    epochs: int | None = Field(None, ge=1, description="expected passes over the local data; 1 unless steps is given")
    steps: int | None = Field(None, ge=1, description="local steps, instead of epochs")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of the local steps, in [0, 1)")
    weight_decay: float = Field(0.0, ge=0, description="L2 coefficient added to the noisy gradient, >= 0")

    _clipping: ExampleClipping | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        return self

    def warnings(self, sizes: np.ndarray) -> tuple[str, ...]:
        """A denominator beyond every expected batch."""
        return too_large_denominator(self.batch_size, self.sampling_probability, sizes)

    def protected(self, clipping: ExampleClipping) -> DpSgd:
        """The same work, with this clipping and noise."""
        made = self.model_copy()
        made._clipping = replace(clipping)
        return made

    def sampling_rate(self, num_examples: int | None) -> float:
        """Probability q of one example in one step.

        Raises:
            ValueError: it depends on a number of examples that is not known.
        """
        if self.sampling_probability is not None:
            return self.sampling_probability
        if num_examples is None:
            raise ValueError("the sampling rate needs n_i; set client.sampling_probability or publish num_examples")
        return min(1.0, self.batch_size / max(1, num_examples))

    def local_steps(self, num_examples: int | None) -> int:
        """Local steps of one task.

        Raises:
            ValueError: epochs of an unknown number of examples.
        """
        if self.steps is not None:
            return self.steps
        if num_examples is None:
            raise ValueError("epochs need n_i to become steps; set client.steps or publish num_examples")
        return (self.epochs or 1) * math.ceil(num_examples / self.batch_size)

    def planned_steps(self, num_examples: int, message: Message) -> int:
        """Steps, or epochs times ``ceil(n_i / batch_size)``.

        Raises:
            ValueError: the aggregator asks for another number, which the noise was not calibrated for.
        """
        planned = self.local_steps(num_examples)
        asked = int(message.config.get("local_steps", planned))
        if asked != planned:
            raise ValueError(
                f"the aggregator asks for {asked} local steps, but every step of dp_sgd is paid for and {planned} were "
                "planned; use an aggregator that leaves them to the client, such as fedavg or fedbuff"
            )
        return planned

    def batch_size_of(self, num_examples: int) -> int:
        """The expected batch."""
        if self.sampling_probability is not None:
            return max(1, round(self.sampling_probability * num_examples))
        return min(self.batch_size, num_examples)

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """One float32 per parameter."""
        return 4 * spec.size

    def normalizer(self, steps: int) -> float:
        """|a_i|_1 with this momentum."""
        return normalizer(steps, self.momentum)

    def initial_state(self, spec: ParamSpec) -> dict[str, int]:
        """Stateless."""
        return {}

    def unable(self, engine: Engine) -> tuple[str, ...]:
        """Examples."""
        return without_examples(self, engine)

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Train every client of the cohort; parts: ``update``.

        Raises:
            ValueError: there is no mechanism dp_sgd, so nothing would be clipped.
        """
        import torch

        if self._clipping is None:
            raise ValueError(
                "client dp_sgd has no clipping: add privacy: {unit: example, mechanism: {kind: dp_sgd, ...}}, or use "
                "client: {kind: sgd}"
            )
        plan = self._plan(cohort, engine)
        rule = LocalRule(
            rates=torch.full(plan.counts.shape, self.lr),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            example_clipping=self._clipping,
        )
        result = engine.train(cohort, rule, plan)
        losses = torch.nan_to_num(result.losses, nan=0.0)
        return CohortReply({"update": result.updates}, metrics={"train_loss": losses})

    def _plan(self, cohort: Cohort, engine: Engine) -> BatchPlan:
        """Poisson batches; the denominator never depends on what was drawn."""
        constant = float(self.batch_size) if self.sampling_probability is not None else None
        return engine.plan_batches(cohort, self.batch_size, "poisson", self.sampling_probability, constant)
