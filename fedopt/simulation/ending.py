"""How a run that has ended is judged."""

from __future__ import annotations

from collections.abc import Mapping

from fedopt.protocol import Finished


def judged(ended: Finished, counts: Mapping[str, int]) -> Finished:
    """How the run ended: ``diverged`` if it came to its end but no reply was ever usable, because of NaN or infinity.

    Steps without replies are steps (empty cohorts, lost messages), so such a run gets where it was meant to end; but
    nothing a client computed ever reached the model.

    Args:
        ended: why the driver stopped.
        counts: tasks ``admitted``, ``lost`` (failed ones among them), and ``not_finite``.

    >>> judged(Finished("finished", "all steps"), {"admitted": 0, "lost": 9, "not_finite": 8})[0]
    'diverged'
    >>> judged(Finished("finished", "all steps"), {"admitted": 0, "lost": 9, "not_finite": 0})[0]
    'finished'
    """
    if counts["admitted"] or not counts["not_finite"] or ended.status in ("diverged", "failed"):
        return ended
    reason = (
        f"0 replies were usable: {counts['not_finite']} of {counts['lost']} client tasks gave NaN or infinite values, "
        f"so the model learned nothing; lower client.lr ({ended.reason})"
    )
    return Finished("diverged", reason)
