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
from fedopt.flower import own_modules
from fedopt.report import write_report
from fedopt.scenario import from_mapping, load
from fedopt.verify import verify
from fedopt.yaml_writer import to_yaml
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


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project with a scenario, and a process that was started somewhere else."""
    project = tmp_path / "project"
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    (project / "own.yaml").write_text(to_yaml(mapping(**BOWLS)))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = list(sys.path)

    def anew() -> None:
        sys.path[:] = path
        another_process()

    anew()
    yield project, anew
    another_process()


def test_modules_lie_beside_the_scenario_and_the_run_remembers_where(elsewhere, tmp_path):
    project, anew = elsewhere
    run = fedopt.simulate(project / "own.yaml", out=tmp_path / "out")
    assert sys.path[-1] == str(project)
    assert str(project) in own_modules.folders()  # what the processes of a federation are told
    anew()
    assert verify(run.directory).repeats and sys.path[-1] == str(project)
    anew()
    write_report(run.directory)


class Killed(Exception):
    """Stands for a kill."""


def test_a_killed_run_finds_them_again(elsewhere, tmp_path, monkeypatch):
    project, anew = elsewhere

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("fedopt.simulation.session.Session._closing_evaluation", killed)
        fedopt.simulate(project / "own.yaml", out=tmp_path / "out")
    (directory,) = (tmp_path / "out").glob("*/*")
    anew()
    assert fedopt.api.resume_run(directory).summary["status"] == "finished"


@pytest.mark.parametrize("where", ["base", "comparison"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_comparison_looks_beside_itself_and_beside_its_bases(where, processes, elsewhere, tmp_path):
    project, anew = elsewhere
    variants = {"a": {}, "b": {"client.local_steps": 1}}
    file = project / "compare.yaml"
    if where == "base":  # the comparison lies somewhere else and names no module itself
        file = tmp_path / "work" / "compare.yaml"
    described = {"name": "own", "base": "../project/own.yaml", "variants": variants, "seeds": [0]}
    if where == "comparison":
        described["base"] = mapping(**BOWLS)
    file.write_text(to_yaml({**described, "processes": processes}))
    assert set(compare(file, tmp_path / "out").runs["status"]) == {"finished"}
    anew()
    assert set(compare(file, tmp_path / "out").runs["how"]) == {"reused"}


def test_a_scenario_without_modules_of_its_own_leaves_the_path_alone(elsewhere, tmp_path):
    project, _ = elsewhere
    before = list(sys.path)
    (project / "plain.yaml").write_text(to_yaml(mapping()))
    load(project / "plain.yaml")
    assert sys.path == before
    load(project / "plain.yaml", {"aggregator": "own_kind:Mine"})
    assert sys.path == [*before, str(project)]


def test_what_is_on_the_path_already_comes_first(elsewhere, tmp_path):
    project, _ = elsewhere
    first = tmp_path / "first"
    first.mkdir()
    (first / "own_bowl.py").write_text("def f(client, point):\n    return 0.0\n")
    sys.path.insert(0, str(first))
    load(project / "own.yaml").data.load(0)
    assert sys.modules["own_bowl"].__file__ == str(first / "own_bowl.py")
    assert own_sources.folders(load(project / "own.yaml")) == [str(first)]
