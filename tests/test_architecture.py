"""The house stands as designed: imports point down, public names are the exported ones, help costs next to nothing."""

from __future__ import annotations

import ast
import importlib
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sim_core", "agents", "experiments", "flows")
HEAVY = (
    "prefect",
    "ray",
    "mlflow",
    "torch",
    "stable_baselines3",
    "numba",
    "numpy",
    "pandas",
    "matplotlib",
    "plotly",
    "pydantic",
)


def test_imports_point_down():
    """The contracts of pyproject.toml hold: layers, a world without platforms, light simulation actors."""
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in done.stdout.replace("Contracts: ", "")


@pytest.mark.parametrize("module", ["sim_core", "experiments.compute.actors", "agents.policies"])
def test_a_simulation_actor_starts_light(module):
    """An actor loads neither torch nor a platform: checked in a real process, since lazy imports could hide it."""
    code = f"import sys, {module}; print(*[name for name in sys.modules if '.' not in name])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "stable_baselines3", "mlflow", "prefect"} & set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_those_of_this_repository(package):
    """A library of the same name, such as `agents` on PyPI, must not stand in."""
    assert Path(importlib.import_module(package).__file__).is_relative_to(ROOT)


def test_every_package_is_installed():
    """`pyproject.toml` lists each folder that has an `__init__.py`; a forgotten one would miss from a wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [
        ".".join(file.parent.relative_to(ROOT).parts)
        for name in PACKAGES
        for file in (ROOT / name).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_the_exported_ones(package):
    """`__all__` names exactly what `__init__.py` imports or defines without an underscore, and all of it exists."""
    module = importlib.import_module(package)
    declared = list(getattr(module, "__all__", []))
    assert len(declared) == len(set(declared))
    assert all(hasattr(module, name) for name in declared)
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.split(".")[0] in PACKAGES
        and node.module != package
        for alias in node.names
    }
    assert {name for name in imported if not name.startswith("_")} <= set(declared)


def test_help_is_quick_and_imports_nothing_heavy():
    """Half a second of CPU is five times what it takes; a heavy import alone takes that."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", "flows.cli", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imported = {
        line.rpartition("|")[2].strip().split(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "typer" in imported
    assert not imported & set(HEAVY)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_constraints_pin_every_requirement():
    """`make demo` installs what was tested: each requirement has a pin that satisfies it; a pin is a name and a version."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().split()
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert all(pins.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]
    missing = [
        str(need) for need in requirements if not need.specifier.contains(pins.get(canonicalize_name(need.name), "0"))
    ]
    unpinned = [need.name for need in requirements if canonicalize_name(need.name) not in pins]
    assert (missing, unpinned) == ([], [])
