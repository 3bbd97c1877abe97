"""Our accountants behind Flower's ``PrivacyAccountant`` protocol, for its DP strategies."""

from __future__ import annotations

import math
from typing import Any

from flwr.serverapp import GaussianPrivacyEvent, NeighboringRelation, PrivacyConfig, PrivacySpent, SamplingMethod

from fedopt.privacy.events import GaussianEvent, PoissonSampled, Repeated
from fedopt.privacy.spending import accountant_of

_STATE_VERSION = 1


class Accountant:
    """Flower's ``PrivacyAccountant`` by our accountants (PLD by default, an upper bound on its grid).

    Args:
        config: Flower's configuration.
        kind: ``pld`` or ``rdp``.
    Raises:
        ValueError: sampling without replacement: its amplification is proved under replace-one only, and is smaller
            than usually claimed. At q = 0.01 the usual RDP bound says 3.58 where an attainable pair of inputs has at
            least 13.31 (``FixedSizeSampled`` under ``pld`` bounds it).
    """

    def __init__(self, config: PrivacyConfig, kind: str = "pld"):
        if config.sampling_method is SamplingMethod.WITHOUT_REPLACEMENT:
            raise ValueError(
                "fixed-size sampling without replacement is not accounted here: its amplification is proved under "
                "replace-one only, and usually overstated; use SamplingMethod.NO_AMPLIFICATION, or Poisson sampling"
            )
        self._config, self.kind = config, kind
        self._events: dict[tuple[float, float], int] = {}

    @property
    def config(self) -> PrivacyConfig:
        """Flower's configuration."""
        return self._config

    @property
    def num_releases(self) -> int:
        """Releases composed so far."""
        return sum(self._events.values())

    def compose(self, event: GaussianPrivacyEvent, count: int = 1) -> None:
        """Add releases.

        Raises:
            ValueError: a count below 1, or another population than configured.
        """
        key = self._key(event, count)
        self._events[key] = self._events.get(key, 0) + count

    def _key(self, event: GaussianPrivacyEvent, count: int) -> tuple[float, float]:
        if isinstance(count, bool) or count < 1:
            raise ValueError(f"count must be a positive integer, got {count!r}")
        if event.population_size != self._config.population_size:
            raise ValueError(
                f"the event is for {event.population_size} clients, the accountant for {self._config.population_size}"
            )
        poisson = self._config.sampling_method is SamplingMethod.POISSON
        return event.noise_multiplier, event.sample_size / event.population_size if poisson else 1.0

    def _epsilon(self, events: dict[tuple[float, float], int], delta: float) -> float:
        if not events:
            return 0.0
        made = []
        for (noise, probability), count in sorted(events.items()):
            gaussian: Any = GaussianEvent(noise)
            made.append(Repeated(gaussian if probability >= 1 else PoissonSampled(probability, gaussian), count))
        relation = {NeighboringRelation.ADD_OR_REMOVE_ONE: "add_or_remove_one"}.get(
            self._config.neighboring_relation, "replace_one"
        )
        return float(accountant_of(self.kind).epsilon(made, delta, relation))  # type: ignore[arg-type]

    def get_epsilon(self, delta: float) -> float:
        """Epsilon spent at a delta."""
        return self._epsilon(self._events, delta)

    def get_delta(self, epsilon: float) -> float:
        """Smallest delta, to one part in a thousand and not below 1e-12, at which the releases cost at most epsilon."""
        if not self._events:
            return 0.0
        low, high = -12.0, 0.0  # exponents of ten
        while high - low > 4e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if self.get_epsilon(10.0**middle) <= epsilon else (middle, high)
        return min(1.0, 10.0**high)

    def get_privacy_spent(self, delta: float | None = None) -> PrivacySpent:
        """What was spent, at the configured delta by default."""
        wanted = self._config.target_delta if delta is None else delta
        return PrivacySpent(self.get_epsilon(wanted), wanted, self.num_releases, f"fedopt {self.kind}")

    def would_exceed(self, event: GaussianPrivacyEvent, max_epsilon: float | None = None, count: int = 1) -> bool:
        """Whether these releases would exceed a limit (the configured one by default).

        Raises:
            ValueError: there is no limit.
        """
        limit = self._config.max_epsilon if max_epsilon is None else max_epsilon
        if limit is None:
            raise ValueError("no limit is set; give max_epsilon")
        key = self._key(event, count)
        ahead = {**self._events, key: self._events.get(key, 0) + count}
        epsilon = self._epsilon(ahead, self._config.target_delta)
        return math.isnan(epsilon) or epsilon > limit

    def state_dict(self) -> dict[str, object]:
        """Everything needed to go on, as JSON values."""
        events = [[noise, probability, count] for (noise, probability), count in sorted(self._events.items())]
        return {"version": _STATE_VERSION, "kind": self.kind, "events": events}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from ``state_dict``.

        Raises:
            ValueError: written by another version or accountant.
        """
        if state.get("version") != _STATE_VERSION or state.get("kind") != self.kind:
            raise ValueError(f"the state is of version {state.get('version')}, accountant {state.get('kind')}")
        rows: Any = state["events"]
        self._events = {(float(noise), float(p)): int(count) for noise, p, count in rows}
