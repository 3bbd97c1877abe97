"""Example-level privacy: DP-SGD inside every client."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from fedopt.privacy.base import ClientContext, ClientResult, Counted, Noise, Release
from fedopt.privacy.events import PoissonSampled
from fedopt.privacy.mechanisms._multiplier import WithMultiplier
from fedopt.privacy.mechanisms._parts import gaussian_event
from fedopt.privacy.releases import Event, NonPrivateEvent
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import ExampleClipping, UpdateBatch


class State(NamedTuple):
    """The mechanism keeps nothing."""


class DpSgd(WithMultiplier):
    """Example-level privacy by DP-SGD in the clients' own training; the server passes replies through.

    Every local step clips each example's gradient to norm C, sums the Poisson batch, adds
    ``N(0, (noise_multiplier * C)^2)`` and divides by the expected batch. ``clipping``: ``flat`` is min(1, C / norm);
    ``per_layer`` clips the tensors of the model separately to ``layer_norms`` (then C is the root of the sum of their
    squares); ``automatic`` multiplies by C / (norm + stability), so no example is clipped by hand.

    Guarantees: every client keeps a ledger of its own: one Poisson-sampled Gaussian per local step, at the rate of its
    batches. Clients hold disjoint data, so the run's epsilon is the largest of theirs. The rate at which clients are
    sampled never enters: a client's records arrive together. Noise is added inside the client, so the guarantee holds
    against the server too. A client pays for every reply that leaves it, used or not.

    Needs client: {kind: dp_sgd}.

    References: Abadi et al. 2016, Deep Learning with Differential Privacy, Algorithm 1, arXiv:1607.00133; Bu et al.
    2023, Automatic Clipping, arXiv:2206.07136.

    Differences from the papers: the denominator is the expected batch, never the drawn one.
    """

    clipping: Literal["flat", "per_layer", "automatic"] = Field("flat", description="how an example is bounded")
    layer_norms: tuple[float, ...] | None = Field(
        None, strict=False, description="norm bound of every parameter tensor, in the model's order; for per_layer"
    )
    stability: float = Field(0.01, gt=0, description="constant added to the norm by automatic clipping")

    trusts = ("central", "local")
    units = ("example",)
    client_ledgers = True

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        if (self.clipping == "per_layer") != (self.layer_norms is not None):
            raise ValueError("layer_norms belong to clipping: per_layer, which needs them")
        if self.layer_norms is not None and min(self.layer_norms, default=0.0) <= 0:
            raise ValueError("layer_norms must be one number > 0 per parameter tensor")
        return self

    def example_norm(self) -> float:
        """Largest norm C of one example's contribution to the sum."""
        if self.layer_norms is not None:
            return math.sqrt(sum(norm * norm for norm in self.layer_norms))
        return self.clipping_norm

    def example_clipping(self) -> ExampleClipping:
        """What local training does to every example."""
        from fedopt.engine.base import ExampleClipping

        std = self.multiplier * self.example_norm() if self.multiplier > 0 else 0.0
        return ExampleClipping(
            clipping_norm=self.example_norm(),
            noise_std=std,
            style="automatic" if self.clipping == "automatic" else "flat",
            per_layer=self.layer_norms,
            stability=self.stability,
        )

    def init(self, dimension: int, public: Public) -> State:
        """Nothing to keep."""
        return State()

    def bound(self, part: str, state: State, public: Public) -> Bound:
        """None for whole replies: they are private already."""
        return Bound(math.inf)

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Nothing left to do after training."""
        import torch

        norms = torch.stack([batch.norms().double() for batch in parts.values()]).square().sum(0).sqrt()
        return ClientResult(dict(parts), {"norm": norms})

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Pass on: post-processing. ``noise_std`` is that of one summed gradient."""
        std = self.multiplier * self.example_norm() if self.multiplier > 0 else 0.0
        facts = {"clipping_norm": self.example_norm(), "noise_multiplier": self.multiplier, "noise_std": std}
        return Release({name: value for name, (value, _) in reduced.items()}, (), state, facts)

    def next_events(self, state: State, public: Public) -> tuple[Event, ...]:
        """Nothing at the server: clients keep the ledgers."""
        return ()

    def step_event(self, client: int | None, public: Public, scenario: Any) -> Event:
        """One local step of a client (None: of a client whose sampling probability is a constant).

        Raises:
            ValueError: the probability depends on a private number of examples.
        """
        examples = None if client is None or public.num_examples is None else int(public.num_examples[client])
        event = gaussian_event(self.multiplier)
        if isinstance(event, NonPrivateEvent):
            return event
        return PoissonSampled(scenario.client.sampling_rate(examples), event)

    def steps_of(self, client: int, public: Public, scenario: Any) -> int:
        """Local steps of one task of a client."""
        examples = 0 if public.num_examples is None else int(public.num_examples[client])
        return int(scenario.client.local_steps(examples))

    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """One event per local step of a client whose rate and steps are constants."""
        return ((self.step_event(None, public, scenario), participations * scenario.client.local_steps(None)),)

    def problems(self, scenario: Any) -> tuple[str, ...]:
        """The client's work must say its sampling rate without private facts."""
        client = scenario.client
        if not hasattr(client, "sampling_rate"):
            return ()  # reported as a client that does not clip per example
        if scenario.devices.work.kind() != "full":
            return (
                f"devices.work {scenario.devices.work.kind()} changes the number of local steps, so what a task costs; "
                "use work: full",
            )
        if getattr(scenario.aggregator, "fastest_local_steps", None) is not None:
            return (
                "aggregator.fastest_local_steps changes the number of local steps, so what a task costs; set it to "
                "null",
            )
        known = "num_examples" in getattr(scenario.data, "public", ())
        fixed = client.sampling_probability is not None and client.steps is not None
        if not known and not fixed:
            return (
                "a client's sampling rate and steps depend on its private number of examples; set "
                "client.sampling_probability and client.steps, or declare data.public: [num_examples]",
            )
        if scenario.privacy.relation == "add_or_remove_one" and known:
            return (
                "under add_or_remove_one the number of examples is private, so it cannot be public; leave "
                "data.public: [num_examples] out, or use relation: zero_out_one",
            )
        if scenario.privacy.relation == "add_or_remove_one" and not fixed:
            return (
                "under add_or_remove_one the number of examples is private; set client.sampling_probability and "
                "client.steps, or use relation: zero_out_one",
            )
        return ()

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv:1607.00133",
            *(("Bu et al. 2023, Automatic Clipping, arXiv:2206.07136",) if self.clipping == "automatic" else ()),
        )
