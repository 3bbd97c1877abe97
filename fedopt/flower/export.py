"""A scenario as a complete Flower app that ``flwr run`` accepts. No torch, no flwr."""

from __future__ import annotations

import re
from pathlib import Path

from fedopt.scenario import Scenario
from fedopt.yaml_writer import to_yaml

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=69"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.0.0"
description = "fedopt scenario {scenario} as a Flower app"
license = "Apache-2.0"
requires-python = ">=3.11"
# fedopt and its requirements are installed on every machine beforehand: nothing is fetched when a run starts.
dependencies = []

[tool.flwr.app]
publisher = "fedopt"

[tool.flwr.app.components]
serverapp = "{package}.server:app"
clientapp = "{package}.client:app"

[tool.flwr.app.config]
out = ""               # run directory on the SuperLink's machine; empty: a new one under reports/
resume = false         # go on with the run in that directory
reply-s = {reply:.1f}      # seconds until a task without an answer is lost; also the messages' time to live
poll-s = 0.5           # seconds between two looks at the SuperLink
wait-s = 120.0         # seconds to wait for all nodes before the run starts
fewest-nodes = 1       # the run starts with fewer than all nodes after wait-s, but not with fewer than this
idle-s = 300.0         # seconds without any ready node after which the run ends
public-test = false    # the server's test set is public: a private run may then write test metrics
replay = true          # simulate the recorded timings afterwards, for the report
"""

_SIDE = '''\
"""The {side} of this app."""

from pathlib import Path

from fedopt.flower.{side}_app import {side}_app

app = {side}_app(Path(__file__).with_name("scenario.yaml"))
'''

_README = """\
# {scenario}

A fedopt scenario as a Flower app. Install `fedopt[flower]` on every machine, then `flwr run . CONNECTION --stream`.
Every SuperNode needs `--node-config "partition-id=K num-partitions=P"`, K from 0 to P - 1. See fedopt's docs/deploy.md.
"""


def export_app(scenario: Scenario, directory: Path, reply_s: float = 3600.0, force: bool = False) -> Path:
    """Write the app.

    Args:
        scenario: what it runs; every default is spelled out in it.
        directory: new or empty folder.
        reply_s: default of ``reply-s``.
        force: write into a folder that holds something.
    Returns:
        The folder.
    Raises:
        FileExistsError: the folder is not empty.
    """
    if not force and directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; choose another folder or use --force")
    package = package_name(scenario.name)
    folder = directory / package
    folder.mkdir(parents=True, exist_ok=True)
    names = {"name": package.replace("_", "-"), "scenario": scenario.name, "package": package, "reply": reply_s}
    (directory / "pyproject.toml").write_text(_PYPROJECT.format(**names), encoding="utf-8")
    (directory / "README.md").write_text(_README.format(scenario=scenario.name), encoding="utf-8")
    (folder / "__init__.py").write_text(f'"""fedopt scenario {scenario.name}."""\n', encoding="utf-8")
    for side in ("server", "client"):
        (folder / f"{side}.py").write_text(_SIDE.format(side=side), encoding="utf-8")
    (folder / "scenario.yaml").write_text(to_yaml(scenario.resolved()), encoding="utf-8")
    return directory


def package_name(name: str) -> str:
    """Python package for a scenario's name.

    >>> package_name("fashion-fedbuff.dp")
    'fedopt_fashion_fedbuff_dp'
    """
    return "fedopt_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
