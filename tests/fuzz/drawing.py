"""Scenarios at random: any parts, any settings; small enough to run in a second.

``draw(seed)`` gives one mapping, as a YAML file would hold it. Parts are chosen so that a good share of the
scenarios is accepted; nothing guarantees it, and a refusal is a result too.
"""

from __future__ import annotations

from typing import Any, cast, get_args

from fuzz.dice import Dice

from fedopt.aggregators.base import Method
from fedopt.clients.base import ClientWork
from fedopt.components import component, names
from fedopt.privacy.base import Mechanism
from fedopt.scenario import EngineSettings

GRADIENT_DATA = ("digits", "tabular_sklearn", "synthetic", "quadratics")
BLACK_BOXES = ("fzoos_quadratics", "quadratics", "model_metric", "image_attack", "user_function")
STREAMS = (
    "async_fedavg", "buffered_scaffold", "ca2fl", "delayed_nesterov", "fadas", "fedasync", "fedbuff", "fedfix",
)  # fmt: skip
RELEASABLE = (
    *STREAMS[:1], *STREAMS[3:], "accelerated_gradient", "decomfl", "diff2", "fedadagrad", "fedadam", "fedavg", "fedavg",
    "fedavgm", "fednova", "fedyogi", "feedsign", "minibatch_sgd", "scaffold",
)  # fmt: skip


def bowl(client: int, point: Any) -> float:
    """A convex function whose minimum differs between clients (``user_function``)."""
    return float(((point - 0.1 * client) ** 2).sum())


def draw(seed: int, outside: float = 0.0) -> dict[str, Any]:
    """One scenario as a mapping.

    Args:
        seed: which one.
        outside: probability that an option has a value that is likely not allowed.
    """
    dice = Dice(seed, option=(0.1, 0.3, 0.5)[seed % 3], outside=outside)
    is_private = dice.chance(0.45)
    aggregator = dice.part("fedopt.aggregators", RELEASABLE if is_private and dice.chance(0.95) else None)
    client = dice.part("fedopt.clients", _fitting(aggregator, is_private) if dice.chance(0.98) else None)
    if client["kind"] == "fedkseed":
        client["steps"] = dice.choice([1, 2, 5])
    elif client.get("steps") is not None and dice.chance(0.95):
        client.pop("epochs", None)
    privacy = _privacy(dice, aggregator, client) if is_private else None
    body: dict[str, Any] = {
        "name": "fuzz",
        "seed": dice.choice([0, 1, 2**31, 12345]),
        **_problem(dice, client["kind"]),
        "client": client,
        "aggregator": aggregator,
        "sampling": _sampling(dice, aggregator["kind"]),
        "run": _run(dice),
        "engine": {"device": "cpu", **_engine(dice)},
    }
    if dice.chance(0.75):
        body["devices"] = _devices(dice, bare=privacy is not None and dice.chance(0.7))
    if "server_steps" not in body["run"] and dice.chance(0.9):  # else time may pass very slowly
        body.setdefault("devices", {})["compute"] = {"kind": "constant", "seconds": [0.3]}
    wanted, clients = body["sampling"].get("cohort_size"), body["data"]["clients"]
    if isinstance(wanted, (int, float)) and isinstance(clients, int) and dice.chance(0.95):
        body["sampling"]["cohort_size"] = min(wanted, clients)
    if privacy is not None:
        body["privacy"] = privacy
        _arrange(dice, body)
    return body


def _arrange(dice: Dice, body: dict[str, Any]) -> None:
    """What privacy asks of the rest, more often than not."""
    data, aggregator, privacy = body["data"], body["aggregator"], body["privacy"]
    if "staleness" in component("fedopt.aggregators", aggregator["kind"]).model_fields and dice.chance(0.7):
        aggregator["staleness"] = {"kind": "constant"}
    if "public" in component("fedopt.data", data["kind"]).model_fields and dice.chance(0.8):
        data["public"] = ["num_examples"]
        if data["kind"] == "tabular_sklearn":
            data["public"].append("feature_statistics")
    fixed = {"fedasync": {}, "fednova": {"tau_effective": 2.0}, "fadas": {"staleness_limit": None}}
    if dice.chance(0.9):
        aggregator.update(fixed.get(aggregator["kind"], {}))
    if privacy["trust"] == "shuffle" and dice.chance(0.9):
        privacy["mechanism"]["minimum_clients"] = 1
    if body["sampling"]["kind"] != "poisson" and dice.chance(0.8):
        privacy.pop("hypothetical_population", None)
        if privacy["relation"] == "add_or_remove_one" and privacy["unit"] == "client":
            privacy["relation"] = "zero_out_one"
    if body["sampling"]["kind"] == "poisson" and dice.chance(0.8):
        privacy.pop("max_participations", None)


def _fitting(aggregator: dict[str, Any], is_private: bool) -> list[str]:
    """Kinds of client work that send what the aggregator takes, as far as its defaults say."""
    if aggregator["kind"] == "safeguard":
        return ["finite_difference", "fzoos"]
    method = cast(Method, component("fedopt.aggregators", aggregator["kind"])())
    wanted, carried = set(method.reply_parts()), set(method.message_parts())
    works = {kind: cast(type[ClientWork], component("fedopt.clients", kind)) for kind in names("fedopt.clients")}
    unfit = set() if is_private else {"dp_sgd", "dp_spsa"}
    return [
        kind
        for kind, work in works.items()
        if wanted <= set(work.sends) and set(work.receives) <= carried and kind not in unfit
    ]


def _problem(dice: Dice, client: str) -> dict[str, Any]:
    """Data and a model that suit the client's work."""
    black_box = client in ("fzoos", "finite_difference") or (client in ("spsa", "fedkseed") and dice.chance(0.4))
    data = dice.part("fedopt.data", BLACK_BOXES if black_box else GRADIENT_DATA)
    if dice.chance(0.03):
        data = dice.part("fedopt.data", BLACK_BOXES + GRADIENT_DATA)
    kinds: tuple[str, ...] = ("logistic_regression", "mlp", "mlp")
    if data["kind"] in BLACK_BOXES:
        kinds = ("point",)
    elif data.get("name") == "diabetes":
        kinds = ("linear_regression", "mlp")
    if data["kind"] == "user_function":
        data.pop("vectorised", None)
    if data["kind"] == "image_attack":
        data["source"] = {"kind": "digits", "clients": 1}
    is_point = kinds == ("point",) and dice.chance(0.95)  # whose options mean nothing in a scenario
    model = {"kind": "point"} if is_point else dice.part("fedopt.models", kinds)
    return {"data": data, "model": model}


def _sampling(dice: Dice, aggregator: str) -> dict[str, Any]:
    kinds = ("all", "fixed", "uniform") if aggregator in STREAMS and dice.chance(0.9) else None
    chosen = dice.part("fedopt.sampling", kinds)
    if chosen["kind"] in ("all", "poisson") and dice.chance(0.9):
        chosen.pop("over_selection", None)
    if chosen["kind"] == "separated" and dice.chance(0.9):
        chosen.setdefault("cohort_size", 1)
    if chosen["kind"] == "poisson":
        chosen.pop("probability", None)
        chosen["cohort_size"] = dice.choice([0.2, 0.5, 1.0, 3.0])
        if dice.chance(0.5):
            chosen.pop("cohort_size")
            chosen["probability"] = dice.choice([0.01, 0.3, 1.0])
    return chosen


def _devices(dice: Dice, bare: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("compute", "network", "availability", "work"):
        if dice.chance(0.15 if bare else 0.5) or (name == "compute" and not bare):
            found[name] = dice.part(f"fedopt.devices.{name}")
    if dice.chance(0.3):
        found["dropout"] = dice.choice([0.0, 0.1, 0.5, 0.95])
        found["dropout_phase"] = dice.choice(["before", "during"])
    if dice.chance(0.2):
        found["interrupt"] = True
    return found


def _run(dice: Dice) -> dict[str, Any]:
    found: dict[str, Any] = {
        "evaluate_every": dice.choice([1, 2, 5]),
        "checkpoint_every": dice.choice([1, 1, 2]),
        "evaluate_clients": dice.choice(["none", "end"]),
    }
    if dice.chance(0.92):
        found["server_steps"] = dice.choice([0, 1, 2, 3, 4, 6])
    if dice.chance(0.2) or "server_steps" not in found:
        found["time_s"] = dice.choice([0.01, 0.5, 3.0])
    if dice.chance(0.1):
        found["target_metric"] = dice.choice([0.0, 0.3, 0.5, 1.0])
    return found


def _engine(dice: Dice) -> dict[str, Any]:
    found: dict[str, Any] = {
        "threads": dice.choice([1, 1, 2]),
        "chunk": dice.choice(["auto", 1, 2, 3]),
        "block": dice.choice(["auto", "auto", 1, 2]),
        "memory_gib": dice.choice([1.0, 1.0, 1e-9, 1e-6, 1e-5]),
    }
    if dice.chance(0.3):
        found["formulation"] = dice.choice(["loop", "vmap", "batched", "dual", "graphed"])
    if dice.chance(0.1):
        found["dtype"] = dice.choice(get_args(EngineSettings.model_fields["dtype"].annotation))
    return found


def _privacy(dice: Dice, aggregator: dict[str, Any], client: dict[str, Any]) -> dict[str, Any]:
    """A privacy section; what the mechanism asks of client and aggregator is arranged more often than not."""
    kind = dice.choice(k for k in names("fedopt.privacy.mechanisms"))
    if client["kind"] in ("dp_sgd", "dp_spsa"):
        kind = "dp_sgd"
    if aggregator["kind"] == "diff2":
        kind = "diff2"
    elif kind == "diff2":
        kind = "gaussian"
    made = cast(type[Mechanism], component("fedopt.privacy.mechanisms", kind))
    chosen = {"kind": kind, **dice.options(made)}
    if chosen.get("clipping") != "per_layer":
        chosen.pop("layer_norms", None)
    found: dict[str, Any] = {"mechanism": chosen}
    found["trust"], found["unit"] = dice.choice(made.trusts), dice.choice(made.units)
    found["relation"] = dice.choice(["add_or_remove_one", "zero_out_one", "zero_out_one", "replace_one"])
    if found["trust"] == "local":
        found["relation"] = "replace_one"
    found["delta"] = dice.choice([1e-5, 1e-5, 1e-2, 1e-12, 0.5])
    if dice.chance(0.3):
        found["accountant"] = "rdp"
    level = made.noise_settings[0]
    if dice.chance(0.35):
        found["target_epsilon"] = dice.choice([0.1, 1.0, 8.0, 50.0])
        for name in made.noise_settings:
            chosen.pop(name, None)
    elif chosen.get(level) is None:
        chosen[level] = dice.choice([0.3, 1.0, 2.0]) if level != "bits" else dice.choice([1, 100, 5000])
    if dice.chance(0.35):
        found["max_epsilon"] = dice.choice([0.1, 1.0, 5.0, 30.0])
    if dice.chance(0.9 if aggregator["kind"] in STREAMS else 0.3):
        found["max_participations"] = dice.choice([1, 2, 3])
    if dice.chance(0.1):
        found["hypothetical_population"] = dice.choice([1, 10, 1000])
    if kind == "dp_sgd" and aggregator["kind"] not in ("decomfl", "feedsign") and dice.chance(0.9):
        client.clear()
        client.update(dice.part("fedopt.clients", ("dp_sgd",)))
        if dice.chance(0.5):
            client.update({"sampling_probability": dice.choice([0.1, 0.5, 1.0]), "steps": 2})
            client.pop("epochs", None)
    if kind == "diff2" and dice.chance(0.9):
        found["trust"] = chosen.get("noise", "central")
    return found
