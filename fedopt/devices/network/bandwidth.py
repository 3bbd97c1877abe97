"""The same fixed bandwidth for every client."""

from __future__ import annotations

from pydantic import Field

from fedopt.devices._links import Links
from fedopt.devices.base import Fleet, NetworkModel, NetworkTimes


class Bandwidth(NetworkModel):
    """Fixed rates and latency: ``latency_s + 8 bytes / (10^6 upload_mbit_s)``, download alike.

    The server's own link is infinite: simultaneous transfers do not slow each other down.
    """

    download_mbit_s: float = Field(100.0, gt=0, allow_inf_nan=False, description="rate to the client, in Mbit/s")
    upload_mbit_s: float = Field(20.0, gt=0, allow_inf_nan=False, description="rate from the client, in Mbit/s")
    latency_s: float = Field(0.0, ge=0, allow_inf_nan=False, description="added to each transfer, in seconds")

    def bind(self, fleet: Fleet) -> NetworkTimes:
        """The same link for everybody."""
        return Links(lambda client, task: (self.download_mbit_s, self.upload_mbit_s), self.latency_s)
