"""What mechanisms share: joint clipping of a reply's parts, noise by names, refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedopt.privacy.base import ClientContext, Noise
from fedopt.privacy.releases import Event, GaussianEvent, NonPrivateEvent
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch

SERVER, CLIENT = 0, 1  # first id of a draw: who makes it
# Norms are summed in float32, whose relative error stays below this for a hundred million parameters.
ROUNDING = 1e-6


def joint_norms(parts: Mapping[str, UpdateBatch]) -> torch.Tensor:
    """Euclidean norm of every row over all parts together ``[rows]`` float64."""
    import torch

    return torch.stack([batch.norms().double() for batch in parts.values()]).square().sum(0).sqrt()


def clip(
    parts: Mapping[str, UpdateBatch], clipping_norm: float
) -> tuple[dict[str, UpdateBatch], dict[str, torch.Tensor]]:
    """Scale every row to joint norm at most ``clipping_norm``: ``row * min(1, C / norm)``. Rows are never built.

    Returns:
        The parts, and metrics ``norm`` (before clipping) and ``clipped`` (1 where the norm was above C).

    Guarantees: the direction is kept; a row within the bound keeps its bits; a zero row stays zero.
    """
    norms = joint_norms(parts)
    clipped = norms > clipping_norm
    metrics = {"norm": norms, "clipped": clipped.double()}
    # On a device the host does not wait to see whether anything is clipped: a factor of 1 keeps every bit as well.
    if norms.device.type == "cpu" and not bool(clipped.any()):
        return dict(parts), metrics
    factors = (clipping_norm * (1 - ROUNDING) / norms.clamp_min(1e-300)).where(clipped, norms.new_ones(()))
    return {name: batch.scaled(factors) for name, batch in parts.items()}, metrics


def norm_bound(clipping_norm: float, public: Public) -> Bound:
    """Bounds of a vector of L2 norm at most ``clipping_norm`` (L1 by Cauchy-Schwarz where the dimension is known)."""
    l1 = clipping_norm * math.sqrt(public.dimension) if public.dimension else math.inf
    return Bound(clipping_norm, l1, clipping_norm)


def part_dimension(batch: UpdateBatch) -> int:
    """Coordinates of one row, without building rows."""
    import torch

    return int(batch.weighted_sum(torch.zeros(len(batch), dtype=torch.float64)).numel())


def withheld(reduced: Mapping[str, tuple[torch.Tensor, Bound | None]], like: int) -> dict[str, torch.Tensor]:
    """Zeros in place of every part: secure aggregation or the shuffler aborted, nothing was released."""
    return {name: value.new_zeros(like, dtype=_float32()) for name, (value, _) in reduced.items()}


def _float32() -> torch.dtype:
    import torch

    return torch.float32


def normal(noise: Noise, like: torch.Tensor, std: float, *ids: int) -> torch.Tensor:
    """``N(0, std^2)`` shaped like ``like``, from the generator of these ids; exact zeros for std 0 without a draw."""
    import torch

    if std == 0.0:
        return torch.zeros_like(like)
    return noise.draws(like.device, *ids).normal(like.shape).mul_(std)


def require_bound(name: str, bound: Bound | None) -> Bound:
    """The bound of a value that is to be released.

    Raises:
        ValueError: there is none.
    """
    if bound is None:
        raise ValueError(
            f"the aggregator declares no sensitivity bound for {name!r}, so its result cannot be released under "
            "privacy; use fedavg, fedavgm or fedbuff, or remove the privacy section"
        )
    return bound


def noise_std(noise_multiplier: float, bound: Bound) -> float:
    """``noise_multiplier * bound.l2``.

    Raises:
        ValueError: noise for an unbounded value.
    """
    if noise_multiplier == 0.0:
        return 0.0
    if not math.isfinite(bound.l2):
        raise ValueError("noise cannot be calibrated to an infinite bound; set a finite clipping_norm")
    return noise_multiplier * bound.l2


def stds_of(reduced: Mapping[str, tuple[torch.Tensor, Bound | None]], noise_multiplier: float) -> dict[str, float]:
    """Noise std of every part: ``noise_multiplier`` times the L2 bound it reports about itself."""
    return {name: noise_std(noise_multiplier, require_bound(name, bound)) for name, (_, bound) in reduced.items()}


def require_same_stds(now: Mapping[str, float], before: Mapping[str, float], mechanism: str) -> None:
    """Refuse parts that come, go or change their sensitivity where several releases share one noise.

    Raises:
        ValueError: they do.
    """
    if now.keys() != before.keys() or any(abs(now[name] - before[name]) > 1e-9 * now[name] for name in now):
        raise ValueError(
            f"{mechanism} needs the same sensitivity in every release; use an aggregator with fixed weights"
        )


def add_central_noise(
    reduced: Mapping[str, tuple[torch.Tensor, Bound | None]], noise_multiplier: float, step: int, noise: Noise
) -> tuple[dict[str, torch.Tensor], float]:
    """Every part plus Gaussian noise of std ``noise_multiplier`` times the L2 bound it reports about itself.

    Parts that were clipped together are one vector of norm C after dividing each by its own factor, so together they
    are one release of this multiplier.

    Returns:
        Released parts, and the std of the first one.
    """
    released, first = {}, 0.0
    for index, (name, (value, bound)) in enumerate(reduced.items()):
        std = noise_std(noise_multiplier, require_bound(name, bound))
        first = std if index == 0 else first
        released[name] = value + normal(noise, value, std, SERVER, step, index) if std else value
    return released, first


def gaussian_event(noise_multiplier: float) -> Event:
    """The event of one Gaussian release; without noise it is not private."""
    return GaussianEvent(noise_multiplier) if noise_multiplier > 0 else NonPrivateEvent("no noise was added")


def chosen(noise_multiplier: float | None) -> float:
    """The noise multiplier of a mechanism that runs.

    Raises:
        ValueError: it was left open and never calibrated.
    """
    if noise_multiplier is None:
        raise ValueError("noise_multiplier is not set; give it, or privacy.target_epsilon to calibrate it")
    return noise_multiplier


def one_update(scenario: Any, mechanism: str) -> tuple[str, ...]:
    """The refusal of replies that are not one vector of the model's size, for mechanisms that encode such a vector."""
    parts = scenario.aggregator.reply_parts()
    if parts == ("update",):
        return ()
    return (
        f"{mechanism} encodes one vector of the model's size per reply, but aggregator {scenario.aggregator.kind()} "
        f"takes {' and '.join(parts)}; use mechanism: {{kind: distributed_gaussian}} or {{kind: gaussian}}, or an "
        "aggregator of whole updates such as fedavg",
    )


def replies_may_be_lost(scenario: Any) -> bool:
    """Whether a release may be made of fewer replies than the sampler asks for."""
    devices = scenario.devices
    lossy = devices.dropout > 0 or devices.interrupt or devices.availability.kind() != "always"
    return bool(lossy or scenario.sampling.deadline_s is not None)


def fewest_is_known(scenario: Any, minimum_clients: int | None) -> tuple[str, ...]:
    """The refusal of a shuffle that waits for a whole cohort of which some may be lost."""
    from fedopt.privacy.public_facts import public_of

    public = public_of(scenario)
    streams = public is not None and scenario.aggregator.plan(None, public).pacing == "stream"
    if minimum_clients is not None or not (streams or replies_may_be_lost(scenario)):
        return ()
    return (
        "minimum_clients is the whole cohort unless it is given, but replies can be lost or come one by one here; set "
        "it to the number of honest messages that always arrive (fewer are not opened, and noise is for that many)",
    )


def one_direction(scenario: Any, mechanism: str) -> tuple[str, ...]:
    """The refusal of scalars along new directions in every step, for mechanisms whose noise steps share."""
    if "scalars" not in scenario.aggregator.reply_parts():
        return ()
    return (
        f"{mechanism} spreads one noise over the sum of several steps, but the scalars of aggregator "
        f"{scenario.aggregator.kind()} belong to new directions in every step, so nothing adds up; use mechanism: "
        "{kind: gaussian}",
    )


def require_unit_weights(context: ClientContext, mechanism: str) -> None:
    """Refuse weighted replies where noise is split over clients or messages are anonymous.

    Raises:
        ValueError: some weight is not 1.
    """
    if any(weight != 1.0 for weight in context.weights):
        raise ValueError(
            f"{mechanism} needs every reply to count alike, but the aggregator weights replies (for example "
            f"{next(w for w in context.weights if w != 1.0):g}); use uniform weights and staleness: constant"
        )
