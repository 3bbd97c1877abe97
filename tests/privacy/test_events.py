"""Events: JSON round trip, refusals with reasons, merging."""

from __future__ import annotations

import json

import pytest

from fedopt.privacy.events import (
    AccountingError,
    Composed,
    DiscreteGaussianEvent,
    FixedSizeSampled,
    GaussianEvent,
    LaplaceEvent,
    MatrixEvent,
    NonPrivateEvent,
    PoissonSampled,
    PureEvent,
    Repeated,
    ShuffledSumEvent,
    ShuffleEvent,
    SkellamEvent,
    TreeEvent,
    TruncatedPoissonSampled,
    flatten,
    from_dict,
    gaussian_mu,
    require_relation,
)

EVERY = [
    GaussianEvent(1.5),
    LaplaceEvent(2.0, dimension=3),
    PureEvent(0.5, "add_or_remove_one"),
    TreeEvent(5.0, 10),
    MatrixEvent(4.0, 2.0),
    SkellamEvent(3.0, 1.0, 4.0, 100.0),
    DiscreteGaussianEvent(3.0, 1.0, 0.5, 10.0, 50, 8),
    ShuffleEvent(1.0, 500),
    ShuffledSumEvent(50, 1, 16, 200, 0.25),
    PoissonSampled(0.1, GaussianEvent(1.0)),
    FixedSizeSampled(10, 100, GaussianEvent(2.0)),
    TruncatedPoissonSampled(0.1, 100, 20, GaussianEvent(1.0)),
    Repeated(PoissonSampled(0.1, LaplaceEvent(1.0)), 7),
    Composed((GaussianEvent(1.0), Repeated(ShuffleEvent(1.0, 10), 2))),
    NonPrivateEvent("raw loss published"),
]


@pytest.mark.parametrize("event", EVERY, ids=lambda event: event.kind)
def test_json_round_trip(event):
    assert from_dict(json.loads(json.dumps(event.to_dict()))) == event


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"kind": "gauss", "noise_multiplier": 1.0}, "unknown event kind 'gauss'; known: composed"),
        ({"noise_multiplier": 1.0}, "unknown event kind None"),
        ({"kind": "gaussian", "sigma": 1.0}, "does not fit its fields"),
        ({"kind": "gaussian", "noise_multiplier": 0.0}, "noise_multiplier must be > 0, got 0.0"),
        ({"kind": "repeated", "event": {"kind": "nothing"}, "count": 2}, "unknown event kind 'nothing'"),
        ({"kind": "random_allocation", "steps": 9}, "is refused: no accountant here proves amplification"),
        ({"kind": "shuffled_gaussian"}, "is refused: only one direction"),
        ({"kind": "shuffled_epochs"}, "is refused: batches of a shuffled pass are not Poisson batches"),
        ({"kind": "sampled_clients_and_examples"}, "is refused: a client's records arrive together"),
    ],
)
def test_what_is_unknown_is_refused(data, text):
    with pytest.raises(AccountingError, match=text.replace("(", r"\(")):
        from_dict(data)


def test_equal_events_merge_in_any_grouping():
    one = PoissonSampled(0.1, GaussianEvent(1.0))
    nested = Composed((one, Repeated(Composed((one, one)), 2)))
    assert flatten(nested) == flatten([one] * 5) == [(one, 5)]


@pytest.mark.parametrize(
    ("event", "relation", "text"),
    [
        (TreeEvent(1.0, 3), "add_or_remove_one", "must not move when it is absent. Usable: zero_out_one, replace_one"),
        (FixedSizeSampled(5, 10, GaussianEvent(1.0)), "add_or_remove_one", "or Poisson sampling. Usable: replace_one"),
        (FixedSizeSampled(5, 10, GaussianEvent(1.0)), "zero_out_one", "Usable: replace_one"),
        (PoissonSampled(0.1, LaplaceEvent(1.0)), "replace_one", "Gaussian noise only; use zero_out_one"),
        (SkellamEvent(1, 1, 1, 1), "add_or_remove_one", "missing with its share of the noise"),
        (PureEvent(1.0), "add_or_remove_one", "only under the relation it was proved for"),
        (PureEvent(1.0, "zero_out_one"), "replace_one", "only under the relation it was proved for"),
        (ShuffleEvent(1.0, 10), "add_or_remove_one", "number of shuffled messages is public"),
        (GaussianEvent(1.0), "substitute", "relation must be one of add_or_remove_one"),
    ],
)
def test_relations_without_a_bound_are_refused(event, relation, text):
    with pytest.raises(AccountingError) as refusal:
        require_relation(event, relation)
    assert text in str(refusal.value)


@pytest.mark.parametrize("inner", [TreeEvent(1.0, 3), MatrixEvent(1.0, 2.0), Repeated(TreeEvent(1.0, 3), 2)])
def test_sampling_never_amplifies_shared_noise(inner):
    with pytest.raises(AccountingError, match="its noise is shared between steps"):
        PoissonSampled(0.1, inner)
    with pytest.raises(AccountingError, match="its noise is shared between steps"):
        FixedSizeSampled(1, 10, inner)


def test_replace_one_doubles_the_sensitivity():
    for event in (GaussianEvent(3.0), TreeEvent(3.0, 4), MatrixEvent(3.0, 2.0), Composed((GaussianEvent(3.0),) * 2)):
        assert gaussian_mu(event, "replace_one") == 2 * gaussian_mu(event, "zero_out_one")
    assert gaussian_mu(TreeEvent(10.0, 9), "zero_out_one") == pytest.approx(0.3)
    assert gaussian_mu(PoissonSampled(0.5, GaussianEvent(1.0)), "zero_out_one") is None
    assert gaussian_mu(PoissonSampled(1.0, GaussianEvent(1.0)), "zero_out_one") == 1.0
