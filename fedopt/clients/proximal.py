"""FedProx's local work."""

from __future__ import annotations

from pydantic import Field

from fedopt.clients._local_training import LocalTraining, normalizer
from fedopt.engine.base import Cohort, CohortReply, Engine, LocalRule
from fedopt.types import Message, ParamSpec


class Proximal(LocalTraining):
    """FedProx: local SGD held near the received model by a proximal term.

    The client minimises ``f_i(y) + mu/2 |y - x|^2``: ``y <- y - rate * (g_i(y) + mu * (y - x))``. Stragglers reply
    with what they have after fewer steps.

    Guarantees: mu = 0 is ``sgd``; with one local step any mu is ``sgd``, because the term is zero at x.

    References: Li et al. 2020, Federated Optimization in Heterogeneous Networks, arXiv:1812.06127, Algorithm 2.

    Differences from the paper: the inexactness is set by epochs or steps, not by a tolerance gamma.
    """

    mu: float = Field(0.01, ge=0, description="coefficient of the proximal term, >= 0")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of the local steps, in [0, 1)")
    gradient_clip: float | None = Field(
        None,
        gt=0,
        description="bound on the norm of a step's mini-batch gradient together with weight decay, proximal term and "
        "correction, before momentum; or null",
    )

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """One float32 per parameter."""
        return 4 * spec.size

    def normalizer(self, steps: int) -> float:
        """|a_i|_1 with this momentum and proximal term, at the undecayed learning rate."""
        return normalizer(steps, self.momentum, shrink=self.lr * self.mu)

    def initial_state(self, spec: ParamSpec) -> dict[str, int]:
        """Stateless."""
        return {}

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Train every client of the cohort; parts: ``update``."""
        plan = self.plan(cohort, engine)
        rule = LocalRule(
            rates=self.rates(cohort, plan),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            proximal=self.mu,
            gradient_clip=self.gradient_clip,
        )
        result = engine.train(cohort, rule, plan)
        return CohortReply({"update": result.updates}, metrics={"train_loss": result.losses})
