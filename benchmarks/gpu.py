"""What a GPU makes of the engine, in one command: ``python benchmarks/gpu.py`` (``make bench-gpu``).

cifar      the CIFAR-10 workload of pfl-research: 1,000 clients x 50 images, 50 a round, 1,500 rounds, one epoch of
           batches of 10, rate 0.1, evaluation every 10 rounds; target 60 s, aim 25 s. ``--cifar FOLDER`` names the
           data; without it random images of the same shape are used and the results say so (accuracy then says
           nothing of CIFAR-10)
workloads  W1 to W5 of ``workloads.py``, cohorts of 50, 500 and 5,000 (drawn with repeats), in float32, TF32 and
           bfloat16 (of convolutions, so of W1 only): client updates per second, peak memory of the device, and the
           shares of two measured ceilings: operations of a large product of that dtype, and bytes of a large copy

``--trial`` runs all of it in seconds with small sizes, on any machine. Without a GPU the CPU is measured, and the
results say that too. Results: ``benchmarks/results/gpu-<date>.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders._torch_models import build as build_model
from run import _cpu_name
from torch.utils.flop_counter import FlopCounterMode
from workloads import BATCH_SIZE, CLIPPING_NORM, LR, MODELS, NOISE_MULTIPLIER, PRIVACY, TITLES, make_bundle

from fedopt.data.base import ClientIndex, Examples, FederatedData
from fedopt.engine.base import Cohort, ExampleClipping, LocalRule
from fedopt.engine.engine import CohortEngine
from fedopt.models.base import Model
from fedopt.types import Message, Task

HERE = Path(__file__).resolve().parent
COHORTS, DTYPES = (50, 500, 5_000), ("float32", "tf32", "bfloat16")
CIFAR = {"clients": 1_000, "images": 50, "cohort": 50, "rounds": 1_500, "evaluate_every": 10}
TRIAL = {"clients": 20, "images": 10, "cohort": 4, "rounds": 3, "evaluate_every": 3}


class Chosen(Model):
    """A workload's model."""

    name: str

    def build(self, task: Task) -> torch.nn.Module:
        """As the plain loop builds it."""
        return build_model(self.name, 0)


def synchronised(device: torch.device) -> float:
    """Seconds now, when the device has done everything asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of every repeat, after one that does not count."""
    call()
    found = []
    for _ in range(repeats):
        before = synchronised(device)
        call()
        found.append(synchronised(device) - before)
    return found


def ceilings(device: torch.device, trial: bool) -> dict[str, float]:
    """Operations per second of a large product in every dtype, and bytes per second of a large copy."""
    size = 256 if trial else 8192 if device.type == "cuda" else 1024
    found: dict[str, float] = {}
    for dtype in DTYPES:
        torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
        kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        found[dtype] = 2 * size**3 / statistics.median(timed(lambda a=a, b=b: a @ b, device, 5))
    values = torch.randn(size * size, device=device)
    target = torch.empty_like(values)
    found["copy"] = 2 * values.nbytes / statistics.median(timed(lambda: target.copy_(values), device, 5))
    return found


# ---- CIFAR-10 of pfl-research --------------------------------------------------------------------------------------


def images(folder: Path | None, sizes: dict[str, int]) -> FederatedData:
    """CIFAR-10 split in order, or images of its shape: a class centre and noise."""
    count, source, classes = sizes["clients"] * sizes["images"], "random images of the shape of CIFAR-10", 10
    if folder is not None:
        from fedopt.data.cifar import Cifar

        loaded = Cifar(clients=sizes["clients"], path=str(folder)).load(0)
        train, test, source = loaded.train, loaded.test, "CIFAR-10"
    else:
        draw = np.random.default_rng(0)
        centres = draw.normal(size=(classes, 3, 32, 32)).astype(np.float32)
        made = []
        for number in (count, min(count, 10_000)):
            labels = draw.integers(0, classes, number)
            noise = draw.standard_normal((number, 3, 32, 32), dtype=np.float32)
            made.append(Examples(0.2 * centres[labels] + noise, labels))
        train, test = made
    owned = np.random.default_rng(1).permutation(len(train))[:count].reshape(sizes["clients"], -1)
    clients = ClientIndex.from_lists(list(owned))
    return FederatedData(Task("classification", (3, 32, 32), classes), train, test, clients, source={"name": source})


def cifar(device: torch.device, folder: Path | None, dtype: str, trial: bool) -> dict[str, Any]:
    """A whole run, log and evaluations included, from the first round to the end."""
    from fedopt.scenario import from_mapping
    from fedopt.simulation.session import Session

    sizes = TRIAL if trial else CIFAR
    data = images(folder, sizes)
    rounds = sizes["rounds"]
    wanted = from_mapping(
        {
            "name": "pfl-cifar10",
            "data": {"kind": "digits", "clients": sizes["clients"]},  # the data is handed over
            "model": {"kind": "pfl_cnn"},
            "client": {"kind": "sgd", "lr": 0.1, "batch_size": 10, "epochs": 1},
            "sampling": {"kind": "fixed", "cohort_size": sizes["cohort"]},
            "aggregator": {"kind": "fedavg"},
            "run": {
                "server_steps": rounds,
                "evaluate_every": sizes["evaluate_every"],
                "checkpoint_every": rounds,
                "evaluate_clients": "none",
            },
            "engine": {"device": device.type, "dtype": dtype, "memory_gib": 4.0},
        }
    )
    with tempfile.TemporaryDirectory() as out:
        summary = Session(wanted, Path(out) / "run", quiet=True, data=data).run()
    return {
        "source": data.source["name"],
        "dtype": dtype,
        "rounds": rounds,
        "seconds": summary["wall_s"],
        "clients_per_s": summary["clients_per_second"],
        "formulation": summary["formulation"],
        "accuracy": summary["final_metric"],
        "peak_bytes": summary["peak_device_memory_bytes"],
    }


# ---- W1 to W5 ------------------------------------------------------------------------------------------------------


class Workload:
    """One workload on one device: rounds of uniform FedAvg, as the CPU benchmark does them."""

    def __init__(self, name: str, bundle: Any, device: torch.device, dtype: str, formulation: str):
        self.privacy = PRIVACY.get(name)
        data = FederatedData(
            Task("classification", (1, 28, 28), 10),
            Examples(bundle.inputs, bundle.targets),
            Examples(bundle.test_inputs, bundle.test_targets),
            ClientIndex(bundle.offsets, bundle.indices),
        )
        self.engine = CohortEngine(Chosen(name=MODELS[name]), data, device, formulation=formulation, dtype=dtype)
        clipping = ExampleClipping(CLIPPING_NORM, NOISE_MULTIPLIER * CLIPPING_NORM)
        self.clipping = clipping if self.privacy == "example" else None
        self.params, self.version = self.engine.initial_parameters(), 0
        self.sizes = data.clients.sizes()

    def round(self, clients: np.ndarray) -> None:
        """Train a cohort (clients may repeat: each row is a task of its own) and move the model."""
        steps = tuple(int(-(-self.sizes[client] // BATCH_SIZE)) for client in clients)
        tasks = tuple(self.version * len(clients) + row for row in range(len(clients)))
        message = Message({"params": self.params})
        cohort = Cohort(tuple(clients.tolist()), tasks, (message,) * len(clients), steps, 0)
        plan = self.engine.plan_batches(cohort, BATCH_SIZE)
        self.rule = LocalRule(torch.full(plan.counts.shape, LR), example_clipping=self.clipping)
        updates = self.engine.train(cohort, self.rule, plan).updates
        weights = torch.ones(len(clients))
        if self.privacy == "client":
            weights = (CLIPPING_NORM / updates.norms()).clamp(max=1.0)
        total = updates.weighted_sum(weights)
        if self.privacy == "client":
            total += NOISE_MULTIPLIER * CLIPPING_NORM * torch.randn_like(total)
        self.params, self.version = self.params + total / len(clients), self.version + 1


def operations_per_example(name: str) -> float:
    """Forward and backward operations of the plain model on one example (two per multiply-add)."""
    model = build_model(MODELS[name], 0)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 28, 28)).sum().backward()
    return float(counter.get_total_flops())


@lru_cache
def _bundle(few: bool) -> Any:
    return make_bundle(1, 20 if few else 1_000, 10, examples=200 if few else None)


def workload(name: str, size: int, device: torch.device, dtype: str, limits: dict[str, float], options: Any) -> Any:
    """One line of the table."""
    bundle = _bundle(options.trial)
    busy = np.flatnonzero(np.diff(bundle.offsets) > 0)
    draw = np.random.default_rng(2)
    cohorts = [draw.choice(busy, size) for _ in range(options.rounds + 1)]
    case = Workload(name, bundle, device, dtype, options.formulation)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, examples = [], []
    for number, clients in enumerate(cohorts):
        before = synchronised(device)
        case.round(clients)
        if number:
            seconds.append(synchronised(device) - before)
            examples.append(int(case.sizes[clients].sum()))
    rate = statistics.median(e / s for e, s in zip(examples, seconds, strict=True))
    return {
        "workload": name,
        "cohort": size,
        "dtype": dtype,
        "formulation": case.engine.formulation_for(case.rule).name,
        "clients_per_s": statistics.median(size / s for s in seconds),
        "clients_per_s_range": [size / max(seconds), size / min(seconds)],
        "share_of_product": rate * operations_per_example(name) / limits[dtype],
        "share_of_copy": rate / BATCH_SIZE * 5 * 4 * case.engine.spec.size / limits["copy"],
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "accuracy": float(case.engine.evaluate(case.params)["accuracy"]),
    }


# ---- results -------------------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    limits = results["ceilings"]
    lines = [
        f"# GPU, {results['date']}",
        "",
        f"{results['device']}, PyTorch {results['torch']}, Python {results['python']}{results['note']}. Ceilings "
        f"measured beside: products {', '.join(f'{d} {limits[d] / 1e12:.2f}' for d in DTYPES)} TFLOP/s, copy "
        f"{limits['copy'] / 1e9:.0f} GB/s.",
        "",
        "## pfl-research CIFAR-10 workload",
        "",
        "| data | dtype | rounds | seconds | clients/s | formulation | accuracy | peak GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in results["cifar"]:
        lines.append(
            f"| {each['source']} | {each['dtype']} | {each['rounds']:,} | {each['seconds']:.1f} "
            f"| {each['clients_per_s']:.0f} | {each['formulation']} | {each['accuracy']:.3f} | {_gib(each)} |"
        )
    lines += ["", "## W1 to W5", ""]
    lines += [
        "The share of the copy counts the bytes a plain loop moves (five passes over the parameters a step); above 1 "
        "means the formulation does not move them.",
        "",
        "| workload | cohort | dtype | formulation | clients/s | range | of product | of copy | peak GiB | accuracy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in sorted(results["workloads"], key=lambda line: (line["workload"], line["cohort"])):
        if "error" in each:
            lines.append(f"| {each['workload']} | {each['cohort']} | {each['dtype']} | {each['error']} | | | | | | |")
            continue
        low, high = each["clients_per_s_range"]
        lines.append(
            f"| {each['workload']} | {each['cohort']:,} | {each['dtype']} | {each['formulation']} "
            f"| {each['clients_per_s']:.0f} | {low:.0f} to {high:.0f} | {each['share_of_product']:.3f} "
            f"| {each['share_of_copy']:.3f} | {_gib(each)} | {each['accuracy']:.3f} |"
        )
    lines += ["", *(f"- {name}: {title}" for name, title in TITLES.items())]
    return "\n".join(lines) + "\n"


def _gib(each: dict[str, Any]) -> str:
    return "" if each["peak_bytes"] is None else f"{each['peak_bytes'] / 2**30:.2f}"


def _attempt(call: Callable[[], dict[str, Any]], name: dict[str, Any]) -> dict[str, Any]:
    """One line, or what went wrong on it: a table with a gap is worth more than none."""
    try:
        found = call()
    except (RuntimeError, ValueError) as error:
        return {**name, "error": f"not run: {str(error).splitlines()[0][:120]}"}
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cifar", type=Path, default=None, help="folder with CIFAR-10 (python or binary batches)")
    parser.add_argument("--workloads", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--cohorts", nargs="+", type=int, default=None)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--formulation", default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of every line, after one untimed")
    parser.add_argument("--minutes", type=float, help="begin no further line of W1 to W5 after this long")
    parser.add_argument("--trial", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    device = torch.device(options.device)
    limits = ceilings(device, options.trial)
    found: dict[str, Any] = {"cifar": [], "workloads": []}
    started = time.perf_counter()
    for dtype in options.dtypes:
        found["cifar"].append(cifar(device, options.cifar, dtype, options.trial))
        print(json.dumps(found["cifar"][-1]), flush=True)
    sizes = options.cohorts or ((4,) if options.trial else COHORTS)
    for size, dtype, name in product(sizes, options.dtypes, options.workloads):
        if dtype == "bfloat16" and MODELS[name] != "cnn":
            continue
        if options.minutes is not None and time.perf_counter() - started > 60 * options.minutes:
            break
        line = {"workload": name, "cohort": size, "dtype": dtype}
        made = _attempt(lambda n=name, s=size, d=dtype: workload(n, s, device, d, limits, options), line)
        found["workloads"].append(made)
    date = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
    cuda = device.type == "cuda"
    results = {
        "date": date,
        "device": torch.cuda.get_device_name(device) if cuda else f"{_cpu_name()}, {os.cpu_count()} cores",
        "note": "" if cuda else ", NO GPU: these are figures of the CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "trial": options.trial,
        "ceilings": limits,
        **found,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"gpu-{date}.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / f"gpu-{date}.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
