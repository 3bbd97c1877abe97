"""The code of a user's own that a run rests on: found, hashed, and never taken for what it was before."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import fedopt
from fedopt import own_sources
from fedopt.comparison import compare, splits
from fedopt.scenario import from_mapping
from fedopt.verify import verify
from scenarios import mapping

FILES = {
    "own_bowl.py": "import numpy\nimport own_pack.deep\nfrom own_shared import value\n\ndef f(client, point):\n"
    "    return value(point, client)\n\nclass Net:\n    def __new__(cls):\n        from own_late import net\n"
    "        return net()\n",
    "own_shared.py": "def value(point, client):\n    return float(((point - 0.1 * client) ** 2).sum())\n",
    "own_late.py": "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n",
    "own_pack/__init__.py": "from .inner import thing\n",
    "own_pack/inner.py": "thing = 1\n",
    "own_pack/deep.py": "from . import beside\nfrom .inner import thing\n",
    "own_pack/beside.py": "",
    "own_unrelated.py": "",
    "own_kind.py": "from fedopt.aggregators.fedavg import FedAvg\n\nclass Mine(FedAvg):\n    pass\n",
}
BOWLS: dict[str, Any] = {
    "data": {"kind": "user_function", "function": "own_bowl:f", "dimension": 4, "clients": 3},
    "model": {"kind": "point"},
    "client": {"kind": "finite_difference", "count": 3, "local_steps": 2},
    "sampling": {"kind": "all"},
    "engine": {"device": "cpu", "threads": 1},
}
DIGITS: dict[str, Any] = {"model": {"kind": "user_module", "factory": "own_bowl:Net"}}


def another_process() -> None:
    """Forget what this process imported and asked for, as a new one has."""
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    own_sources._digest.cache_clear()
    splits._cached.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the files change within a second
    another_process()
    yield tmp_path
    another_process()


def change(folder: Path, name: str) -> None:
    (folder / name).write_text(FILES[name].replace("** 2", "** 4").replace("(64, 10)", "(64, 10, bias=False)") + "#\n")
    another_process()


@pytest.mark.parametrize("changes", [BOWLS, DIGITS, {"aggregator": {"kind": "own_kind:Mine"}}])
@pytest.mark.parametrize("name", FILES)
def test_a_hash_is_over_what_is_imported_and_over_nothing_else(folder, changes, name):
    scenario = from_mapping(mapping(**changes))
    before = own_sources.digests(scenario)
    change(folder, name)
    module = "own_kind" if "aggregator" in changes else "own_bowl"
    assert list(before) == [module] and before == {module: before[module]}
    concerned = name == "own_kind.py" if module == "own_kind" else name not in ("own_kind.py", "own_unrelated.py")
    assert (own_sources.digests(scenario) != before) is concerned


def test_nothing_own_and_nothing_there(folder):
    assert own_sources.digests(from_mapping(mapping())) == {}
    shutil.rmtree(folder)
    importlib.invalidate_caches()
    assert own_sources.digests(from_mapping(mapping(**BOWLS))) == {"own_bowl": ""}


@pytest.mark.parametrize(("changes", "name"), [(BOWLS, "own_shared.py"), (DIGITS, "own_late.py")])
def test_a_comparison_executes_again_what_rests_on_changed_code(folder, changes, name, tmp_path):
    other = {"client.local_steps" if changes is BOWLS else "client.lr": 1}
    base = mapping(**changes, run={"server_steps": 2})
    described = {"name": "own", "base": base, "variants": {"a": {}, "b": other}, "seeds": [0]}

    def how() -> tuple[set[str], list[float]]:
        made = compare(described, tmp_path / "out")
        return set(made.runs["how"]), list(made.runs["metric"])

    first = how()
    assert first[0] == {"executed"} and how() == ({"reused"}, first[1])
    change(folder, name)
    again = how()
    assert again[0] == {"executed"} and again[1] != first[1]


def test_verify_names_the_module_that_changed(folder, tmp_path):
    run = fedopt.simulate(from_mapping(mapping(**BOWLS)), out=tmp_path / "out")
    another_process()
    assert verify(run.directory).repeats
    change(folder, "own_shared.py")
    verdict = verify(run.directory)
    assert not verdict.repeats and len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith("code of your own module own_bowl changed: ")
