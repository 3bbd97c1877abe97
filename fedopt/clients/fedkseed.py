"""FedKSeed's local work: zeroth-order steps along a fixed set of candidate directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fedopt.clients._black_box import BlackBoxWork, groups, measuring_type
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates, Engine
from fedopt.types import Message, ParamSpec

if TYPE_CHECKING:
    import torch

    from fedopt.zeroth_order.fedkseed import LocalWork


class FedKSeed(BlackBoxWork):
    """tau local steps, each along one of K public directions; replies with the sums of the scalars per direction.

    ``y <- y - step_size * rho * z_j`` with j uniform, or with the probabilities of FedKSeed-Pro; rho central SPSA on
    one batch. A step with a loss that is not finite, or whose two losses differ by more than ``loss_clip``, is skipped,
    as in the authors' program; a reply none of whose losses was finite fails (ours).

    Guarantees: 2 tau queries. The reply is linear in the local change, so averaging replies is averaging models.

    References: Qin et al. 2024, Federated Full-Parameter Tuning of Billion-Sized Language Models, arXiv:2312.06353.
    """

    batch_size: int | Literal["full"] = Field(1, description="examples per local step, >= 1, or full")
    steps: int = Field(200, ge=1, description="local steps tau")
    radius: float = Field(5e-4, gt=0, description="smoothing radius in units of the parameters")
    loss_clip: float = Field(0.0, ge=0, description="skip a step whose two losses differ by more; 0: never")

    sends = ("accumulated", "sizes", "counts")

    def planned_steps(self, num_examples: int, message: Message) -> int:
        """tau."""
        return int(message.config.get("local_steps", self.steps))

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """K floats, or 8 bytes per step (index and scalar) if that is less; Pro needs the pairs."""
        pairs = 8 * steps
        return pairs if message.config.get("pro") else min(4 * int(message.config.get("candidates", 1)), pairs)

    def planned_queries(self, message: Message, steps: int, task: int) -> int:
        """2 tau."""
        return 2 * steps

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Train; part ``accumulated`` ``[rows, K]``, and for Pro ``sizes`` and ``counts`` ``[rows, K]``.

        Raises:
            ValueError: the aggregator names no candidates.
        """
        import torch

        if any("candidates" not in message.config for message in cohort.messages):
            raise ValueError("client fedkseed needs candidate directions; use aggregator: {kind: fedkseed}")
        config = cohort.messages[0].config
        shape = (len(cohort), int(config["candidates"]))
        parts = {n: torch.zeros(shape, device=engine.device) for n in ("accumulated", "sizes", "counts")}
        for rows in groups([(int(m.config["version"]), s) for m, s in zip(cohort.messages, cohort.steps, strict=True)]):
            if cohort.steps[rows[0]] == 0:
                continue
            done = self._train(cohort, engine, rows, config)
            seeds, scalars = done.seeds.to(engine.device), done.scalars
            for name, values in (("accumulated", scalars), ("sizes", scalars.abs().clamp(max=1000.0))):
                parts[name][rows] = parts[name][rows].scatter_add(1, seeds, values)
            parts["counts"][rows] = parts["counts"][rows].scatter_add(1, seeds, done.kept.to(scalars))
        sent = parts if config.get("pro") else {"accumulated": parts["accumulated"]}
        queries = tuple(2 * steps for steps in cohort.steps)
        return CohortReply({name: DenseUpdates(part) for name, part in sent.items()}, queries=queries)

    def _train(self, cohort: Cohort, engine: Engine, rows: list[int], config: Any) -> LocalWork:
        """Local steps of rows with one model."""
        import torch

        from fedopt.zeroth_order import fedkseed

        message, steps = cohort.messages[rows[0]], cohort.steps[rows[0]]
        theta = message.parts["params"].to(engine.device, measuring_type(engine))
        chances: torch.Tensor | None = message.parts.get("probabilities")
        candidates = fedkseed.candidate_directions(config["directions"], theta.numel(), cohort.shared_seed)
        count = int(config["candidates"])
        chosen = [
            fedkseed.choose_seeds(cohort.shared_seed, [cohort.clients[r]], cohort.tasks[r], steps, count, chances)
            for r in rows
        ]
        at = self.values_at(cohort, engine, rows)
        return fedkseed.local_training(
            theta, candidates, torch.cat(chosen), self.radius, float(config["step_size"]), at, self.loss_clip
        )
