"""Rebuild a finished run's model from its seed log: ``python -m fedopt.replay RUN_DIRECTORY``.

The scenario gives the initial model, ``seed_log.bin`` what moved it. The result has the bits of the run's model, so its
hash is the ``model_sha256`` of the summary; a difference means that device, library or log are not the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SEED_LOG = "seed_log.bin"


def replay(directory: str | Path) -> torch.Tensor:
    """The final parameters ``[d]`` of a run, from its scenario and seed log only.

    Raises:
        FileNotFoundError: the run has no seed log; its aggregator does not move the model by scalars.
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
    return seed_log.replay(initial_parameters(scenarios.load(where / "scenario.yaml")), log)


def main(arguments: list[str]) -> int:
    """Print the hash of the replayed model and whether it is the run's; 0 if it is."""
    import json

    from fedopt.simulation.summary import model_hash

    if len(arguments) != 1:
        print("usage: python -m fedopt.replay RUN_DIRECTORY", file=sys.stderr)
        return 2
    found = model_hash(replay(arguments[0]))
    wanted = json.loads((Path(arguments[0]) / "summary.json").read_text())["model_sha256"]
    print(f"{found} {'equals' if found == wanted else 'differs from'} the model of the run")
    return int(found != wanted)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
