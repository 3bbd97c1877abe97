"""Every model with every client work on real data, two rounds: a vectorised formulation equals the loop to 1e-5."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fedopt.components import build, names
from fedopt.data.base import ClientIndex, Examples, FederatedData
from fedopt.scenario import from_mapping
from fedopt.simulation.assembly import assemble
from fedopt.simulation.simulator import Simulator

DOCS = Path(__file__).resolve().parents[1] / "docs"
DATA: dict[str, dict[str, Any]] = {
    "images": {"kind": "digits", "clients": 20, "public": ["num_examples"]},
    "text": {"kind": "text_files", "path": "", "clients": 6, "sequence": 12, "public": ["num_examples"]},
    "numbers": {
        "kind": "tabular_sklearn",
        "name": "diabetes",
        "clients": 10,
        "public": ["num_examples", "feature_statistics"],
    },
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "logistic_regression": ("images", {}),
    "mlp": ("images", {"hidden": [16, 12]}),
    "linear_regression": ("numbers", {}),
    "leaf_cnn_femnist": ("images", {"dense": 8}),
    "leaf_cnn_celeba": ("images", {}),
    "fedavg_cnn": ("images", {"dense": 8}),
    "pfl_cnn": ("images", {"dense": 8}),
    "resnet_groupnorm": ("images", {"width": 4}),
    "char_lstm": ("text", {"hidden": 6, "embedding": 3}),
    "transformer": ("text", {"width": 8, "layers": 1, "heads": 2}),
    "user_module": ("images", {"factory": "test_models_and_client_work:Small"}),
}
EXAMPLE = {"unit": "example", "delta": 1e-5, "relation": "zero_out_one"}
WORKS: dict[str, dict[str, Any]] = {
    "sgd": {"client": {"kind": "sgd", "momentum": 0.5, "weight_decay": 0.01, "epochs": 1}},
    "proximal": {"client": {"kind": "proximal", "mu": 0.1, "steps": 3}},
    "scaffold": {"client": {"kind": "scaffold", "epochs": 1}, "aggregator": {"kind": "scaffold"}},
    "dp_sgd": {
        "client": {"kind": "dp_sgd", "steps": 3, "batch_size": 8},
        "privacy": {**EXAMPLE, "mechanism": {"kind": "dp_sgd", "clipping_norm": 0.5, "noise_multiplier": 1.0}},
    },
    "gradient_difference": {
        "client": {"kind": "gradient_difference"},
        "sampling": {"kind": "all"},
        "aggregator": {"kind": "diff2", "restart_every": 2, "server_lr": 0.1},
        "privacy": {
            **EXAMPLE,
            "relation": "replace_one",
            "mechanism": {
                "kind": "diff2",
                "clipping_norm": 0.5,
                "difference_clipping_norm": 0.5,
                "noise_multiplier": 1.0,
            },
        },
    },
}


class Small(torch.nn.Module):
    """A user's own network."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.out = torch.nn.Parameter(torch.ones(64)), torch.nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(torch.sin(inputs.flatten(1) * self.scale))


@cache
def few_examples(kind: str) -> FederatedData:
    """Five clients with up to 15 examples each: per-example gradients by the loop cost a pass per example."""
    settings: Any = build("fedopt.data", DATA[kind], ("data",), [])
    found = settings.load(seed=5)
    indices = [found.clients.of(client)[: 11 + client] for client in range(5)]
    test = Examples(found.test.inputs[:20], found.test.targets[:20])
    return replace(found, clients=ClientIndex.from_lists(indices), test=test, client_tests=None)


def trained(model: str, work: str, formulation: str) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Parameters before and after two rounds, and the formulation that was used."""
    data, settings = MODELS[model]
    body: dict[str, Any] = {
        "name": "pair",
        "seed": 5,
        "data": DATA[data],
        "model": {"kind": model, **settings},
        "sampling": {"kind": "fixed", "cohort_size": 3},
        "aggregator": {"kind": "fedavg"},
        **WORKS[work],
        "run": {"server_steps": 2},
        "engine": {"device": "cpu", "threads": 1, "formulation": formulation, "chunk": 100},
    }
    body["client"] = {"batch_size": 8, "lr": 0.05, **body["client"]}
    if work == "gradient_difference":
        body["client"] = WORKS[work]["client"]
    scenario = from_mapping(body)
    parts = assemble(scenario, few_examples(data))
    start = parts.engine.initial_parameters().clone()
    failures: list[str] = []
    simulator = Simulator(
        parts.server,
        parts.computation,
        parts.clock,
        parts.scenario.client.batch_size_of,
        lambda stepped, metrics: None,
        lambda row: None,
        failures.append,
    )
    assert simulator.run().status == "finished" and failures == []
    return start, parts.server.state.method.params, parts.engine.description()["formulation"]


@pytest.fixture(scope="module", autouse=True)
def text(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Real prose: this project's own pages, one client per page."""
    folder = tmp_path_factory.mktemp("text")
    for page in sorted(DOCS.glob("*.md"))[:6]:
        (folder / f"{page.stem}.txt").write_text(page.read_text())
    DATA["text"]["path"] = str(folder)


def test_every_kind_is_here() -> None:
    assert set(MODELS) == set(names("fedopt.models")) - {"point"}  # a point is not a network: tests/data has it
    first_order = {"sgd", "proximal", "scaffold", "dp_sgd", "gradient_difference"}
    assert set(WORKS) == first_order <= set(names("fedopt.clients"))


# Compiling vmap of the residual network takes the longest: one client work of it is enough for every day.
PAIRS = [
    pytest.param(model, work, marks=pytest.mark.slow if (model, work != "sgd") == ("resnet_groupnorm", True) else ())
    for model in MODELS
    for work in WORKS
]


@pytest.mark.parametrize(("model", "work"), PAIRS)
def test_two_rounds_vectorised_equal_the_loop(model: str, work: str) -> None:
    start, expected, used = trained(model, work, "loop")
    assert used == "loop" and not torch.equal(start, expected) and expected.isfinite().all()
    compared = 0
    for formulation in ("dual", "vmap"):
        found, used = trained(model, work, formulation)[1:]
        if used == formulation:  # else it does not apply to this model and fell back, which the run says
            compared += 1
            assert (found - expected).norm() <= 1e-5 * (expected - start).norm().clamp(min=expected.norm())
    assert compared >= 1
