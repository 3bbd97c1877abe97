"""Shuffled runs: what the aggregator sees names nobody; sequential interaction pays once, full interaction composes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

import fedopt
from fedopt.auditing.observe import _Watched, watch
from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.events import Repeated
from fedopt.privacy.releases import ShuffledSumEvent, ShuffleEvent
from fedopt.scenario import Scenario
from fedopt.simulation.assembly import assemble
from scenarios import small

FULL_BATCH = {"kind": "sgd", "lr": 1.0, "batch_size": "full", "steps": 1}
HEMISPHERE = {"kind": "shuffle_hemisphere", "local_epsilon": 2.0}
VECTOR_SUM = {"kind": "shuffle_vector_sum", "bits": 800}


def shuffled(mechanism: dict[str, Any], sampling: dict[str, Any], steps: int, **privacy: Any) -> Scenario:
    return small(
        privacy={"trust": "shuffle", "relation": "replace_one", "delta": 1e-4, "mechanism": mechanism, **privacy},
        sampling=sampling,
        client=FULL_BATCH,
        aggregator={"kind": "minibatch_sgd", "server_lr": 0.5},
        run={"server_steps": steps, "evaluate_every": steps},
    )


class Seen(_Watched):
    """The aggregator, writing down what it is shown."""

    def reduce(self, state: Any, batch: Any, public: Any) -> Any:
        self._trace.append((batch.metas, batch.weights, batch.part().take(range(len(batch.metas)))))
        return self._inner.reduce(state, batch, public)


@pytest.mark.parametrize("kind", [HEMISPHERE, VECTOR_SUM])
def test_the_aggregator_sees_messages_without_names_in_no_order(kind):
    scenario = shuffled(kind, {"kind": "all"}, 20)
    parts, shown = assemble(scenario), list[Any]()
    parts.server.method = Seen(parts.server.method, shown)
    if kind is VECTOR_SUM:  # only sums can be looked at there
        watch(parts, scenario.client.batch_size_of)
        with pytest.raises(ValueError, match="single messages are hidden"):
            shown[0][2].rows()
    else:
        trace = watch(parts, scenario.client.batch_size_of, replies=True)
        sent = {(step, client): reply for step, client, reply in trace.replies}
        first = Counter[int]()
        for step, (_, _, rows) in enumerate(shown, 1):
            senders = [
                next(c for c in range(12) if torch.equal(row, sent[step, c])) for row in rows.rows()
            ]  # an onlooker who knew the messages
            assert sorted(senders) == list(range(12))
            first[senders[0]] += 1
        assert len(first) >= 6  # 20 draws of 12: fewer than 6 senders have a chance of one in a thousand
    for metas, weights, _ in shown:
        assert len(set(metas)) == 1 and set(weights) == {1.0}
        assert metas[0] == (-1, -1, -1, 0, 0, 0, 0.0, -1, 0, 0)


def test_sequential_interaction_pays_for_one_batch(tmp_path):
    """Disjoint batches: every client is in one of them, and the whole run costs what one batch costs."""
    scenario = shuffled(VECTOR_SUM, {"kind": "fixed", "cohort_size": 4}, 3, max_participations=1)
    run = fedopt.simulate(scenario, out=tmp_path)
    taken = run.updates.query("status == 'admitted'")
    assert taken.groupby("client_id").size().tolist() == [1] * 12 and set(taken.step) == {1, 2, 3}
    mechanism = assemble(scenario).server.mechanism
    one = ShuffledSumEvent(4, 650, mechanism.steps, 800, 0.25)
    assert run.summary["epsilon"] == pytest.approx(Pld().epsilon(one, 1e-4, "replace_one"))


def test_full_interaction_composes(tmp_path):
    run = fedopt.simulate(shuffled(HEMISPHERE, {"kind": "all"}, 4), out=tmp_path)
    one, four = (Pld().epsilon(Repeated(ShuffleEvent(2.0, 12), n), 1e-4, "replace_one") for n in (1, 4))
    assert run.summary["epsilon"] == pytest.approx(four) and four > 1.5 * one
