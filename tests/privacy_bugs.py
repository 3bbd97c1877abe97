"""Planted privacy bugs: each takes the parts of a clean run and spoils one thing, as real code has been spoilt."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from fedopt.devices._times import FixedTimes
from fedopt.devices.base import ComputeModel
from fedopt.privacy.accounting import PrivacyAccounting
from fedopt.privacy.base import ClientResult
from fedopt.privacy.events import PoissonSampled
from fedopt.privacy.mechanisms.gaussian import Gaussian
from fedopt.privacy.simulated_noise import SimulatedNoise
from fedopt.sampling.base import SamplingClaim
from fedopt.simulation.assembly import assemble


class Spoilt:
    """Everything of an inner object but what a subclass overrides."""

    def __init__(self, inner: Any):
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class QuietGaussian(Gaussian):
    """A user's mechanism that charges for its noise and hardly adds any."""

    def release(self, reduced, survivors, step, state, noise, public):
        """A hundredth of the noise."""
        plain = Gaussian(clipping_norm=self.clipping_norm, noise_multiplier=self.multiplier / 100)
        found = plain.release(reduced, survivors, step, state, noise, public)
        return found._replace(events=(self.event(public),))


class SilentTimes(ComputeModel):
    """A user's device model that looks at numbers of examples and does not say so."""

    def bind(self, fleet):
        """A second per example."""
        return FixedTimes(fleet.num_clients, lambda client: Fraction(int(fleet.num_examples[client])))


def _clean(scenario, data, noise):
    return assemble(scenario, data, noise)


def no_clipping(scenario, data, noise):
    """The client half forgets to clip."""

    class Mechanism(Spoilt):
        def on_client(self, parts, context, state):
            return ClientResult(dict(parts), self.inner.on_client(parts, context, state).metrics)

    made = _clean(scenario, data, noise)
    made.computation.mechanism = Mechanism(made.computation.mechanism)
    return made


def half_the_noise(scenario, data, noise, first_step=1):
    """Noise of half the multiplier from a step on; facts and ledger say the whole."""

    class Mechanism(Spoilt):
        def release(self, *args):
            whole = self.inner.release(*args)
            half = self.inner.model_copy(update={"noise_multiplier": self.inner.noise_multiplier / 2}).release(*args)
            return whole._replace(values=half.values) if args[2] >= first_step else whole

    made = _clean(scenario, data, noise)
    made.server.mechanism = Mechanism(made.server.mechanism)
    return made


def half_the_noise_later(scenario, data, noise):
    """The first two releases are right, all later ones have half the noise."""
    return half_the_noise(scenario, data, noise, first_step=3)


def half_the_noise_openly(scenario, data, noise):
    """Noise of half the multiplier, as the facts say too; the ledger charges the whole."""

    class Mechanism(Spoilt):
        def release(self, *args):
            half = self.inner.model_copy(update={"noise_multiplier": self.inner.noise_multiplier / 2}).release(*args)
            return half._replace(events=self.inner.release(*args).events)

    made = _clean(scenario, data, noise)
    made.server.mechanism = Mechanism(made.server.mechanism)
    return made


def no_noise_later(scenario, data, noise):
    """The first two releases are right, all later ones have no noise and say so; the ledger charges the whole."""

    class Mechanism(Spoilt):
        def release(self, *args):
            whole = self.inner.release(*args)
            exact = self.inner.model_copy(update={"noise_multiplier": 0.0}).release(*args)
            return whole if args[2] < 3 else exact._replace(events=whole.events)

    made = _clean(scenario, data, noise)
    made.server.mechanism = Mechanism(made.server.mechanism)
    return made


def noise_after_the_optimiser(scenario, data, noise):
    """The optimiser sees the exact mean; its result gets the noise."""
    made = _clean(scenario, data, noise)
    added = {}

    class Mechanism(Spoilt):
        def release(self, *args):
            whole = self.inner.release(*args)
            exact = self.inner.model_copy(update={"noise_multiplier": 0.0}).release(*args)
            added.update({name: whole.values[name] - exact.values[name] for name in whole.values})
            return whole._replace(values=exact.values)

    class Method(Spoilt):
        def step(self, state, released, public):
            outcome = self.inner.step(state, released, public)
            return outcome._replace(state=outcome.state._replace(params=outcome.state.params + added["update"]))

    made.server.mechanism, made.server.method = Mechanism(made.server.mechanism), Method(made.server.method)
    return made


def same_noise_reused(scenario, data, noise):
    """One stream for every draw."""

    class Once(Spoilt):
        def draws(self, device, *ids):
            return self.inner.draws(device, 0)

    return _clean(scenario, data, Once(noise))


def weights_by_num_examples(scenario, data, noise):
    """Clients count by their number of examples; the bound does not know."""
    made = _clean(scenario, data, noise)
    mean = data.clients.sizes().mean()

    class Method(Spoilt):
        def admit(self, state, meta, public):
            return meta.num_examples / mean

    made.server.method = Method(made.server.method)
    return made


def double_contribution(scenario, data, noise):
    """A fast client's second reply goes into the same buffer."""
    made = _clean(scenario, data, noise)
    made.server.moves_twice = lambda flight: False
    return made


def client_rate_times_record_rate(scenario, data, noise):
    """The ledger multiplies the two rates."""
    made = _clean(scenario, data, noise)
    rate = scenario.sampling.expected_cohort(data.clients.num_clients) / data.clients.num_clients

    class Accounting(Spoilt):
        def profiles(self, tally):
            return [
                tuple((PoissonSampled(event.probability * rate, event.event), count) for event, count in profile)
                for profile in self.inner.profiles(tally)
            ]

        def __call__(self, *args):
            return self.inner(*args)

    made.server.affordable = Accounting(made.server.affordable)
    return made


def amplification_for_a_fixed_schedule(scenario, data, noise):
    """Cohorts of fixed size, charged as Poisson-sampled."""
    made = _clean(scenario, data, noise)
    known = made.server.affordable
    clients = data.clients.num_clients
    claim = SamplingClaim("poisson", scenario.sampling.expected_cohort(clients) / clients)
    made.server.affordable = PrivacyAccounting(
        scenario, known.mechanism, claim, known.public, known.releases, known.releases
    )
    return made


def noise_from_the_public_seed(scenario, data, noise):
    """The scenario's seed, which everybody knows, makes the noise."""
    return replace(_clean(scenario, data, SimulatedNoise(scenario.seed)))
