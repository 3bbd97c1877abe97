"""Shared-seed SPSA: scalars along public directions, for the aggregators decomfl, feedsign and one_byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fedopt.clients._black_box import BlackBoxWork, groups, measuring_type, refuse, without_slopes
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates, Engine
from fedopt.types import Message, ParamSpec

if TYPE_CHECKING:
    import torch

_BITS = {"float32": 32, "byte": 8, "stochastic_byte": 8, "sign": 1}


OWN_FORWARD = "aggregator one_byte draws a batch per scalar, so scheme forward saves nothing: use central"


class Spsa(BlackBoxWork):
    """Projected gradients along directions that follow from public keys; the reply is scalars, never a vector.

    ``central``: ``rho = (L(x + r z) - L(x - r z)) / 2r``, 2 queries per scalar; ``forward``: ``(L(x + r z) - L(x)) /
    r``, P + 1 per local step; ``jvp``: the exact directional derivative (forward gradient), one pass per scalar. All
    values of a scalar share one batch. The aggregator says which directions, how many, and how a scalar is coded:
    common directions and K local steps along the client's own scalars (decomfl), a sign (feedsign), or directions of
    the client's own and a byte each (one_byte).

    Guarantees: models are perturbed on copies, so nothing drifts. What is sent (after rounding to a byte or sign) is
    what everybody applies. A client without examples replies zeros; a step that was not done counts as zero.

    References: Malladi et al. 2023, MeZO, arXiv:2305.17333; Zelikman et al. 2023, arXiv:2306.10015; Li et al. 2024,
    arXiv:2405.15861; Baydin et al. 2022, arXiv:2202.08587 (jvp).
    """

    batch_size: int | Literal["full"] = Field(
        16, description="examples behind one scalar, >= 1, or full; black-box tasks have none"
    )
    radius: float = Field(1e-3, gt=0, description="smoothing radius in units of the parameters")
    scheme: Literal["central", "forward", "jvp"] = Field("central", description="how a slope is measured")

    sends = ("scalars",)

    def planned_steps(self, num_examples: int, message: Message) -> int:
        """Local steps K (decomfl), or scalars of one task (one_byte)."""
        return int(message.config.get("local_steps", message.config.get("scalar_steps", 1)))

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """K P scalars in their code, whole bytes per message."""
        count = min(steps, int(message.config.get("scalar_steps", 1))) * int(message.config.get("perturbations", 1))
        return -(-count * _BITS[message.config.get("code", "float32")] // 8)

    def problems(self, aggregator: Any, dimension: int | None) -> tuple[tuple[str, str], ...]:
        """Forward differences along directions of one's own."""
        alone = aggregator.kind() == "one_byte" and self.scheme == "forward"
        return (("scheme", OWN_FORWARD),) if alone else ()

    def unable(self, engine: Engine) -> tuple[str, ...]:
        """Derivatives, for jvp."""
        return without_slopes(self.scheme, engine)

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Measure; part: ``scalars`` ``[rows, K P]``.

        Raises:
            ValueError: the aggregator asks for no scalars.
        """
        import torch

        if any("scalar_steps" not in message.config for message in cohort.messages):
            raise ValueError("client spsa sends scalars; use aggregator decomfl, feedsign or one_byte")
        refuse(self.unable(engine))
        config = cohort.messages[0].config
        count = int(config["scalar_steps"]) * int(config["perturbations"])
        scalars = torch.zeros(len(cohort), count, device=engine.device)
        for rows in groups([(int(m.config["version"]),) for m in cohort.messages]):
            measure = self._own if config.get("own") else self._common
            scalars[rows] = measure(cohort, engine, rows, config).flatten(1)
        done = torch.tensor(cohort.steps, device=scalars.device)[:, None]
        step_of = torch.arange(count, device=scalars.device) // int(config["perturbations"])
        scalars = _coded(scalars.where(step_of < done, scalars.new_zeros(())), cohort, str(config["code"]))
        tasks = zip(cohort.messages, cohort.steps, cohort.tasks, strict=True)
        return CohortReply(
            {"scalars": DenseUpdates(scalars)}, queries=tuple(self.planned_queries(*task) for task in tasks)
        )

    def planned_queries(self, message: Message, steps: int, task: int) -> int:
        """2 P, P + 1 or P per local step, by ``scheme``."""
        steps = min(steps, int(message.config.get("scalar_steps", 1)))
        directions = int(message.config.get("perturbations", 1))
        return steps * {"central": 2 * directions, "forward": directions + 1, "jvp": directions}[self.scheme]

    def _common(self, cohort: Cohort, engine: Engine, rows: list[int], config: Any) -> torch.Tensor:
        """Scalars ``[rows, K, P]`` along the directions of the rows' common version."""
        from fedopt.zeroth_order.spsa import decomfl_local

        return decomfl_local(
            cohort.messages[rows[0]].parts["params"].to(engine.device, measuring_type(engine)),
            config["directions"],
            int(cohort.messages[rows[0]].config["version"]),
            cohort.shared_seed,
            len(rows),
            self.radius,
            float(config["step_size"]),
            self.values_at(cohort, engine, rows),
            int(config["scalar_steps"]),
            int(config["perturbations"]),
            self.scheme,
        )

    def _own(self, cohort: Cohort, engine: Engine, rows: list[int], config: Any) -> torch.Tensor:
        """Scalars ``[rows, G]`` along every worker's own directions, one batch per scalar.

        Raises:
            ValueError: forward differences, which would need a further value per scalar.
        """
        import torch

        from fedopt.zeroth_order.directions import Directions
        from fedopt.zeroth_order.spsa import direction_key, directions_at_once, own_scalars

        if self.scheme == "forward":
            raise ValueError(OWN_FORWARD)
        theta = cohort.messages[rows[0]].parts["params"].to(engine.device, measuring_type(engine))[None]
        names = [(cohort.tasks[r], cohort.clients[r]) for r in rows]
        streams = [
            Directions(config["directions"], engine.spec.size, direction_key(cohort.shared_seed, *n)) for n in names
        ]
        values_of, columns = self.values_of_steps(cohort, engine, rows), []
        for part in torch.arange(int(config["scalar_steps"])).split(directions_at_once(theta.numel(), len(rows))):
            numbers = part.tolist()
            repeated = [stream for stream in streams for _ in numbers]
            measured = own_scalars(theta, repeated, self.radius, values_of(numbers), numbers * len(rows), self.scheme)
            columns.append(measured.view(len(rows), len(numbers)))
        return torch.cat(columns, dim=1)


def _coded(scalars: torch.Tensor, cohort: Cohort, code: str) -> torch.Tensor:
    """What the others will read of the scalars; rows that are not finite stay so and are dropped as failed."""
    import torch

    from fedopt.zeroth_order import one_byte

    if code == "float32":
        return scalars
    finite = torch.isfinite(scalars)
    if code == "sign":
        return scalars.sign().where(finite, scalars)  # the sign of NaN is 0
    if code == "byte":
        return one_byte.decode(one_byte.encode(scalars.where(finite, scalars.new_zeros(())))).where(finite, scalars)
    made = scalars.clone()
    for row, (client, task) in enumerate(zip(cohort.clients, cohort.tasks, strict=True)):
        if bool(finite[row].all()):
            key = one_byte.rounding_key(cohort.seed, client, task)
            made[row] = one_byte.decode(one_byte.encode(scalars[row], key))
    return made
