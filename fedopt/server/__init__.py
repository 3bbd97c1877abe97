"""The server, without I/O: it takes events and returns commands.

It owns no clock, no network, no thread and no global random state. The virtual-clock simulator and the Flower
adapter drive the same object. It knows only the base interfaces of methods, mechanisms and samplers.

How simultaneous things are ordered: uploads of one instant (ascending client) come before server steps caused by
timers, and those before dispatches, which wait for ``Settled`` (``dispatch: per_instant``) or follow every upload
(``dispatch: per_upload``).
"""

from __future__ import annotations

from fedopt.protocol import Arrived, Collected, Command, Event, Late, Lost, Settled, Started, Timer
from fedopt.server import admission, closing, dispatching, stepping
from fedopt.server.core import Core
from fedopt.server.state import InFlight, Limits, ServerState

__all__ = ["InFlight", "Limits", "Server", "ServerState"]


class Server(Core):
    """One federated server: method, mechanism and sampler, driven by events. Arguments: see ``Core``."""

    def on(self, event: Event) -> list[Command]:
        """Handle one event.

        Returns:
            Commands in the order in which they must be carried out. A ``Collect`` is always last: the driver answers
            it with ``Collected`` before anything else.
        """
        if self.state.finished:
            return []
        match event:
            case Started():
                return self._start(event)
            case Arrived():
                return admission.arrived(self, event)
            case Lost():
                return admission.lost(self, event)
            case Late():
                return admission.late(self, event)
            case Timer():
                return closing.timer(self, event)
            case Settled():
                return dispatching.fill(self, event.time, event.ready)
            case Collected():
                return stepping.collected(self, event)

    def _start(self, event: Started) -> list[Command]:
        if self.limits.server_steps == 0:
            return [self.finish("finished", "no server steps were asked for")]
        stopped = self.over_budget()
        if stopped:
            return [stopped]
        self.state.opened = event.time
        return [*self.timers(event.time), *dispatching.fill(self, event.time, event.ready)]

    def charge(self, flight: InFlight, used: bool = False) -> None:
        """Let a client that protects its own replies pay for one: see ``admission.charge``."""
        admission.charge(self, flight, used)
