"""DPZero and DP-AggZO as local work: per-example slopes along public directions, clipped and noised on the client."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from fedopt.clients.base import ClientWork, too_large_denominator, without_examples
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates, Engine, ExampleClipping
from fedopt.types import Message, ParamSpec

if TYPE_CHECKING:
    import numpy as np
    import torch


ONE_STEP = "dp_spsa makes one step of scalars; use aggregator: {kind: decomfl, local_steps: 1}"


class DpSpsa(ClientWork):
    """DPZero (P = 1) and DP-AggZO (P > 1): one Poisson batch, clipped per-example slopes, noise on P scalars.

    With the aggregator's P public directions and ``D_p(x) = (L(y + r z_p; x) - L(y - r z_p; x)) / 2r``::

        a = sum_x clip_C((D_1(x), ..., D_P(x)) / P) + N(0, (noise_multiplier C)^2 I_P);    reply P a / b

    b is the expected batch, a constant. What is clipped and how much noise is added comes from the privacy section's
    mechanism dp_sgd (unit: example); the noise has its own stream and never the directions'. Use it with decomfl.

    Guarantees: one Poisson-sampled Gaussian per task in the client's ledger, whatever P; an empty batch replies with
    noise. The released scalars may be logged and replayed at no further cost. 2 P queries per task.

    References: Zhang et al. 2024, DPZero, arXiv:2310.09639; Tang et al. 2024, arXiv:2401.04343; Bao et al. 2025,
    DP-AggZO, USENIX Security.

    Differences from the papers: clients add the noise of their own batch; the server sees noisy scalars only.
    """

    batch_size: int = Field(10, ge=1, description="expected examples b per step, and the denominator")
    sampling_probability: float | None = Field(
        None, gt=0, le=1, description="probability of every example; null is batch_size over n_i"
    )
    steps: Literal[1] = Field(1, description="local steps; the aggregator's local_steps must be 1 too")
    radius: float = Field(1e-3, gt=0, description="smoothing radius in units of the parameters")

    sends = ("scalars",)

    _clipping: ExampleClipping | None = PrivateAttr(None)

    def problems(self, aggregator: Any, dimension: int | None) -> tuple[tuple[str, str], ...]:
        """More than one local step."""
        return () if getattr(aggregator, "local_steps", 1) == 1 else (("kind", ONE_STEP),)

    def unable(self, engine: Engine) -> tuple[str, ...]:
        """Examples."""
        return without_examples(self, engine)

    def warnings(self, sizes: np.ndarray) -> tuple[str, ...]:
        """A denominator beyond every expected batch."""
        return too_large_denominator(self.batch_size, self.sampling_probability, sizes)

    def protected(self, clipping: ExampleClipping) -> DpSpsa:
        """The same work, with this clipping and noise."""
        if clipping.style != "flat" or clipping.per_layer is not None:
            raise ValueError("client dp_spsa clips scalars; use mechanism: {kind: dp_sgd, clipping: flat}")
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
        """One."""
        return 1

    def planned_steps(self, num_examples: int, message: Message) -> int:
        """One."""
        return 1

    def batch_size_of(self, num_examples: int) -> int:
        """The expected batch."""
        if self.sampling_probability is not None:
            return max(1, round(self.sampling_probability * num_examples))
        return min(self.batch_size, num_examples)

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """One float32 per direction."""
        return 4 * int(message.config.get("perturbations", 1))

    def planned_queries(self, message: Message, steps: int, task: int) -> int:
        """2 P."""
        return 2 * int(message.config.get("perturbations", 1))

    def normalizer(self, steps: int) -> float:
        """|a_i|_1 = steps."""
        return float(steps)

    def initial_state(self, spec: ParamSpec) -> dict[str, int | None]:
        """Stateless."""
        return {}

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Measure and protect; part: ``scalars`` ``[rows, P]``.

        Raises:
            ValueError: no mechanism dp_sgd, or an aggregator that does not ask for one step of scalars.
        """
        import torch

        clipping = self._clipping
        if clipping is None:
            raise ValueError(
                "client dp_spsa has no clipping: add privacy: {unit: example, mechanism: {kind: dp_sgd, ...}}, or use "
                "client: {kind: spsa}"
            )
        if any(message.config.get("scalar_steps") != 1 for message in cohort.messages):
            raise ValueError(f"client {ONE_STEP}")
        constant = float(self.batch_size) if self.sampling_probability is not None else None
        plan = engine.plan_batches(cohort, self.batch_size, "poisson", self.sampling_probability, constant)
        replies = []
        for row in range(len(cohort)):
            batch = torch.from_numpy(plan.indices[row, 0, : plan.counts[row, 0]]).to(engine.device)
            slopes = self._slopes(cohort, engine, row, batch)
            draws = clipping.draws(engine.device, cohort.seed, cohort.clients[row], cohort.tasks[row])
            total = clipped_total(slopes, clipping.clipping_norm)
            noisy = total + clipping.noise_std * draws.normal((slopes.shape[1],), torch.float64)
            replies.append(noisy * slopes.shape[1] / max(1.0, float(plan.denominators[row, 0])))
        tasks = zip(cohort.messages, cohort.steps, cohort.tasks, strict=True)
        queries = tuple(self.planned_queries(*task) for task in tasks)
        return CohortReply({"scalars": DenseUpdates(torch.stack(replies).float())}, queries=queries)

    def _slopes(self, cohort: Cohort, engine: Engine, row: int, batch: torch.Tensor) -> torch.Tensor:
        """Per-example central slopes ``[batch, P]`` along the public directions of the row's version."""
        import torch

        from fedopt.zeroth_order.directions import Directions
        from fedopt.zeroth_order.spsa import direction_key

        config, theta = cohort.messages[row].config, cohort.messages[row].parts["params"].to(engine.device)
        stream = Directions(
            config["directions"], theta.numel(), direction_key(cohort.shared_seed, int(config["version"]))
        )
        if not len(batch):
            return torch.zeros(0, int(config["perturbations"]), dtype=torch.float64, device=engine.device)
        columns = []
        for index in range(int(config["perturbations"])):
            losses = engine.loss_values.per_example(stream.pair(theta, self.radius, index), batch).double()
            columns.append((losses[0] - losses[1]) / (2 * self.radius))
        return torch.stack(columns, dim=1)


def clipped_total(slopes: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    """``sum_x clip_C(slopes(x) / P)`` ``[P]`` float64 of per-example slopes ``[batch, P]``."""
    from fedopt.zeroth_order.private import clipped_sum

    return clipped_sum(slopes, clipping_norm).total
