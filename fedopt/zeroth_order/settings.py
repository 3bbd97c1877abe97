"""Settings of the zeroth-order methods: plain numbers, no torch, so that scenarios can embed them.

`FzoosSettings` and `FiniteDifferenceSettings` name every choice in which the paper and its reference program
differ, because results depend on them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedopt.components import Section


class LocalOptimizer(Section):
    """First-order rule that consumes the gradient estimates; its state is new in every round."""

    rule: Literal["sgd", "sign", "adam"] = Field("adam", description="sgd, elementwise sign, or adam")
    learning_rate: float = Field(0.01, gt=0, description="step size in units of the optimised variable")
    momentum: float = Field(0.0, ge=0, lt=1, description="heavy-ball momentum of sgd (1)")
    beta1: float = Field(0.9, ge=0, lt=1, description="adam: decay of the first moment (1)")
    beta2: float = Field(0.999, ge=0, lt=1, description="adam: decay of the second moment (1)")
    epsilon: float = Field(1e-8, gt=0, description="adam: added to the root of the second moment")


class GammaRule(Section):
    """Length of the gradient correction at local step t = 1..T.

    ``inverse_step`` 1/t (the paper's experiments; can stall under extreme heterogeneity), ``constant``,
    ``bound_minimiser`` (Corollary 1) or ``oracle`` (Proposition 1; needs the true global gradient: a diagnostic).
    """

    rule: Literal["inverse_step", "constant", "bound_minimiser", "oracle"] = Field(
        "inverse_step", description="how the correction length is chosen"
    )
    value: float = Field(1.0, ge=0, description="constant: the correction length (1)")
    heterogeneity: float = Field(1.0, ge=0, description="bound_minimiser: G, mean squared gradient dissimilarity")
    contraction: float = Field(1.0, gt=0, le=1, description="bound_minimiser: rho, decay of the uncertainty per step")
    confidence: float = Field(
        0.05, gt=0, lt=1, description="bound_minimiser: delta in omega = d + 2(sqrt d + 1) ln 1/delta"
    )
    feature_error: float | None = Field(
        None, ge=0, description="bound_minimiser: error of the random features; default 1 / number of features"
    )


class FzoosSettings(Section):
    """FZooS: trajectory-informed surrogate gradients with a correction by shared random features."""

    local_steps: int = Field(10, ge=1, description="T, local iterations per round")
    optimizer: LocalOptimizer = Field(LocalOptimizer.model_validate({}), description="local optimiser")
    gamma: GammaRule = Field(GammaRule.model_validate({}), description="length of the gradient correction")
    kernel: Literal["squared_exponential", "matern52"] = Field(
        "squared_exponential", description="kernel of the local surrogate"
    )
    lengthscales: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
        strict=False,
        min_length=1,
        description="length scales of the local surrogate, in units of the scaled inputs; of several, each client "
        "takes the one of largest marginal likelihood at the start of every round",
    )
    ridge: float = Field(1e-6, gt=0, description="noise variance of the surrogate, in units of the scaled outputs")
    window: int | None = Field(
        150, ge=1, description="nearest logged points used by the surrogate; null: the whole log"
    )
    candidates: int = Field(100, ge=0, description="points drawn per local step for active queries")
    active_queries: int = Field(5, ge=0, description="most uncertain candidates queried per local step")
    box: float = Field(0.01, gt=0, description="half width of the box of candidates, in units of the scaled inputs")
    query_after_last_step: bool = Field(False, description="also query actively after local step T (program: no)")
    global_candidates: int = Field(200, ge=0, description="points drawn around the new global point")
    global_active_queries: int = Field(50, ge=0, description="queried around the new global point; 0: one round trip")
    uncertainty: Literal["trace", "first_partial", "random"] = Field(
        "trace",
        description="score of candidates: trace of the gradient covariance, variance of the first partial derivative "
        "(the reference program), or random (the ablation that program comes close to)",
    )
    features: int = Field(10_000, ge=1, description="M, random features; the second message has M floats")
    feature_lengthscale: float = Field(1.0, gt=0, description="length scale of the random features")
    feature_ridge: float = Field(1e-6, gt=0, description="ridge of the weight fit, in units of the scaled outputs")
    feature_window: int | None = Field(500, ge=1, description="points nearest to the global point; null: all")
    initial_queries: int = Field(10, ge=0, description="logged once, in the box around the start")
    project: bool = Field(True, description="keep iterates and queries in [0, 1]; the reference clips only inside f")

    @classmethod
    def reference(cls) -> FzoosSettings:
        """The authors' program where it differs from the paper: Matern kernel, no projection, first partial."""
        return cls.model_validate({"kernel": "matern52", "uncertainty": "first_partial", "project": False})

    @classmethod
    def paper(cls) -> FzoosSettings:
        """The paper's formulas: whole log, one length scale, no queries around the new global point."""
        changes = {
            "lengthscales": (1.0,),
            "window": None,
            "feature_window": None,
            "global_candidates": 0,
            "global_active_queries": 0,
            "query_after_last_step": True,
            "initial_queries": 0,
            "project": False,
        }
        return cls.model_validate(changes)

    def queries_per_round(self) -> int:
        """Function values one client asks for in a round: (1 + T + 5 (T - 1)) + (1 + 50) by default, 107."""
        return self.queries_of_local_phase(self.local_steps) + self.queries_around_global()

    def queries_of_local_phase(self, local_steps: int) -> int:
        """At the start, after every local step, and active ones."""
        active_steps = local_steps if self.query_after_last_step else max(0, local_steps - 1)
        return 1 + local_steps + self._active() * active_steps

    def queries_around_global(self) -> int:
        """At the new global point and around it, in the second exchange."""
        return 1 + min(self.global_active_queries, self.global_candidates)

    def queries_after_last_point(self) -> int:
        """Active queries that follow the query of x_{r,T}."""
        return self._active() if self.query_after_last_step else 0

    def _active(self) -> int:
        return min(self.active_queries, self.candidates)


class FiniteDifferenceSettings(Section):
    """FedZO, FedProx and SCAFFOLD with finite-difference gradients."""

    method: Literal["fedzo", "fedprox", "scaffold1", "scaffold2"] = Field(
        "fedzo", description="what is added to the local estimate"
    )
    local_steps: int = Field(10, ge=1, description="T, local iterations per round")
    optimizer: LocalOptimizer = Field(LocalOptimizer.model_validate({}), description="local optimiser")
    directions: Literal[
        "gaussian", "rademacher", "sphere", "orthogonal", "orthogonal_unscaled", "coordinate", "distinct_coordinates"
    ] = Field(
        "orthogonal",
        description="orthogonal_unscaled is the reference program's estimate, d times too small; harmless under adam "
        "alone, wrong beside a proximal term; distinct_coordinates measures so many partial derivatives and takes the "
        "others for zero (all of them with count = d)",
    )
    scheme: Literal["forward", "central", "one_point", "jvp"] = Field(
        "forward", description="finite differences, or jvp: exact directional derivatives (forward gradients)"
    )
    count: int = Field(20, ge=1, description="Q, directions per estimate")
    radius: float = Field(0.01, gt=0, description="lambda, smoothing radius in units of the optimised variable")
    proximal: float = Field(1.0, ge=0, description="fedprox: weight of the pull towards the round's start")
    project: bool = Field(True, description="keep iterates in [0, 1]; the reference clips only inside f")

    @model_validator(mode="after")
    def _directions_fit_the_scheme(self) -> FiniteDifferenceSettings:
        if self.scheme == "one_point" and self.directions in ("coordinate", "distinct_coordinates"):
            raise ValueError(
                f"scheme one_point needs directions of mean zero, which {self.directions} are not: f / radius would "
                "stay in the estimate; use scheme: central, or directions: rademacher"
            )
        return self

    @classmethod
    def reference(cls, method: Literal["fedzo", "fedprox", "scaffold1", "scaffold2"]) -> FiniteDifferenceSettings:
        """The authors' program: orthonormal directions without the factor d, no projection."""
        return cls.model_validate({"method": method, "directions": "orthogonal_unscaled", "project": False})

    def queries_per_estimate(self) -> int:
        """Q + 1 forward, 2 Q central, Q one-point and jvp."""
        counts = {"forward": self.count + 1, "central": 2 * self.count, "one_point": self.count, "jvp": self.count}
        return counts[self.scheme]

    def queries_per_round(self, count_control: bool = True, corrected: bool = True) -> int:
        """Function values one client asks for in a round: 1 + T (Q + 1) in the forward scheme.

        Args:
            count_control: count SCAFFOLD-I's estimate at the global point; the reference program does not.
            corrected: False in round 1, where there is no control estimate.
        """
        extra = self.queries_per_estimate() if self.method == "scaffold1" and count_control and corrected else 0
        return 1 + self.local_steps * self.queries_per_estimate() + extra
