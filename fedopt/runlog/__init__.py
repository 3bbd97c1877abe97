"""The run log: typed tables in a run directory that survive a kill at any moment. No torch.

``RunLog`` writes; the ``read_*`` functions read finished, running and killed runs alike.
"""

from fedopt.runlog.files import RunLogError, check_writable, write_atomically
from fedopt.runlog.reader import read_clients, read_rounds, read_summary, read_updates, run_state
from fedopt.runlog.unbegun import withdrawn_if_refused
from fedopt.runlog.writer import Position, RunLog

__all__ = [
    "Position",
    "RunLog",
    "RunLogError",
    "check_writable",
    "read_clients",
    "read_rounds",
    "read_summary",
    "read_updates",
    "run_state",
    "withdrawn_if_refused",
    "write_atomically",
]
