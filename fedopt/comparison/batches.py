"""Which runs of a comparison are trained together in one process: those whose rows can share the engine's passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedopt.comparison.jobs import Job

Batching = Literal["auto", "never", "always"]
# Runs of a batch end together, hold their memory at the same time, and are lost together if their process is killed.
MOST_RUNS = 16


def batches(
    jobs: Sequence[Job], processes: int, batch: Batching, gains: Callable[[Sequence[Job]], Sequence[bool]]
) -> list[list[int]]:
    """Indices of the jobs that are carried out together, every job once.

    Runs whose data, model, client and arithmetic are of one kind form a group; it is cut into batches of equal size, so
    many that every process has work.

    Args:
        jobs: runs to make.
        processes: that will work on them.
        batch: ``auto`` batches groups that gain, ``always`` every group, ``never`` none.
        gains: whether runs like the given ones are faster together; asked once for every group.
    """
    if batch == "never":
        return [[i] for i in range(len(jobs))]
    groups: dict[str, list[int]] = {}
    for i, job in enumerate(jobs):
        groups.setdefault(kind_of(job), []).append(i)
    several = [group for group in groups.values() if len(group) > 1]
    if batch == "auto" and several:
        verdicts = gains([jobs[group[0]] for group in several])
        several = [group for group, gain in zip(several, verdicts, strict=True) if gain]
    batched = {i for group in several for i in group}
    parts = max(1, -(-processes // max(1, len(several))))
    found = [cut for group in several for cut in _cut(group, max(parts, -(-len(group) // MOST_RUNS)))]
    return found + [[i] for i in range(len(jobs)) if i not in batched]


def kind_of(job: Job) -> str:
    """Equal for runs that may be trained together."""
    scenario = job.scenario
    client = scenario["client"]
    kind = client["kind"] if isinstance(client, dict) else client
    return json.dumps(
        [scenario["data"], scenario["model"], kind, scenario["engine"], job.split], sort_keys=True, default=str
    )


def _cut(group: Sequence[int], parts: int) -> list[list[int]]:
    """Nearly equal consecutive parts, none of them empty."""
    parts = min(parts, len(group))
    ends = [len(group) * k // parts for k in range(parts + 1)]
    return [list(group[a:b]) for a, b in pairwise(ends)]
