"""DP-FedAvg (amplified by hidden Poisson cohorts) against DP-FTRL (public cohorts, correlated noise) at equal epsilon.

    python scenarios/papers/dp_ftrl/compare.py [--out DIR] [--kept FILE]

Every method chooses among six server step sizes on three tuning seeds; five fresh seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from equal_epsilon import THREE_TUNING_SEEDS, arguments, compare, write  # noqa: E402

GAUSSIAN = {"kind": "gaussian", "clipping_norm": 0.5}
METHODS = {
    "DP-FedAvg, Poisson": {"sampling": {"kind": "poisson", "cohort_size": 20}, "privacy.mechanism": GAUSSIAN},
    "DP-FedAvg, public cohorts": {"privacy.mechanism": GAUSSIAN},
    "DP-FTRL, trees": {},
    "DP-FTRL, bands": {"privacy.mechanism": {"kind": "banded_matrix", "clipping_norm": 0.5, "bands": 7}},
}
GRIDS = {name: [{"aggregator.server_lr": lr} for lr in (0.3, 1.0, 2.0, 3.0, 5.0, 9.0)] for name in METHODS}

if __name__ == "__main__":
    out, kept = arguments(__doc__, HERE)
    rows, tuned = compare(HERE / "base.yaml", METHODS, GRIDS, (2.0, 8.0), kept=kept, tuning_seeds=THREE_TUNING_SEEDS)
    title = "DP-FedAvg against DP-FTRL at equal epsilon"
    write(out, title, rows, tuned, "DP-FedAvg, Poisson", ("accuracy", "loss"))
