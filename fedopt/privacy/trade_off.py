"""What epsilon means to an attacker: advantage and true-positive rate, read from the whole privacy curve."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedopt.privacy.accountants.base import Accountant, Events
from fedopt.privacy.events import Relation


class TradeOff(NamedTuple):
    """Upper bounds that hold for every attack.

    Args:
        advantage: largest true-positive minus false-positive rate.
        false_positive_rate: allowed false alarms.
        true_positive_rate: largest detection rate at that many false alarms.
    """

    advantage: float
    false_positive_rate: float
    true_positive_rate: float

    def sentence(self) -> str:
        """The same in plain words."""
        return (
            f"An attacker who must tell whether one unit's data was used, and who may raise a false alarm in "
            f"{100 * self.false_positive_rate:g} % of the cases, is right about at most "
            f"{100 * self.true_positive_rate:.1f} % of the units that were used; guessing would reach "
            f"{100 * self.false_positive_rate:g} %. The best advantage (true minus false positives) is "
            f"{100 * self.advantage:.1f} %."
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "sentence": self.sentence()}


def trade_off(
    events: Events, relation: Relation, accountant: Accountant, false_positive_rate: float = 0.01
) -> TradeOff:
    """Attacker's limits from the hockey-stick curve: TPR <= exp(e) FPR + delta(e) for every e of either direction.

    Args:
        events: what was released.
        relation: what the attacker tells apart.
        accountant: supplies the curve.
        false_positive_rate: in (0, 1).
    Raises:
        AccountingError: no curve exists (vector sums are certified at one delta only).
    """
    coarse = np.concatenate([[0.0], np.geomspace(1e-3, 60.0, 240)])
    best = _detection(events, relation, accountant, false_positive_rate, coarse)
    # The bound holds at every epsilon; looking closer around the best one only makes it tighter.
    near = int(best.argmin())
    fine = np.linspace(coarse[max(0, near - 1)], coarse[min(len(coarse) - 1, near + 1)], 200)
    closer = _detection(events, relation, accountant, false_positive_rate, fine)
    advantage = min(1.0, float(accountant.delta(events, np.zeros(1), relation)[0]))
    reached = float(np.clip(min(best.min(), closer.min()), false_positive_rate, 1.0))
    return TradeOff(advantage, false_positive_rate, reached)


def _detection(
    events: Events, relation: Relation, accountant: Accountant, false_positive_rate: float, epsilons: np.ndarray
) -> np.ndarray:
    """Bound on the true-positive rate by either direction at every epsilon."""
    delta = np.minimum(accountant.delta(events, epsilons, relation), 1.0)
    direct = np.exp(epsilons) * false_positive_rate + delta
    # the other direction: 1 - FPR <= exp(e) (1 - TPR) + delta(e)
    reverse = 1 - (1 - false_positive_rate - delta) * np.exp(-epsilons)
    return np.asarray(np.minimum(direct, reverse))
