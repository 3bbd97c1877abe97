"""Message sizes against the cost tables."""

from __future__ import annotations

from fedopt.zeroth_order import message_costs as costs


def test_tables():
    assert costs.vector(300).uplink_bytes == 1200 and costs.vector(300).downlink_bytes == 1200
    assert costs.scalar_mean().uplink == costs.scalar_mean().downlink == 32
    assert costs.scalar_mean(seed_is_step=False).downlink + costs.scalar_mean(seed_is_step=False).downlink_seeds == 96
    byte = costs.just_one_byte(own=30, received=90, peers=3)
    assert (byte.uplink_bytes, byte.downlink_bytes) == (90, 90)
    assert costs.just_one_byte(30, 90, 3, broadcast=True).uplink_bytes == 30
    seeds = costs.fedkseed(4096, 200)
    assert (seeds.uplink_bytes, seeds.downlink_bytes) == (1600, 16_384)
    assert seeds.uplink_bytes + seeds.downlink_bytes == 17_984  # "under 18 kilobytes"
    assert costs.fedkseed(100, 200).uplink_bytes == 400
    assert costs.fedkseed(4096, 200, seeds_derived=False).downlink_seeds == 8 * 8 * 4096
    decomfl = costs.decomfl(2, 5, 3)
    assert (decomfl.uplink_bytes, decomfl.downlink_bytes) == (40, 3 * (40 + 16) + 16)
    assert costs.decomfl(2, 5, 3, seeds_derived=True).downlink_bytes == 3 * (40 + 8) + 8
    sign = costs.feedsign()
    assert (sign.uplink, sign.downlink, sign.uplink_bytes, sign.downlink_bytes) == (1, 1, 1, 1)
    assert costs.feedsign(seed_is_step=False).downlink_seeds == 64


def test_joining():
    assert costs.join_by_log_is_cheaper(399, 100) and not costs.join_by_log_is_cheaper(400, 100)
