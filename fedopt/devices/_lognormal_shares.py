"""Availability probabilities that differ lognormally between clients (FLGo LN)."""

from __future__ import annotations

import math

import numpy as np

from fedopt.devices._times import client_normals
from fedopt.devices.base import Fleet


def lognormal_shares(fleet: Fleet, spread: float) -> np.ndarray:
    """``c_i / max c``, ``c_i ~ LogNormal(0, sigma^2)``, ``sigma = -ln(1 - spread)``: ``[num_clients]`` in (0, 1]."""
    capacities = np.exp(-math.log1p(-spread) * client_normals(fleet, "availability-shares"))
    return capacities / capacities.max()
