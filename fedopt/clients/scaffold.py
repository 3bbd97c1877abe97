"""SCAFFOLD's local work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedopt.clients._local_training import LocalTraining
from fedopt.engine.base import BatchPlan, Cohort, CohortReply, DenseUpdates, Engine, LocalRule
from fedopt.types import Message, ParamSpec

if TYPE_CHECKING:
    import torch


class Scaffold(LocalTraining):
    """SCAFFOLD: local SGD corrected by control variates against client drift.

    With the server's control c and the client's own c_i (state ``control``, zero at first):
    ``y <- y - rate * (g_i(y) - c_i + c)`` for K steps, then option II ``c_i+ = c_i - c + (x - y) / (K * rate)`` or
    option I ``c_i+ = g_i(x)`` on all local examples, a pass that takes no virtual time. Replies with ``update`` = y - x
    and ``control`` = c_i+ - c_i.

    Guarantees: with c = c_i = 0 the update is that of ``sgd``; a client that did no step keeps its control. There is no
    momentum and no gradient clipping, because both break the formula of option II.

    References: Karimireddy et al. 2020, SCAFFOLD, arXiv:1910.06378, Algorithm 1.
    """

    option: Literal["I", "II"] = Field(
        "II", description="new control from one more pass over the local data (I), or from the update (II)"
    )

    sends = ("update", "control")
    receives = ("params", "control")

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """Two float32 per parameter: update and control."""
        return 8 * spec.size

    def normalizer(self, steps: int) -> float:
        """|a_i|_1 = steps."""
        return float(steps)

    def initial_state(self, spec: ParamSpec) -> dict[str, int]:
        """The client's control variate."""
        return {"control": spec.size}

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Train every client of the cohort; message parts: ``params``, ``control``; parts: ``update``, ``control``.

        Raises:
            ValueError: the messages carry no control; the aggregator is not scaffold.
        """
        import torch

        if any("control" not in message.parts for message in cohort.messages):
            raise ValueError(
                "client scaffold needs the server's control variate; use aggregator scaffold or buffered_scaffold"
            )
        plan = self.plan(cohort, engine)
        rates = self.rates(cohort, plan)
        server = cohort.stacked("control").to(engine.device)
        own = torch.zeros_like(server) if cohort.states is None else cohort.states["control"].to(engine.device)
        rule = LocalRule(rates=rates, weight_decay=self.weight_decay, correction=server - own)
        result = engine.train(cohort, rule, plan)
        if self.option == "I":
            changed = self._gradient_at_start(cohort, engine) - own
        else:
            moved = rates.sum(1).to(engine.device) if rates.shape[1] else torch.zeros(len(cohort), device=engine.device)
            moved = moved * (torch.tensor(plan.steps, device=engine.device) / max(1, rates.shape[1]))
            changed = -server - result.updates.rows() / moved.clamp_min(1e-30)[:, None]
        # Without a step, or at the end of a schedule with rate 0, nothing was learnt about the gradient.
        worked = torch.tensor((plan.steps > 0) & (rates.sum(1).cpu().numpy() > 0), device=engine.device)[:, None]
        changed = torch.where(worked, changed, torch.zeros_like(changed))
        return CohortReply(
            {"update": result.updates, "control": DenseUpdates(changed)},
            states={"control": own + changed},
            metrics={"train_loss": result.losses},
        )

    def _gradient_at_start(self, cohort: Cohort, engine: Engine) -> torch.Tensor:
        """g_i(x) on all local examples ``[rows, d]``: minus one full-batch step of rate 1."""
        import torch

        plan = engine.plan_batches(cohort, "full", "shuffled")
        single = BatchPlan(plan.indices[:, :1], plan.counts[:, :1], plan.steps.clip(max=1), plan.denominators[:, :1])
        rule = LocalRule(rates=torch.ones(single.counts.shape), weight_decay=self.weight_decay)
        return -engine.train(cohort, rule, single).updates.rows()
