"""What the asynchronous methods share: a stream of clients that closes after a number of replies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedopt.aggregators.base import Method
from fedopt.types import Count, Exchange


class Stream(Method):
    """Abstract: the sampler's concurrency stays in flight and a server step is due after some replies."""

    dispatch: Literal["per_instant", "per_upload"] = Field(
        "per_instant",
        description="per_instant: all uploads of one instant are processed before anyone restarts; "
        "per_upload: a client restarts as soon as its own upload is processed",
    )
    restart: Literal["immediately", "at_step"] = Field(
        "immediately", description="whether a finished client's slot is refilled immediately, or only at_step"
    )

    def exchange_of(self, replies: int) -> Exchange:
        """A stream whose steps are due after this many admitted replies."""
        return Exchange(close=Count(replies), pacing="stream", dispatch=self.dispatch, restart=self.restart)
