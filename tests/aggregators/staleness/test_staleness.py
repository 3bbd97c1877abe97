from itertools import pairwise

import pytest

from fedopt.aggregators.staleness.constant import Constant
from fedopt.aggregators.staleness.hinge import Hinge
from fedopt.aggregators.staleness.polynomial import Polynomial
from fedopt.aggregators.staleness.threshold import Threshold
from fedopt.components import components


def test_values_of_the_card():
    half = Polynomial(exponent=0.5)
    assert [half.weight(u) for u in (0, 3)] == [1.0, 0.5]
    assert half.weight(8) == pytest.approx(1 / 3)
    hinge = Hinge(a=10.0, b=4)
    assert [hinge.weight(u) for u in (0, 4)] == [1, 1]
    assert hinge.weight(5) == pytest.approx(1 / 11)
    assert Constant().weight(100) == 1
    assert [Threshold(cutoff=10, value=0.5).weight(u) for u in (10, 11)] == [1, 0.5]


def test_normalisation_at_the_average_staleness():
    weights = Polynomial(exponent=0.5, average_staleness=1.0)
    assert [weights.weight(u) for u in (0, 1, 7)] == pytest.approx([1.41421, 1, 0.5], abs=1e-5)
    assert weights.max_weight() == pytest.approx(2**0.5)


@pytest.mark.parametrize("kind", components("fedopt.aggregators.staleness").values())
@pytest.mark.parametrize("average", [0.0, 2.5])
def test_every_file_starts_at_one_never_increases_and_is_bounded(kind, average):
    staleness = kind(average_staleness=average)
    weights = [staleness.weight(u) for u in range(50)]
    assert staleness.raw_weight(0) == 1
    assert all(later <= earlier for earlier, later in pairwise(weights))
    assert max(weights) <= staleness.max_weight()
    assert repr(staleness).startswith(kind.__name__)


def test_a_reference_of_weight_zero_is_refused():
    with pytest.raises(ValueError, match="lower average_staleness"):
        Threshold(cutoff=1, value=0.0, average_staleness=5.0)
