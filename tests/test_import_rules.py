"""The layering of docs/design.md, checked on the source files' own imports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "fedopt"
COMPONENTS = ("data", "models", "clients", "devices", "sampling", "aggregators")
HEAVY = ("torch", "flwr", "opacus", "sklearn", "plotly", "matplotlib", "ray")
GROUND = ("fedopt.types", "fedopt.rng", "fedopt.components", "fedopt.engine.base", "fedopt.heterogeneity")


def imports(path: Path, top_level_only: bool) -> set[str]:
    """Modules a file imports; only what runs at import time if asked (not under TYPE_CHECKING)."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
            elif isinstance(node, ast.If):
                if "TYPE_CHECKING" not in ast.unparse(node.test):
                    visit(node.body)
                visit(node.orelse)
            elif (
                isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and (not top_level_only or isinstance(node, ast.ClassDef))
            ) or isinstance(node, (ast.With, ast.Try, ast.For, ast.While)):
                visit(node.body)

    visit(tree.body)
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", COMPONENTS)
def test_component_folders_import_only_the_ground_floor_and_themselves(folder: str) -> None:
    for path in files(folder):
        for module in imports(path, top_level_only=False):
            if module.startswith("fedopt"):
                allowed = module.startswith((f"fedopt.{folder}", *GROUND)) or module == "fedopt"
                allowed = allowed or module.startswith("fedopt.zeroth_order")  # pure functions, no component
                assert allowed, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("folder", [*COMPONENTS, "privacy", "report", "runlog"])
def test_settings_do_not_import_heavy_packages(folder: str) -> None:
    for path in files(folder):
        heavy = {m.split(".")[0] for m in imports(path, top_level_only=True)} & set(HEAVY)
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy} when it is loaded"


def test_the_server_knows_only_base_interfaces() -> None:
    allowed = {
        "fedopt.aggregators.base",
        "fedopt.privacy.base",
        "fedopt.sampling.base",
        "fedopt.protocol",
        "fedopt.types",
    }
    for path in files("server"):
        used = {m for m in imports(path, top_level_only=False) if m.startswith("fedopt")}
        assert {m for m in used if not m.startswith("fedopt.server")} <= allowed, path.name


def test_only_the_flower_folder_imports_flwr() -> None:
    for path in ROOT.rglob("*.py"):
        if "flower" in path.relative_to(ROOT).parts:
            continue
        if not any(m.split(".")[0] == "flwr" for m in imports(path, top_level_only=False)):
            continue
        pytest.fail(f"{path.relative_to(ROOT)} imports flwr")


@pytest.mark.parametrize("command", [["--help"], ["list"], ["schema"], ["validate", "scenarios/quickstart.yaml"]])
def test_light_commands_start_without_torch(command: list[str]) -> None:
    program = (
        "import sys\n"
        "from fedopt.cli import app\n"
        f"try:\n    app({command!r}, standalone_mode=False)\n"
        "finally:\n"
        "    loaded = {'torch', 'flwr'} & set(sys.modules)\n"
        "    assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


def test_tests_are_collected_without_the_extra_flower():
    """``make test`` installs no extras: what imports Flower must skip itself, or be left out."""
    without = "import sys, pytest; sys.modules['flwr'] = None; sys.exit(pytest.main(['--collect-only', '-qq']))"
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", without],
        cwd=ROOT.parent,
        env=own,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
