"""Local differential privacy with Laplace noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fedopt.privacy.base import ClientContext, ClientResult, Noise, Release
from fedopt.privacy.mechanisms._multiplier import PerRelease
from fedopt.privacy.mechanisms._parts import CLIENT, ROUNDING
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch
    from fedopt.privacy.releases import Event


class State(NamedTuple):
    """The mechanism keeps nothing."""


class LocalLaplace(PerRelease):
    """Every client clips its reply in L1 norm and adds Laplace noise before anything leaves it.

    Rows are scaled to ``|row|_1 <= C`` (all parts together) and every coordinate gets Laplace noise of scale
    ``noise_multiplier * 2 C``. The noise level is the scale over the sensitivity 2C.

    Guarantees: every reply is purely (1 / noise_multiplier)-DP between any two inputs.

    References: Dwork, McSherry, Nissim, Smith 2006, Calibrating Noise to Sensitivity in Private Data Analysis.
    """

    trusts = ("local",)
    paid_on_arrival = True

    def init(self, dimension: int, public: Public) -> State:
        """Nothing to keep."""
        return State()

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip in L1 and add noise."""
        import torch

        from fedopt.engine.base import DenseUpdates

        rows = {name: batch.rows() for name, batch in parts.items()}
        norms = torch.stack([values.double().abs().sum(1) for values in rows.values()]).sum(0)
        clipped = norms > self.clipping_norm
        factors = torch.where(clipped, self.clipping_norm * (1 - ROUNDING) / norms.clamp_min(1e-300), 1.0)
        scale = 2 * self.multiplier * self.clipping_norm if self.multiplier > 0 else 0.0
        noisy: dict[str, UpdateBatch] = {}
        for index, (name, values) in enumerate(rows.items()):
            bounded = values * factors[:, None].to(values) if bool(clipped.any()) else values
            draws = [
                _laplace(context.noise, values, scale, CLIENT, context.step, index, *who)
                for who in zip(context.clients, context.tasks, strict=True)
            ]
            noisy[name] = DenseUpdates(bounded + torch.stack(draws))
        return ClientResult(noisy, {"norm": norms, "clipped": clipped.double()})

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Nothing to add: the replies are private already. ``noise_std`` is that of one reply."""
        std = 2**0.5 * 2 * self.multiplier * self.clipping_norm if self.multiplier > 0 else 0.0
        facts = {"clipping_norm": self.clipping_norm, "noise_multiplier": self.multiplier, "noise_std": std}
        return Release({name: value for name, (value, _) in reduced.items()}, (self.event(public),), state, facts)

    def event(self, public: Public) -> Event:
        """One Laplace release of scale 2 z C; without noise it is not private."""
        from fedopt.privacy.releases import LaplaceEvent, NonPrivateEvent

        if self.multiplier == 0:
            return NonPrivateEvent("no noise was added")
        return LaplaceEvent(2 * self.multiplier, max(2, public.dimension or 2))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Dwork, McSherry, Nissim, Smith 2006, Calibrating Noise to Sensitivity in Private Data Analysis",)


def _laplace(noise: Noise, rows: Any, scale: float, *ids: int) -> torch.Tensor:
    """Laplace noise ``[d]``: the difference of two exponentials."""
    import torch

    if scale == 0.0:
        return torch.zeros_like(rows[0])
    draw = noise.draws(rows.device, *ids).exponential((2, rows.shape[1]))
    return ((draw[0] - draw[1]) * scale).to(rows.dtype)
