"""DIFF2: example-level privacy through gradient differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, PrivateAttr

from fedopt.privacy.base import ClientContext, ClientResult, Counted, Mechanism, Noise, Release
from fedopt.privacy.mechanisms._noisy import NoisyUpdates
from fedopt.privacy.mechanisms._parts import (
    CLIENT,
    SERVER,
    chosen,
    gaussian_event,
    noise_std,
    normal,
    part_dimension,
    replies_may_be_lost,
    require_bound,
)
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import ExampleClipping, UpdateBatch
    from fedopt.privacy.releases import Event

GRADIENT, SLOPE = "gradient", "slope"


class State(NamedTuple):
    """Which round comes next."""

    since_restart: int = 0  # rounds since the last restart, as the aggregator counts them; 0: the coming one is one


class Diff2(Mechanism):
    """Noise of DIFF2: clipped gradients at restarts, clipped gradient differences in between.

    Clients send the mean of their per-example gradients, each clipped to C1 = ``clipping_norm`` (part ``gradient``), or
    of the per-example differences over the distance of the two points, each clipped to C2 =
    ``difference_clipping_norm`` (part ``slope``; the aggregator multiplies it by the public distance again). One
    example moves the mean over P clients by at most ``C / (P n_min)`` and noise of ``multiplier`` times that bound is
    added: by the server (``central``), in shares by the clients (``distributed``: ``multiplier * C / (n_min sqrt(P))``
    each), or by every client for itself (``local``: ``multiplier * C / n_i`` each).

    Guarantees: every round is one Gaussian of its multiplier, all clients, all records: no amplification, exact mu-GDP.
    As everywhere here a multiplier is noise over the clipping bound: the paper's, which is over the replace-one
    sensitivity, is half of it. Losses under distributed noise lower the multiplier by sqrt(arrived / P), as charged.

    Needs aggregator: {kind: diff2}, client: {kind: gradient_difference}, sampling: {kind: all}, unit: example, and
    data.public: [num_examples].

    References: Murata and Suzuki 2023, DIFF2: Differential Private Optimization via Gradient Differences, Algorithm 1,
    arXiv:2302.03884.

    Differences from the paper: noise is stated through multipliers; the difference is sent divided by the distance.
    """

    clipping_norm: float = Field(1.0, gt=0, description="C1: largest norm of one example's gradient at a restart")
    difference_clipping_norm: float = Field(
        1.0, gt=0, description="C2: largest norm of one example's gradient difference per unit of distance"
    )
    noise_multiplier: float | None = Field(
        None, ge=0, description="noise over the bound at restarts; null calibrates both to privacy.target_epsilon"
    )
    difference_noise_multiplier: float | None = Field(
        None, ge=0, description="noise over the bound in difference rounds; null: as at restarts, or calibrated"
    )
    restart_share: float = Field(
        0.5, gt=0, lt=1, description="share of the budget (of mu squared) for restarts when noise is calibrated"
    )
    noise: Literal["central", "distributed", "local"] = Field(
        "central", description="who adds the noise; equals privacy.trust"
    )

    trusts = ("central", "distributed", "local")
    units = ("example",)
    noise_settings = ("noise_multiplier", "difference_noise_multiplier")
    _restart_every: int = PrivateAttr(0)

    def prepared(self, scenario: Any, public: Public) -> Diff2:
        """Learn the schedule."""
        made = self.model_copy()
        made._restart_every = int(getattr(scenario.aggregator, "restart_every", 1))
        return made

    def problems(self, scenario: Any) -> tuple[str, ...]:
        """The parts of DIFF2 belong together."""
        found: tuple[str, ...] = ()
        if self.noise != scenario.privacy.trust:
            found += (f"noise is {self.noise} but privacy.trust is {scenario.privacy.trust}; make them equal",)
        kinds = (scenario.aggregator.kind(), scenario.client.kind(), scenario.sampling.kind())
        if kinds != ("diff2", "gradient_difference", "all"):
            found += (
                "diff2 is a method of its own; use aggregator: {kind: diff2}, client: {kind: gradient_difference} and "
                "sampling: {kind: all} with it, or mechanism: {kind: dp_sgd} for the examples of another aggregator",
            )
        if scenario.privacy.relation == "add_or_remove_one":
            found += (
                "diff2 divides by the clients' numbers of examples, which adding or removing one changes; use "
                "relation: replace_one or zero_out_one",
            )
        if self.noise == "distributed" and replies_may_be_lost(scenario):
            found += (
                "a lost reply takes its share of the noise with it, which no calibration foresees; use trust and "
                "noise: central, or devices and sampling without losses",
            )
        if "num_examples" not in getattr(scenario.data, "public", ()):
            found += ("diff2 divides by the clients' numbers of examples; declare data.public: [num_examples]",)
        return found

    def example_clipping(self) -> ExampleClipping:
        """Bounds for the clients; noise is not theirs to add while training."""
        from fedopt.engine.base import ExampleClipping

        return ExampleClipping(self.clipping_norm, 0.0, difference_clipping_norm=self.difference_clipping_norm)

    @property
    def unused_is_paid(self) -> bool:
        """Under local noise the server sees single replies."""
        return self.noise == "local"

    def init(self, dimension: int, public: Public) -> State:
        """The first round is a restart."""
        return State()

    def bound(self, part: str, state: State, public: Public) -> Bound:
        """How far one example moves one client's mean: C / n_min.

        Raises:
            ValueError: numbers of examples are not public.
        """
        if public.num_examples is None:
            raise ValueError("diff2 needs the numbers of examples; declare data.public: [num_examples]")
        norm = self.clipping_norm if part == GRADIENT else self.difference_clipping_norm
        sizes = public.num_examples[public.num_examples > 0]  # a client without examples sends zeros
        return Bound(norm / int(sizes.min()) if len(sizes) else 0.0)

    def multiplier(self, part: str) -> float:
        """Noise multiplier of a part."""
        restart = chosen(self.noise_multiplier)
        if part == GRADIENT or self.difference_noise_multiplier is None:
            return restart
        return self.difference_noise_multiplier

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Add local noise or a share of distributed noise."""
        import torch

        (name, batch) = next(iter(parts.items()))
        metrics = {"norm": torch.stack([b.norms().double() for b in parts.values()]).sum(0)}
        stds = self._client_stds(name, context)
        if not any(stds):
            return ClientResult(dict(parts), metrics)
        ids = tuple((CLIENT, context.step, 0, *who) for who in zip(context.clients, context.tasks, strict=True))
        return ClientResult({name: NoisyUpdates(batch, stds, ids, context.noise, part_dimension(batch))}, metrics)

    def _client_stds(self, part: str, context: ClientContext) -> tuple[float, ...]:
        """Noise std of every client's reply."""
        public, multiplier = context.public, self.multiplier(part)
        if self.noise == "central" or multiplier == 0:
            return (0.0,) * len(context.clients)
        if self.noise == "distributed":
            share = noise_std(multiplier, self.bound(part, State(), public)) / math.sqrt(public.num_clients)
            return (share,) * len(context.clients)
        norm = self.clipping_norm if part == GRADIENT else self.difference_clipping_norm
        assert public.num_examples is not None
        return tuple(multiplier * norm / max(1, int(public.num_examples[c])) for c in context.clients)

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Add central noise; nothing else to add under the other two.

        ``noise_std`` is that of the released mean, or of one reply under local noise.
        """
        released, part, std = {}, GRADIENT, 0.0
        for index, (name, (value, declared)) in enumerate(reduced.items()):
            bound = require_bound(name, declared)
            if bound.l2 == 0:  # a public count
                released[name] = value
                continue
            part, std = name, noise_std(self.multiplier(name), bound)
            released[name] = (
                value + normal(noise, value, std, SERVER, step, index) if self.noise == "central" else value
            )
        multiplier = self.multiplier(part)
        if self.noise == "distributed" and survivors:
            share = math.sqrt(survivors / public.num_clients)
            multiplier, std = multiplier * share, std * share
        if self.noise == "local":  # of one reply, at its largest: the client with the fewest examples
            std = noise_std(multiplier, self.bound(part, state, public))
        facts = {"clipping_norm": self.clipping_norm, "noise_multiplier": multiplier, "noise_std": std}
        since = 0 if part == GRADIENT else state.since_restart
        complete = survivors == public.num_clients and self._restart_every > 0
        after = State((since + 1) % self._restart_every if complete else 0)
        return Release(released, (gaussian_event(multiplier),) if survivors else (), after, facts)

    def next_events(self, state: State, public: Public) -> tuple[Event, ...]:
        """One round of the kind that is due: the schedule is public, and a loss was followed by a restart."""
        if not self._restart_every:
            return self.reply_events(state, public)
        return (gaussian_event(self.multiplier(SLOPE if state.since_restart else GRADIENT)),)

    def reply_events(self, state: State, public: Public) -> tuple[Event, ...]:
        """The costlier of the two kinds of round: a reply may be late."""
        return (gaussian_event(min(self.multiplier(GRADIENT), self.multiplier(SLOPE))),)

    def task_events(self, config: Mapping[str, Any], public: Public) -> tuple[Event, ...]:
        """One round of the kind that the client is asked for, and makes its noise for."""
        return (gaussian_event(self.multiplier(GRADIENT if config.get("restart", True) else SLOPE)),)

    def noise_level(self) -> float | None:
        """The multiplier at restarts."""
        return self.noise_multiplier

    def with_noise_level(self, level: float, releases: int, scenario: Any) -> Diff2:
        """Split mu = 1 / level between the two kinds of rounds: ``z = level * sqrt(rounds / share)``."""
        restarts, differences = rounds_of(releases, scenario.aggregator)
        if not differences:
            return self.model_copy(update={"noise_multiplier": level * math.sqrt(restarts)})
        return self.model_copy(
            update={
                "noise_multiplier": level * math.sqrt(restarts / self.restart_share),
                "difference_noise_multiplier": level * math.sqrt(differences / (1 - self.restart_share)),
            }
        )

    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """Restarts and differences of the schedule; every record is in all of them."""
        restarts, differences = rounds_of(releases, scenario.aggregator)
        first, second = gaussian_event(self.multiplier(GRADIENT)), gaussian_event(self.multiplier(SLOPE))
        return ((first, restarts), (second, differences)) if differences else ((first, restarts),)

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Murata and Suzuki 2023, DIFF2: Differential Private Optimization, ICML, arXiv:2302.03884",)


def rounds_of(releases: int, aggregator: Any) -> tuple[int, int]:
    """(restart rounds, difference rounds) of R releases with restart interval T: ``ceil(R / T)`` and the rest."""
    restarts = math.ceil(releases / getattr(aggregator, "restart_every", 1))
    return restarts, releases - restarts
