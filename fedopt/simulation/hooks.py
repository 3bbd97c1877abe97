"""Between a session and whatever drives its server: the virtual clock, or Flower's grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fedopt.protocol import Finished, Stepped


@dataclass(frozen=True)
class Hooks:
    """What a driver tells the session.

    Args:
        on_step: called with (row, simulator-only metrics) after every server step; may answer ``status:reason`` to end.
        on_outcome: called with every row of ``updates``.
        on_failure: called with a message when client work failed.
        after_instant: called when an instant is complete: a checkpoint may be due.
        save_checkpoint: writes a checkpoint now.
        publish: writes the rows that were held back for it.
    """

    on_step: Callable[[Stepped, dict[str, float]], str | None]
    on_outcome: Callable[[dict[str, Any]], None]
    on_failure: Callable[[str], None]
    after_instant: Callable[[], None]
    save_checkpoint: Callable[[], None]
    publish: Callable[[], None] = lambda: None


class Driver(Protocol):
    """Drives the server of a run to its end.

    Attributes:
        state: what a checkpoint holds of it; ``state.now`` is the time in ticks.
    """

    state: Any

    def run(self) -> Finished:
        """Run to the end, from the start or from ``state`` as restored."""
        ...
