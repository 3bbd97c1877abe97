"""Shards of label-sorted data."""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import equal_sizes, require_classes
from fedopt.rng import generator


class Shard(Partition):
    """Label skew: the label-sorted data are cut into shards, and each client gets random shards.

    - ``num_shards_per_partition`` alone: ``clients * num_shards_per_partition`` shards of equal size (rounded down);
    - both: shards of ``shard_size``, that many per client;
    - ``shard_size`` alone: as many shards as the data give, dealt as evenly as possible (client ids first).

    A client sees at most ``num_shards_per_partition`` classes, plus one per shard that crosses a border.
    flwr-datasets: ``ShardPartitioner``. The order inside a class is shuffled before cutting.

    References: McMahan et al. 2017, section 3, arXiv:1602.05629 (two shards per client).
    """

    num_shards_per_partition: int | None = Field(2, ge=1, description="shards per client; null = as many as there are")
    shard_size: int | None = Field(None, ge=1, description="examples per shard; null = computed")
    keep_incomplete_shard: bool = Field(False, description="use the smaller last shard too (shard_size alone)")

    @model_validator(mode="after")
    def _one_is_given(self) -> Shard:
        if self.num_shards_per_partition is None and self.shard_size is None:
            raise ValueError("give num_shards_per_partition or shard_size (or both)")
        return self

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Sort, cut, deal.

        Raises:
            ValueError: more shards are needed than the data give.
        """
        require_classes(targets)
        rng = generator(seed, "partition")
        shuffled = rng.permutation(len(targets))
        ordered = shuffled[np.argsort(targets[shuffled], kind="stable")]
        size, available = self._cut(len(targets), clients)
        if self.num_shards_per_partition is None:
            counts = equal_sizes(available, clients)
        else:
            counts = np.full(clients, self.num_shards_per_partition)
        if counts.sum() > available or counts.min() < 1 or size < 1:
            raise ValueError(
                f"{clients} clients need {max(int(counts.sum()), clients)} shards of {max(size, 1)} example(s), but "
                f"{len(targets)} examples give {available if size else 0}: use fewer clients, a smaller shard_size, or "
                "fewer num_shards_per_partition"
            )
        dealt = np.split(rng.permutation(available)[: counts.sum()], np.cumsum(counts)[:-1])
        return ClientIndex.from_lists(
            [np.concatenate([ordered[shard * size : (shard + 1) * size] for shard in own]) for own in dealt]
        )

    def _cut(self, num_examples: int, clients: int) -> tuple[int, int]:
        """Shard size, and how many shards there are."""
        if self.shard_size is None:
            shards = clients * (self.num_shards_per_partition or 1)
            return num_examples // shards, shards
        keep = self.keep_incomplete_shard and self.num_shards_per_partition is None
        whole = num_examples // self.shard_size
        return self.shard_size, whole + int(keep and num_examples % self.shard_size > 0)
