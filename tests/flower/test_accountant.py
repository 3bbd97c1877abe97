"""Our accountants behind Flower's protocol."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from flwr.serverapp import GaussianPrivacyEvent, NeighboringRelation, PrivacyConfig, SamplingMethod

from fedopt.flower.accountant import Accountant

ADD = NeighboringRelation.ADD_OR_REMOVE_ONE


def made(method: SamplingMethod, limit: float | None = None) -> Accountant:
    return Accountant(PrivacyConfig(1e-5, 1000, ADD, method, limit))


def test_poisson_is_the_known_value_and_far_from_no_amplification() -> None:
    event = GaussianPrivacyEvent(1.0, 10, 1000)
    poisson = made(SamplingMethod.POISSON)
    poisson.compose(event, 1000)
    assert poisson.get_epsilon(1e-5) == pytest.approx(1.8282, abs=2e-3)  # q = 0.01, z = 1, T = 1000
    plain = made(SamplingMethod.NO_AMPLIFICATION)
    plain.compose(GaussianPrivacyEvent(10.0, 10, 1000), 100)
    assert plain.get_epsilon(1e-5) == pytest.approx(4.3772, abs=2e-3)  # 100 times z = 10


def test_composing_in_pieces_and_through_a_state_is_composing_at_once() -> None:
    event = GaussianPrivacyEvent(2.0, 10, 1000)
    pieces, at_once, restored = (made(SamplingMethod.NO_AMPLIFICATION) for _ in range(3))
    for _ in range(7):
        pieces.compose(event)
    at_once.compose(event, 7)
    restored.load_state_dict(pieces.state_dict())
    assert pieces.get_privacy_spent() == at_once.get_privacy_spent() == restored.get_privacy_spent()
    assert restored.num_releases == 7
    assert restored.get_epsilon(restored.get_delta(3.0)) == pytest.approx(3.0, abs=2e-3)


def test_limits_and_refusals() -> None:
    event = GaussianPrivacyEvent(1.0, 10, 1000)
    limited = made(SamplingMethod.NO_AMPLIFICATION, 5.0)
    assert not limited.would_exceed(event) and limited.would_exceed(event, count=10)
    assert limited.num_releases == 0
    with pytest.raises(ValueError, match="without replacement"):
        Accountant(PrivacyConfig(1e-5, 10, NeighboringRelation.REPLACE_ONE, SamplingMethod.WITHOUT_REPLACEMENT))
    with pytest.raises(ValueError, match="positive integer"):
        limited.compose(event, 0)
    with pytest.raises(ValueError, match="50 clients"):
        limited.compose(GaussianPrivacyEvent(1.0, 10, 50))
