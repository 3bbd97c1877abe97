"""Every task of every client draws from streams of its own: candidates, directions, noise, choices, roundings."""

from __future__ import annotations

from typing import Any

import pytest
from zeroth_order_runs import COMFL, DIFFERENCES, DIGITS, FZOOS, QUADRATICS, SPSA, TWO, N, Quick

from fedopt import rng
from fedopt.clients import finite_difference, fzoos

NOISY = {"data": {**QUADRATICS, "noise_std": 0.01}}
EXAMPLES = {"unit": "example", "relation": "add_or_remove_one",
            "mechanism": {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 2.0}}  # fmt: skip
DPZERO = {"kind": "dp_spsa", "sampling_probability": 0.2, "batch_size": 30}
DRAWS: dict[str, tuple[Any, Any, dict[str, Any], tuple[str, ...]]] = {
    "fzoos": (FZOOS, TWO, NOISY, ("fzoos-candidates", "query_noise")),
    "scaffold1": ({**DIFFERENCES, "method": "scaffold1"}, TWO, NOISY, ("finite-difference-directions", "query_noise")),
    "decomfl": (SPSA, COMFL, NOISY, ("query_noise",)),
    "one_byte": (SPSA, {"kind": "one_byte", "stochastic_rounding": True}, NOISY, ("one-byte-rounding", "query_noise")),
    "fedkseed": ({"kind": "fedkseed", "steps": 3}, {"kind": "fedkseed", "candidates": 8}, NOISY,
                 ("fedkseed-choices", "query_noise")),
    "dp_spsa": (DPZERO, COMFL, {"data": {**DIGITS, "clients": N}, "privacy": EXAMPLES}, ("dp_sgd_noise",)),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_a_stream_is_named_by_client_and_task_and_opened_once(name, monkeypatch: pytest.MonkeyPatch):
    client, aggregator, more, purposes = DRAWS[name]
    opened: dict[str, list[tuple[int, ...]]] = {}
    whole = rng.key

    def watched(seed: int, purpose: str, *ids: int) -> int:
        opened.setdefault(purpose, []).append(ids)
        return whole(seed, purpose, *ids)

    for module in (rng, fzoos, finite_difference):
        monkeypatch.setattr(module, "key", watched)
    Quick(client, aggregator, steps=4, **more)
    for purpose in purposes:
        assert sorted(opened[purpose]) == [(who, task) for who in range(N) for task in range(4)], purpose
