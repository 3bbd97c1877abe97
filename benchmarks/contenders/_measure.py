"""What every contender shares: arguments, warm-up, timing of rounds, and one JSON line at the end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from workloads import Bundle, load


class Contender(Protocol):
    """One framework on one workload."""

    def round(self, clients: list[int]) -> None:
        """Train a cohort and move the model."""
        ...

    def accuracy(self) -> float:
        """Test accuracy of the model."""
        ...


def main(build: Callable[[Bundle, argparse.Namespace], Contender], versions: Callable[[], dict[str, str]]) -> None:
    """Run the rounds of the bundle: the first ``--warmup`` ones untimed (compilation), then one sample per round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--variant", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="timed rounds; all of the bundle by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bundle = load(options.bundle)
    contender = build(bundle, options)
    cpu, wall = [], []
    last = None if options.rounds is None else options.warmup + options.rounds
    for number, cohort in enumerate(bundle.cohorts[:last]):
        before_cpu, before_wall = time.process_time(), time.perf_counter()
        contender.round(cohort.tolist())
        if number >= options.warmup:
            cpu.append(time.process_time() - before_cpu)
            wall.append(time.perf_counter() - before_wall)
    result: dict[str, Any] = {"cpu_s": cpu, "wall_s": wall, "accuracy": contender.accuracy(), "versions": versions()}
    print(json.dumps({**result, **getattr(contender, "notes", {})}))
