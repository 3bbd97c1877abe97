"""Tables of speeds from the samples that ``run.py`` has gathered: medians, quartiles, and ratios to the targets."""

from __future__ import annotations

import statistics
from typing import Any

from workloads import COHORT, TITLES

# (workload, what is compared, our contender, theirs: the best of these counts, times less that is wanted)
PEERS = ("plain", "pfl", "fedjax", "fedjax-2024")
TARGETS = [
    ("W1", "cpu_s", "ours", ("plain",), 1.3),
    ("W1", "cpu_s", "ours:auto-bf16", ("plain",), 2.0),
    ("W2", "cpu_s", "ours", PEERS, 3.0),
    ("W3", "cpu_s", "ours", ("fedjax", "fedjax-2024"), 2.0),
    ("W4", "cpu_s", "ours", PEERS, 3.0),
    ("W5", "cpu_s", "ours", ("plain",), 5.0),
    ("W2", "cpu_s", "ours", ("flower",), 20.0),
    ("W3", "cpu_s", "ours", ("flower",), 20.0),
    ("W4", "cpu_s", "ours", ("flower",), 20.0),
    ("W1", "wall_s", "ours@2", None, 1.8),
    ("W2", "wall_s", "ours@2", None, 5.0),
    ("W3", "wall_s", "ours@2", None, 3.0),
    ("W4", "wall_s", "ours@2", None, 5.0),
]


def summarise(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and quartiles over all samples of all repeats of one contender on one workload."""
    good = [sample for sample in samples if "error" not in sample]
    if not good:
        return {"error": samples[-1]["error"]}
    made: dict[str, Any] = {"repeats": len(good), "samples": sum(len(sample["cpu_s"]) for sample in good)}
    for name in ("cpu_s", "wall_s"):
        values = sorted(value for sample in good for value in sample[name])
        spread = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        made[name], made[f"{name}_quartiles"], made[f"{name}_least"] = spread[1], [spread[0], spread[2]], values[0]
    made["cpu_s_per_client_update"] = made["cpu_s"] / COHORT
    made["accuracy"] = statistics.median(sample["accuracy"] for sample in good)
    return {**made, "versions": good[-1]["versions"], "description": good[-1].get("description")}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown, least CPU first."""
    machine, pieces = results["machine"], results["pieces"]
    loads = sorted(load for piece in pieces for load in (piece["load_before"][0], piece["load_after"][0]))
    gathered = {w: {name: each for name, each in some.items() if each} for w, some in results["samples"].items()}
    found = {w: {name: summarise(each) for name, each in some.items()} for w, some in gathered.items() if some}
    lines = [
        f"# Speed, {results['date']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; load average {loads[0]:.1f} to "
        f"{loads[-1]:.1f} at the ends of the {len(pieces)} pieces of the measurement. Data: {results['source']}. Every "
        f"repeat is a fresh process with one round to warm up and up to {results['rounds']} timed rounds of {COHORT} "
        "clients; contenders take turns in a rotating order. Seconds are medians of a round, with quartiles, and the "
        "least; `@2` is two threads, everything else one. Ratios are to the plain loop, above 1 is less CPU.",
    ]
    for workload, some in sorted(found.items()):
        lines += ["", f"## {workload}: {TITLES[workload]}", ""]
        lines += ["| contender | CPU s | quartiles | least | per client update | ratio | wall s | quartiles | rounds"]
        lines[-1] += " | accuracy |"
        lines += ["|---|---|---|---|---|---|---|---|---|---|"]
        yardstick = some.get("plain", {}).get("cpu_s")
        ranked = sorted(some.items(), key=lambda item: item[1].get("cpu_s", float("inf")))
        lines += [_row(name, each, yardstick) for name, each in ranked]
    return "\n".join([*lines, "", *targets(found), "", *versions(found)]) + "\n"


def _row(name: str, each: dict[str, Any], yardstick: float | None) -> str:
    if "error" in each:
        return f"| {name} | not run: {each['error']} | | | | | | | | |"
    ratio = f"{yardstick / each['cpu_s']:.2f}" if yardstick else ""
    (low, high), (wall_low, wall_high) = each["cpu_s_quartiles"], each["wall_s_quartiles"]
    return (
        f"| {name} | {each['cpu_s']:.4f} | {low:.4f} to {high:.4f} | {each['cpu_s_least']:.4f} "
        f"| {each['cpu_s_per_client_update']:.6f} | {ratio} | {each['wall_s']:.4f} | {wall_low:.4f} to {wall_high:.4f} "
        f"| {each['samples']} | {each['accuracy']:.4f} |"
    )


def targets(found: dict[str, dict[str, Any]]) -> list[str]:
    """Measured ratios beside the wanted ones."""
    lines = ["## Targets", "", "| workload | seconds of a round | ours | best of the others | ratio | wanted | |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for workload, what, mine, theirs, wanted in TARGETS:
        some = {name: each for name, each in found.get(workload, {}).items() if "error" not in each}
        others = [n for n in some if not n.startswith("ours") and (theirs is None or n in theirs)]
        # Wall time is a matter of the best configuration, on both sides: one thread or two.
        own = [name for name in {mine, mine.partition("@")[0]} if name in some] if what == "wall_s" else [mine]
        mine = min((name for name in own if name in some), key=lambda name: some[name][what], default="")
        if not mine or not others:
            continue
        best = min(others, key=lambda name: some[name][what])
        ratio = some[best][what] / some[mine][what]
        lines.append(
            f"| {workload} | {'CPU' if what == 'cpu_s' else 'wall'} | {mine} {some[mine][what]:.4f} "
            f"| {best} {some[best][what]:.4f} | {ratio:.2f} | {wanted} | {'met' if ratio >= wanted else 'missed'} |"
        )
    return lines


def versions(found: dict[str, dict[str, Any]]) -> list[str]:
    """What ran."""
    seen = {}
    for some in found.values():
        for name, each in some.items():
            if "error" not in each:
                seen[name.partition("@")[0].partition(":")[0]] = each["versions"]
    return [
        "Versions: " + "; ".join(f"{name}: {', '.join(map(' '.join, v.items()))}" for name, v in seen.items()) + "."
    ]
