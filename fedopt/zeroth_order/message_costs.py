"""Exact message sizes of the scalar methods, per client and step or round. No torch.

Seed bits are counted apart from scalar bits, because published tables differ on whether they count them.

| method | uplink | downlink | joining |
|---|---|---|---|
| full vectors (FedAvg, FedZO) | 4 d B | 4 d B | 4 d B |
| scalar mean, K P directions | 4 K P B | 4 K P B | the log |
| Just-One-Byte | G (W - 1) B | G (W - 1) B | the smaller of weights and log |
| FedKSeed | min(4 K, 8 tau) B | 4 K B | 4 K B |
| DeComFL | 4 K P B | (4 K P + seeds) per missed round + seeds | the missed records |
| FeedSign | 1 bit | 1 bit | T bits |
"""

from __future__ import annotations

from typing import NamedTuple

_FLOAT = 32
_SEED = 64


class MessageBits(NamedTuple):
    """Size of one client's messages in one step or round, in bits."""

    uplink: int
    downlink: int
    uplink_seeds: int = 0
    downlink_seeds: int = 0

    @property
    def uplink_bytes(self) -> int:
        """Whole bytes up, seeds included: bits are padded to a byte once per message."""
        return -(-(self.uplink + self.uplink_seeds) // 8)

    @property
    def downlink_bytes(self) -> int:
        """Whole bytes down, seeds included."""
        return -(-(self.downlink + self.downlink_seeds) // 8)


def vector(dimension: int) -> MessageBits:
    """FedAvg, FedZO: float32 vectors both ways."""
    return MessageBits(_FLOAT * dimension, _FLOAT * dimension)


def scalar_mean(scalars: int = 1, seed_is_step: bool = True) -> MessageBits:
    """ZO-FedSGD: scalars up, their means down; a broadcast seed costs 64 bits."""
    return MessageBits(_FLOAT * scalars, _FLOAT * scalars, 0, 0 if seed_is_step else _SEED)


def just_one_byte(own: int, received: int, peers: int, broadcast: bool = False) -> MessageBits:
    """One byte per scalar to every peer.

    Args:
        own: G, scalars this machine made.
        received: scalars of all other machines; G (W - 1) when all make G.
        peers: W - 1 machines to send to.
        broadcast: a medium that delivers one message to all.
    """
    return MessageBits(8 * own * (1 if broadcast else peers), 8 * received)


def join_by_log_is_cheaper(logged_scalars: int, dimension: int) -> bool:
    """Whether replaying one-byte scalars costs fewer bytes than the weights: scalars < 4 d."""
    return logged_scalars < 4 * dimension


def fedkseed(seeds: int, local_steps: int, seeds_derived: bool = True) -> MessageBits:
    """K accumulated scalars down; up the dense vector or (index, sum) pairs of 8 bytes, whichever is smaller.

    Args:
        seeds: K.
        local_steps: tau; at most that many pairs.
        seeds_derived: one base seed is known beforehand; else K seeds come down, once per run.
    """
    once = 0 if seeds_derived else _SEED * seeds
    return MessageBits(min(_FLOAT * seeds, 64 * local_steps), _FLOAT * seeds, 0, once)


def decomfl(local_steps: int, perturbations: int, missed_rounds: int, seeds_derived: bool = False) -> MessageBits:
    """K P scalars up; down the records of the missed rounds and the new seeds.

    Args:
        local_steps: K, one seed each.
        perturbations: P per step.
        missed_rounds: r - t_i, rounds since the client's last participation.
        seeds_derived: seeds follow from the round number, which takes 64 bits per round.
    """
    scalars = _FLOAT * local_steps * perturbations
    seeds = _SEED if seeds_derived else _SEED * local_steps
    return MessageBits(scalars, missed_rounds * scalars, 0, (missed_rounds + 1) * seeds)


def feedsign(seed_is_step: bool = True) -> MessageBits:
    """One bit each way."""
    return MessageBits(1, 1, 0, 0 if seed_is_step else _SEED)
