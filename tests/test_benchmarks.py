"""The benchmarks run, on sizes of a second; what they measure is asserted nowhere."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """``script(name)`` imports a benchmark as if it was started."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)

    def imported(name):
        return __import__(name)

    yield imported
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(BENCHMARKS) in sys.modules[name].__file__:
            del sys.modules[name]


def test_gpu_benchmark_writes_its_tables_on_a_cpu(script, tmp_path, monkeypatch, capsys):
    arguments = [
        "--trial",
        "--device",
        "cpu",
        "--workloads",
        "W2",
        "W4",
        "--dtypes",
        "float32",
        "tf32",
        "--rounds",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--out", str(tmp_path)])
    script("gpu").main()
    (result,), (page,) = tmp_path.glob("gpu-*.json"), tmp_path.glob("gpu-*.md")
    found = json.loads(result.read_text())
    lines = [(each["workload"], each["dtype"]) for each in found["workloads"] if each["clients_per_s"] > 0]
    assert sorted(lines) == [("W2", "float32"), ("W2", "tf32"), ("W4", "float32"), ("W4", "tf32")]
    assert [each["rounds"] for each in found["cifar"]] == [3, 3]  # one a dtype
    text = page.read_text()
    assert "NO GPU" in text and "random images of the shape of CIFAR-10" in text


def test_scale_benchmark_fits_exponents(script, tmp_path):
    scale = script("scale")
    points = [{"size": s, **scale.summarise([scale.point("cohort", s, 20)])} for s in (4, 8)]
    assert all(each["updates"] >= 20 and each["event_us"] > 0 for each in points)
    results = {
        "date": "now",
        "machine": {"cpu": "x", "cores": 2, "python": "3"},
        "repeats": 1,
        "axes": {"cohort": points},
    }
    text = scale.table({**results, "load_before": (0.0,), "load_after": (0.0,)})
    assert "Exponents: total" in text
    scale.figure(results, tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").stat().st_size > 1000
    assert scale.exponent([10, 100, 1000], [3.0, 300.0, 30000.0]) == pytest.approx(2.0)
