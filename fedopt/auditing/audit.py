"""``fedopt audit``: claim, certified lower bounds and estimate of a scenario, and what to make of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedopt.auditing import certify, observe
from fedopt.auditing.attack import Attack, Scores
from fedopt.auditing.certify import Finding
from fedopt.auditing.checks import CheckResult, run_checks
from fedopt.auditing.observe import Build
from fedopt.auditing.settings import Audit
from fedopt.scenario import Scenario

DEFAULT_REPEATS = 200
ALARM_EXIT_CODE = 3


@dataclass(frozen=True)
class AuditResult:
    """What an audit found; certified bounds and the estimate are never mixed.

    Args:
        terms: what epsilon must be read with: unit, relation audited, trust, delta, accountant, mechanism ...
        claimed: epsilon of the audited run by the accountant.
        findings: every number, certified or estimate.
        checks: named checks, if they ran.
        canaries, server_steps: of the audit run.
    """

    terms: dict[str, Any]
    claimed: float
    findings: tuple[Finding, ...]
    checks: tuple[CheckResult, ...] = ()
    canaries: int = 0
    server_steps: int = 0

    @property
    def certified(self) -> float | None:
        """Largest certified lower bound, or None if no method gave one."""
        found = [f.epsilon for f in self.findings if f.kind == "certified" and f.epsilon is not None]
        return max(found, default=None)

    @property
    def estimate(self) -> float | None:
        """The estimate; it may exceed the truth."""
        return next((f.epsilon for f in self.findings if f.kind == "estimate"), None)

    @property
    def alarm(self) -> bool:
        """Whether a certified bound exceeds the claim, or a named check failed."""
        exceeded = self.certified is not None and self.certified > self.claimed
        return exceeded or any(check.passed is False for check in self.checks)

    def headline(self) -> str:
        """The three numbers in one line."""
        parts = [f"claimed {self.claimed:.1f}"]
        if self.certified is not None:
            parts.append(f"certified lower bound {self.certified:.1f}")
        if self.estimate is not None:
            parts.append(f"estimate {self.estimate:.1f}")
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and ``audit.json``."""
        return {
            "headline": self.headline(),
            "alarm": self.alarm,
            "claimed": _number(self.claimed),
            "certified": self.certified,
            "estimate": self.estimate,
            **self.terms,
            "canaries": self.canaries,
            "server_steps": self.server_steps,
            "findings": [finding.as_dict() for finding in self.findings],
            "checks": [check.as_dict() for check in self.checks],
        }

    def text(self) -> str:
        """For people."""
        terms = ", ".join(f"{key} {value}" for key, value in self.terms.items())
        lines = [self.headline(), f"  {terms}", f"  {self.canaries} canaries, {self.server_steps} server steps"]
        for finding in self.findings:
            value = "not applicable" if finding.epsilon is None else f"{finding.epsilon:.4f}"
            level = "" if finding.alpha is None else f" (wrong with probability at most {finding.alpha:g})"
            name = "certified lower bound" if finding.kind == "certified" else "estimate, not a bound"
            lines.append(f"  {finding.method}: {name} {value}{level}; {finding.detail}")
        lines += [f"  check {check.name}: {check.verdict()}; {check.detail}" for check in self.checks]
        if self.alarm:
            lines.append(f"ALARM: {self.reason()}")
        return "\n".join(lines)

    def reason(self) -> str:
        """Why there is an alarm."""
        failed = [check.name for check in self.checks if check.passed is False]
        found = []
        if self.certified is not None and self.certified > self.claimed:
            found.append(
                f"the certified lower bound {self.certified:.4f} exceeds the claimed epsilon {self.claimed:.4f}: "
                "the mechanism, the server or the accounting has a privacy bug"
            )
        if failed:
            found.append(f"failed checks: {', '.join(failed)}")
        return "; ".join(found)


def audit_scenario(
    scenario: Scenario, settings: Audit | None = None, build: Build = observe.build, seed: int | None = None
) -> AuditResult:
    """Audit the code path of a scenario by running it with canaries.

    Args:
        scenario: with a privacy section.
        settings: how; None for the scenario's ``audit`` section, or the defaults.
        build: assembles a run; tests plant bugs here.
        seed: of coins, directions and noise; None draws one from the operating system.
    Raises:
        ValueError: there is no privacy section, or nothing to audit.
    """
    settings = settings or scenario.audit or Audit()
    attack = Attack(scenario, settings.server_steps, build, seed)
    privacy = attack.scenario.privacy
    assert privacy is not None
    runs = settings.repeats or (DEFAULT_REPEATS if settings.method == "repeats" else 0)
    single = settings.method in ("all", "one_run", "one_shot")
    bounds = 2 * (settings.method in ("all", "one_run")) + (settings.method in ("all", "repeats") and runs > 0)
    alpha = settings.alpha / max(1, bounds)  # several certified bounds in one report share the failure probability
    findings: list[Finding] = []
    scores = attack.run(0, settings.canaries) if single else None
    if scores is not None:
        findings += _of_one_run(scores, settings.method, alpha, privacy.delta)
    claimed = 0.0 if scores is None else scores.claimed
    steps, canaries = (0, 0) if scores is None else (scores.steps, len(scores.scores))
    if settings.method in ("all", "repeats") and runs > 0:
        made = [attack.run(1 + i, 1, alone=True) for i in range(runs)]
        joined, coins = np.array([s.scores[0] for s in made]), np.array([s.present[0] for s in made])
        findings.append(certify.repeats(joined, coins, alpha, privacy.delta))
        claimed, steps = max(claimed, *(s.claimed for s in made)), max(steps, made[0].steps)
        canaries = canaries or 1
    checks: Sequence[CheckResult] = run_checks(attack.planned, build, attack.secret) if settings.checks else ()
    return AuditResult(_terms(scenario, settings), claimed, tuple(findings), tuple(checks), canaries, steps)


def _of_one_run(scores: Scores, method: str, alpha: float, delta: float) -> list[Finding]:
    found: list[Finding] = []
    if method in ("all", "one_run"):
        found += certify.one_run(scores.scores, scores.present, scores.claimed, alpha, delta, scores.gaussian)
    if method in ("all", "one_shot"):
        found.append(certify.one_shot(scores.seen, scores.unseen, delta))
    return found


def _terms(scenario: Scenario, settings: Audit) -> dict[str, Any]:
    privacy = scenario.privacy
    assert privacy is not None
    return {
        "unit": privacy.unit,
        "relation": observe.audited_relation(privacy.relation),
        "trust": privacy.trust,
        "delta": privacy.delta,
        "epsilon_accountant": privacy.accountant,
        "mechanism": privacy.mechanism.kind(),
        "alpha": settings.alpha,
    }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def audit_into(
    directory: Path, scenario: Scenario, settings: Audit | None = None, seed: int | None = None
) -> AuditResult:
    """Audit the scenario of a run directory; write ``audit.json`` there and the report again.

    Raises:
        ValueError: there is no privacy section.
    """
    from fedopt.report import write_report

    result = audit_scenario(scenario, settings, seed=seed)
    write_audit(directory, result)
    if (directory / "summary.json").exists():
        write_report(directory)
    return result


def write_audit(directory: Path, result: AuditResult) -> None:
    """``audit.json`` of a run directory."""
    from fedopt.runlog import write_atomically

    write_atomically(directory / "audit.json", json.dumps(result.as_dict(), indent=2) + "\n")
