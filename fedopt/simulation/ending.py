"""How a run that has ended is judged, and what to change where it went wrong."""

from __future__ import annotations

from collections.abc import Mapping

from fedopt.protocol import Finished
from fedopt.scenario import Scenario
from fedopt.server.state import ServerState

_FEW = 10  # steps


def judged(ended: Finished, counts: Mapping[str, int], scenario: Scenario) -> Finished:
    """How the run ended: ``diverged`` if it came to its end but no reply was ever usable, because of NaN or infinity.

    Steps without replies are steps (empty cohorts, lost messages), so such a run gets where it was meant to end; but
    nothing a client computed ever reached the model.

    Args:
        ended: why the driver stopped.
        counts: tasks ``admitted``, ``lost`` (failed ones among them), and ``not_finite``.
        scenario: of the run, for what to change.
    """
    if counts["admitted"] or not counts["not_finite"] or ended.status in ("diverged", "failed"):
        return ended
    remedy = f"lower {_step_sizes(scenario)[0]}"
    if scenario.data.is_function:
        remedy = f"see what the functions return at the start, or {remedy}"
    reason = (
        f"0 replies were usable: {counts['not_finite']} of {counts['lost']} client tasks gave NaN or infinite values, "
        f"so the model learned nothing; {remedy} ({ended.reason})"
    )
    return Finished("diverged", reason)


def why_diverged(scenario: Scenario, step: int, model_is_finite: bool) -> str:
    """Why a run stops after a step whose model, or whose evaluation, is not finite."""
    remedy = f"lower {' or '.join(_step_sizes(scenario))}"
    if not model_is_finite:
        return f"the model is NaN or infinite after step {step}; {remedy}"
    if scenario.data.is_function:
        remedy = f"let the functions return numbers wherever they are asked, or {remedy}"
        return f"the value of the model after step {step} is NaN or infinite, the model itself is not; {remedy}"
    return f"the test loss of the model after step {step} is NaN or infinite; {remedy}"


def standing_still(scenario: Scenario, moved: bool, state: ServerState) -> str | None:
    """The warning that values were asked for in vain: not one step moved the model.

    Args:
        scenario: of the run.
        moved: whether the model is anywhere else than at its start.
        state: of the server; methods with gradients ask for no values, and the first few steps may all have been ties.
    """
    if moved or not state.queries or (state.step < _FEW and state.step != scenario.run.server_steps):
        return None
    option = next((name for name in ("radius", "box") if hasattr(scenario.client, name)), "radius")
    return (
        f"the model is still where it started: where a function is flat within client.{option} (a metric that moves by "
        f"whole predictions, rounded values) every estimate is zero; raise client.{option}"
    )


def _step_sizes(scenario: Scenario) -> list[str]:
    """Options that say how long a step is, those of the clients' own steps first."""
    method = getattr(scenario.aggregator, "inner", scenario.aggregator)
    server = "aggregator." if method is scenario.aggregator else "aggregator.inner."
    optimizer = getattr(scenario.client, "optimizer", None)
    options = [
        (scenario.client, "client.", "lr"),
        (optimizer, "client.optimizer.", "learning_rate"),
        (method, server, "step_size"),
        (method, server, "server_lr"),
    ]
    return [where + option for part, where, option in options if hasattr(part, option)] or ["the length of steps"]
