"""Named checks of a mechanism's code path: each looks for one kind of privacy bug in what a run really does.

They run the scenario for a few steps with clients that send fixed vectors (or nothing), under several secrets, and
compare what comes out with what the ledger claims. Every statistical one raises a false alarm in far less than one
run in a thousand. A check that does not apply says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedopt.auditing.observe import Build
from fedopt.auditing.observe import build as _build
from fedopt.auditing.probe import Probe
from fedopt.scenario import Scenario


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Args:
        name: of the check.
        passed: None where it does not apply.
        detail: what was measured, or why it does not apply.
    """

    name: str
    passed: bool | None
    detail: str

    def verdict(self) -> str:
        """One word or two."""
        return {True: "passed", False: "FAILED", None: "not applicable"}[self.passed]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


Check = Callable[[Probe], tuple[bool | None, str]]


def run_checks(
    scenario: Scenario,
    build: Build = _build,
    seed: int = 0,
    names: Sequence[str] | None = None,
    data: Any = None,
) -> tuple[CheckResult, ...]:
    """All checks, or those named.

    Args:
        scenario: with a privacy section.
        build: assembles a run; tests plant bugs here.
        seed: of secrets and canaries.
        names: which checks.
        data: already loaded, or None.
    Raises:
        ValueError: an unknown name, or no privacy section.
    """
    known = all_checks()
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"unknown check {unknown[0]!r}; known: {', '.join(known)}")
    probe = Probe(scenario, build, seed, data)
    found = []
    for name in names or known:
        passed, detail = known[name](probe)
        found.append(CheckResult(name, passed, detail))
    return tuple(found)


def all_checks() -> dict[str, Check]:
    """Every check by name."""
    from fedopt.auditing import noise_checks, participation_checks, sensitivity_checks

    modules = (sensitivity_checks, noise_checks, participation_checks)
    return {name: check for module in modules for name, check in module.CHECKS.items()}
