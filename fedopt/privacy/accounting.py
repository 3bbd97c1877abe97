"""The accounting of one run: charges releases, stops before ``max_epsilon``, fills the log's columns."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedopt.privacy.base import Counted, Mechanism, Tally
from fedopt.privacy.client_ledgers import client_profiles, worst_profiles
from fedopt.privacy.profile import covers, dominating_profile, sampled_profile, with_next
from fedopt.privacy.spending import Spending
from fedopt.sampling.base import SamplingClaim
from fedopt.types import Public

if TYPE_CHECKING:
    from fedopt.privacy.releases import Event
    from fedopt.scenario import Scenario

MOST_LEDGERS = 20  # different ones of clients that are composed as they are


class PrivacyAccounting:
    """What a run has spent, from the tally of its server.

    Args:
        scenario: a checked scenario with privacy.
        mechanism: with its noise set.
        claim: amplification that counts for the unit.
        public: public constants.
        releases: planned releases, or None.
        participations: planned releases one client can be part of, or None.
    """

    def __init__(
        self,
        scenario: Scenario,
        mechanism: Mechanism,
        claim: SamplingClaim,
        public: Public,
        releases: int | None,
        participations: int | None,
    ):
        privacy = scenario.privacy
        assert privacy is not None
        self.scenario, self.privacy, self.mechanism, self.claim, self.public = (
            scenario,
            privacy,
            mechanism,
            claim,
            public,
        )
        self.releases, self.participations = releases, participations
        self.spending = Spending(privacy.relation, privacy.delta, privacy.accountant, self._planned_count)

    @property
    def probability(self) -> float:
        """Amplification by Poisson sampling of the unit; 1 without."""
        return self.claim.probability if self.claim.kind == "poisson" else 1.0

    # ---- profiles ----------------------------------------------------------------------------------------------

    def planned_profiles(self) -> list[Counted]:
        """Ledgers after the planned run, whose largest epsilon is the run's.

        Raises:
            ValueError: the run has no planned length.
        """
        if self.participations is None:
            raise ValueError("the run has no planned length; set run.server_steps or privacy.max_participations")
        releases = self.releases if self.releases is not None else self.participations
        tally = Tally()
        if self._counts_own_steps:
            return worst_profiles(self._planned_ledgers())
        planned = self.mechanism.planned_events(releases, self.participations, self.public, self.scenario)
        for event, count in planned:
            tally.events.append((event,))
            tally.releases.append(count)
            tally.most.append(count)
            tally.participations.append({0: count})
        return [sampled_profile(tally, self.probability)]

    @property
    def _counts_own_steps(self) -> bool:
        """Whether what a client pays depends on its public number of examples."""
        return self.mechanism.client_ledgers and self.public.num_examples is not None

    def _planned_ledgers(self) -> dict[int, Counted]:
        """Ledger of every client after the planned run, where clients keep ledgers."""
        assert self.participations is not None
        tally = Tally()
        for client in range(self.public.num_clients):
            tally.local_steps[client] = self.participations * self._steps_of(client)
        return client_profiles(tally, self.mechanism, self.public, self.scenario)

    def _planned_count(self, event: Event) -> int | None:
        """How often an event happens in the planned run to whom it happens most; None if that is not known."""
        if not self.mechanism.client_ledgers or self.participations is None:
            return self.participations
        return self._planned_steps.get(event)

    @cached_property
    def _planned_steps(self) -> dict[Event, int]:
        ledgers = self._planned_ledgers().values() if self._counts_own_steps else self.planned_profiles()
        found: dict[Event, int] = {}
        for event, count in (item for ledger in ledgers for item in ledger):
            found[event] = max(found.get(event, 0), count)
        return found

    def _steps_of(self, client: int) -> int:
        """Local steps of one task of a client, where clients keep ledgers."""
        return int(self.mechanism.steps_of(client, self.public, self.scenario))  # type: ignore[attr-defined]

    def profiles(self, tally: Tally) -> list[Counted]:
        """Ledgers whose largest epsilon is the run's: one, or the worst of the clients' own."""
        if self.mechanism.client_ledgers:
            return worst_profiles(client_profiles(tally, self.mechanism, self.public, self.scenario))
        if self.claim.kind == "poisson":
            return [sampled_profile(tally, self.probability)]
        return [dominating_profile(tally)]

    # ---- asked by the server -----------------------------------------------------------------------------------

    def __call__(self, state: Any, events: tuple[Event, ...]) -> str | None:
        """Why the next release must not happen, or None.

        Args:
            state: the server's state.
            events: what the next release costs.
        """
        name, limit = self.privacy.epsilon_limit()
        if math.isinf(limit) or (self._exact_planned <= limit and self._is_planned(state.tally, events)):
            return None
        for profile in self._next_profiles(state.tally, events):
            if not self.spending.affords(profile, limit):
                return (
                    f"the next release would exceed {name} = {limit:g} (spent: epsilon "
                    f"{self.exact(state.tally):.4f} at delta {self.privacy.delta:g})"
                )
        return None

    def _is_planned(self, tally: Tally, events: tuple[Event, ...]) -> bool:
        """Whether the plan surely costs at least as much as the run with its next release: nothing to compose then."""
        if not self.participations:
            return False
        if self.mechanism.client_ledgers:  # of those who have not begun, one task is in every plan
            return all(
                self._steps_ahead(client, done) <= self.participations * self._steps_of(client)
                for client, done in tally.local_steps.items()
            )
        (planned,) = self.planned_profiles()
        return all(covers(planned, profile) for profile in self._next_profiles(tally, events))

    @cached_property
    def _exact_planned(self) -> float:
        """Epsilon after the planned run; infinite for one without an end."""
        return math.inf if self.participations is None else self.exact_planned()

    @property
    def most_participations(self) -> int | None:
        """How often one client can pay at most, whatever happens to replies; None where nothing enforces a limit."""
        mechanism = self.mechanism
        if self.claim.kind == "poisson" or mechanism.unused_is_paid:
            return None
        if (mechanism.paid_on_arrival or mechanism.client_ledgers) and self.claim.min_separation is None:
            return self.privacy.max_participations  # replies that no release uses are paid for, and count
        return self.participations

    def _next_profiles(self, tally: Tally, events: tuple[Event, ...]) -> list[Counted]:
        if self.mechanism.client_ledgers:
            clients, done = range(self.public.num_clients), tally.local_steps
            return self.profiles(Tally(local_steps={c: self._steps_ahead(c, done.get(c, 0)) for c in clients}))
        limit = self.most_participations
        return [with_next(profile, events, self.probability, limit) for profile in self.profiles(tally)]

    def _steps_ahead(self, client: int, done: int) -> int:
        """Local steps of a client that has done so many, after one more task if it may take part again."""
        steps, limit = self._steps_of(client), self.most_participations
        return done + steps if limit is None or done < limit * steps else done

    # ---- asked by the log --------------------------------------------------------------------------------------

    def row(self, state: Any) -> dict[str, Any]:
        """Columns of a server step: an upper bound between checkpoints, never decreasing."""
        values = [self.spending.bound(profile) for profile in self.profiles(state.tally)]
        return {
            "epsilon": max(values, default=0.0),
            "epsilon_accountant": self.privacy.accountant,
            "delta": self.privacy.delta,
        }

    def exact(self, tally: Tally) -> float:
        """Epsilon spent so far."""
        return max((self.spending.exact(profile) for profile in self.profiles(tally)), default=0.0)

    def exact_planned(self) -> float:
        """Epsilon after the planned run."""
        return max((self.spending.exact(profile) for profile in self.planned_profiles()), default=0.0)

    def client_epsilons(self, state: Any) -> dict[int, float]:
        """What every client has spent, where clients keep their own ledgers; else empty.

        Where their ledgers are many different ones, sampling probabilities are rounded up to a grid, so that a thousand
        clients cost a few dozen compositions; nobody is said to have spent more than the run.
        """
        if not self.mechanism.client_ledgers:
            return {}
        found = client_profiles(state.tally, self.mechanism, self.public, self.scenario)
        if len(set(found.values())) > MOST_LEDGERS:
            found = client_profiles(state.tally, self.mechanism, self.public, self.scenario, rounded=True)
        most = self.exact(state.tally)
        return {client: min(most, self.spending.exact(profile)) for client, profile in found.items()}

    def document(self, state: Any) -> dict[str, Any]:
        """``privacy.json``: enough for an outsider to recompute epsilon."""
        from fedopt.privacy.document import privacy_document

        return privacy_document(self, state)

    def final(self, state: Any) -> dict[str, Any]:
        """Epsilon and delta of the summary: exact at the last step."""
        epsilon = self.exact(state.tally)
        return {"epsilon": epsilon if math.isfinite(epsilon) else None, "delta": self.privacy.delta}
