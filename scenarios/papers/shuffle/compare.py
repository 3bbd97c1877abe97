"""What does a shuffler buy? Shuffle against local and central trust at equal epsilon, each client taking part once.

    python scenarios/papers/shuffle/compare.py [--out DIR] [--kept FILE]

Every method chooses among six step sizes on three tuning seeds; five fresh seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from equal_epsilon import THREE_TUNING_SEEDS, arguments, compare, write  # noqa: E402

METHODS = {
    "central": {"privacy.trust": "central", "privacy.mechanism": {"kind": "gaussian"}},
    "shuffled vector sum": {},
    "shuffled hemisphere": {"privacy.mechanism": {"kind": "shuffle_hemisphere", "minimum_clients": 140}},
    "local Gaussian": {"privacy.trust": "local", "privacy.mechanism": {"kind": "local_gaussian"}},
}
GRIDS = {name: [{"aggregator.server_lr": lr} for lr in (0.02, 0.1, 0.5, 2.0, 8.0, 30.0)] for name in METHODS}

if __name__ == "__main__":
    out, kept = arguments(__doc__, HERE)
    rows, tuned = compare(HERE / "base.yaml", METHODS, GRIDS, (2.0, 8.0), kept=kept, tuning_seeds=THREE_TUNING_SEEDS)
    title = "Shuffle model against local and central trust at equal epsilon"
    write(out, title, rows, tuned, "local Gaussian", ("accuracy", "loss"))
