"""Rebuild a finished run's model from its seed log: ``fedopt replay RUN_DIRECTORY``, or ``python -m fedopt.replay``.

The scenario gives the initial model, ``seed_log.bin`` what moved it. The result has the bits of the run's model, so its
hash is the ``model_sha256`` of the summary; a difference means that device, library or log are not the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

SEED_LOG = "seed_log.bin"


class Replayed(NamedTuple):
    """Hash of the replayed model, and of the run's."""

    found: str
    wanted: str


def replay(directory: str | Path) -> torch.Tensor:
    """The final parameters ``[d]`` of a run, from its scenario and seed log only.

    Raises:
        FileNotFoundError: the run has no seed log; its aggregator does not move the model by scalars.
        ValueError: the log is damaged, or of another model.
        ScenarioError: ``scenario.yaml`` is missing or wrong.
    """
    from fedopt import scenario as scenarios
    from fedopt.simulation.assembly import initial_parameters
    from fedopt.zeroth_order import seed_log

    where = Path(directory)
    if not (where / SEED_LOG).exists():
        raise FileNotFoundError(
            f"{where} has no {SEED_LOG}: the run is not finished, or its aggregator is none of decomfl, feedsign, "
            "one_byte and fedkseed"
        )
    log = seed_log.SeedLog.from_bytes((where / SEED_LOG).read_bytes())
    start = initial_parameters(scenarios.load(where / "scenario.yaml"))
    if log.dimension != start.numel():
        raise ValueError(f"the seed log is of {log.dimension} parameters, the scenario's model has {start.numel()}")
    return seed_log.replay(start, log)


def check(directory: str | Path) -> Replayed:
    """Replay a run and read what its model should be.

    Raises:
        FileNotFoundError, ValueError: as ``replay``, or the summary names no model.
        RunLogError: the summary cannot be read.
    """
    from fedopt.runlog import read_summary
    from fedopt.simulation.summary import model_hash

    found = model_hash(replay(directory))
    wanted = read_summary(Path(directory)).get("model_sha256")
    if wanted is None:
        raise ValueError("summary.json has no model_sha256 to compare with; the run is not finished")
    return Replayed(found, wanted)


if __name__ == "__main__":
    import sys

    from fedopt.cli import main

    sys.argv[1:1] = ["replay"]
    main("fedopt")
