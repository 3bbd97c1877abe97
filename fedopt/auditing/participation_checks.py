"""Checks of sampling against the ledger: amplification is charged only for draws that really happen."""

from __future__ import annotations

import math

import numpy as np

from fedopt.auditing.probe import Probe
from fedopt.privacy.base import Counted, Tally
from fedopt.privacy.events import PoissonSampled

_DRAWS = 300
_ERRORS = 5.0


def poisson_cohorts(probe: Probe) -> tuple[bool | None, str]:
    """If releases are charged as Poisson-sampled, cohorts must be independent coins of that probability."""
    probability = _client_probability(probe)
    if probability is None:
        return None, "no amplification by sampling clients is claimed"
    server = probe.parts.server
    n = server.public.num_clients
    ready = _Everybody(n)
    cohorts, last = [], dict[int, int]()
    for i in range(_DRAWS):
        members = server.sampler.draw(i, ready, last, i, probe.scenario.seed)
        last |= dict.fromkeys(members, i)
        cohorts.append(np.isin(np.arange(n), members))
    drawn = np.array(cohorts)
    variance = n * probability * (1 - probability)
    sizes = drawn.sum(1)
    mean_error = (float(sizes.mean()) - n * probability) / math.sqrt(max(variance, 1e-9) / _DRAWS)
    spread = float(((sizes - n * probability) ** 2).mean()) / max(variance, 1e-9)
    repeated = int((drawn[1:] & drawn[:-1]).sum())
    both = probability**2
    overlap_error = (repeated - (_DRAWS - 1) * n * both) / math.sqrt((_DRAWS - 1) * n * both * (1 - both) * 2)
    detail = (
        f"claimed probability {probability:.4g}; mean cohort {sizes.mean():.2f} of {n * probability:.2f}, variance "
        f"ratio {spread:.2f}, clients again in the next cohort {repeated}"
    )
    tolerance = _ERRORS * math.sqrt((2 + 1 / max(variance, 1e-9)) / _DRAWS)
    fine = abs(mean_error) < _ERRORS and abs(spread - 1) < tolerance and abs(overlap_error) < _ERRORS
    return fine, detail


def record_rate(probe: Probe) -> tuple[bool | None, str]:
    """The rate charged per record must be that of its client's batches: a client's records arrive together."""
    if not probe.by_example or not probe.mechanism.client_ledgers:
        return None, "no ledger charges single records by their batches"
    probe.run(0.0, 1)
    drawn: dict[int, list[int]] = {}
    for cohort, plan in probe.engines[0.0, 1].plans:
        for row, client in enumerate(cohort.clients):
            drawn.setdefault(client, []).extend(plan.counts[row, : int(plan.steps[row])].tolist())
    sizes = probe.data.clients.sizes()
    total, expected, variance, spread, batches = 0, 0.0, 0.0, 0.0, 0
    for client, counts in drawn.items():
        event = charged_event(probe, client)
        if not isinstance(event, PoissonSampled):
            continue
        n, q = int(sizes[client]), event.probability
        total += sum(counts)
        expected += q * n * len(counts)
        variance += q * (1 - q) * n * len(counts)
        if 0 < q < 1:
            spread += sum((count - q * n) ** 2 for count in counts) / (q * (1 - q) * n)
            batches += len(counts)
    if not batches:
        return None, "no amplification by batches is charged"
    error = (total - expected) / math.sqrt(max(variance, 1e-9))
    ratio = spread / batches
    detail = (
        f"{total} records in {batches} batches, {expected:.1f} charged; variance of batch sizes over Poisson's "
        f"{ratio:.2f}"
    )
    fixed = ratio < 1 - _ERRORS * math.sqrt(2 / batches)
    return error < _ERRORS and not fixed, detail


def charged_event(probe: Probe, client: int) -> object:
    """What the ledger charges a client for one local step."""
    accounting = probe.parts.server.affordable
    for profile in accounting.profiles(Tally(local_steps={client: 1})):
        return profile[0][0]
    return None


def _client_probability(probe: Probe) -> float | None:
    """Smallest Poisson probability the ledger charges releases with, or None."""
    if probe.by_example:
        return None
    accounting, tally = probe.parts.server.affordable, Tally()
    tally.record(probe.events, [0])
    profiles: list[Counted] = accounting.profiles(tally)
    rates = [e.probability for profile in profiles for e, _ in profile if isinstance(e, PoissonSampled)]
    hypothetical = probe.scenario.privacy.hypothetical_population  # type: ignore[union-attr]
    if not rates:
        return None
    return min(rates) * (hypothetical / probe.parts.server.public.num_clients if hypothetical else 1.0)


class _Everybody:
    """All clients are ready."""

    def __init__(self, num_clients: int):
        self.num_clients = num_clients

    def is_ready(self, clients: np.ndarray) -> np.ndarray:
        return np.ones(len(clients), bool)


CHECKS = {"poisson_cohorts": poisson_cohorts, "record_rate": record_rate}
