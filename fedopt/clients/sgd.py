"""Local stochastic gradient descent."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from fedopt.clients._local_training import LocalTraining, normalizer
from fedopt.engine.base import Cohort, CohortReply, Engine, LocalRule
from fedopt.types import Message, ParamSpec


class Sgd(LocalTraining):
    """Local SGD: epochs or steps, momentum, weight decay, learning-rate schedule.

    From the received model, for every local step ``y <- y - rate * direction(gradient of a mini-batch)``; replies
    with end minus start. Momentum buffers start anew in every task. On black-box tasks with gradients the steps use
    the exact gradient of the client's function.

    Guarantees: a client without examples replies with a zero update.

    References: McMahan et al. 2017, arXiv:1602.05629, Algorithm 1 (ClientUpdate).
    """

    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of the local steps, in [0, 1)")
    nesterov: bool = Field(False, description="Nesterov's look-ahead form of momentum")
    gradient_clip: float | None = Field(
        None,
        gt=0,
        description="bound on the norm of a step's mini-batch gradient together with weight decay, proximal term and "
        "correction, before momentum; or null",
    )

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs momentum > 0")
        return self

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """One float32 per parameter."""
        return 4 * spec.size

    def normalizer(self, steps: int) -> float:
        """|a_i|_1 with this momentum."""
        return normalizer(steps, self.momentum, self.nesterov)

    def initial_state(self, spec: ParamSpec) -> dict[str, int]:
        """Stateless."""
        return {}

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Train every client of the cohort; parts: ``update``."""
        plan = self.plan(cohort, engine)
        rule = LocalRule(
            rates=self.rates(cohort, plan),
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
        )
        result = engine.train(cohort, rule, plan)
        return CohortReply({"update": result.updates}, metrics={"train_loss": result.losses})
