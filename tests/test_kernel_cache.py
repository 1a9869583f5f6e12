"""Compiled kernels are kept by the sources that they were made of: all of them."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from numba.core.dispatcher import Dispatcher

import agents
import sim_core
from sim_core.kernel_cache import kernel_sources

ROOT = Path(sim_core.__file__).parents[1]
CONSTANTS = (bool, int, float, str, tuple)


def modules() -> list[ModuleType]:
    """Every module of the packages that kernels stand in."""
    names = [
        found.name
        for package in (sim_core, agents)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return [importlib.import_module(name) for name in names]


def kernels() -> set[Any]:
    """Kernels by name in a module, and those that such kernels close over or call."""
    found, new = set(), [value for module in modules() for value in vars(module).values()]
    while new:
        value = new.pop()
        if isinstance(value, Dispatcher) and value not in found:
            found.add(value)
            function = value.py_func
            new += [cell.cell_contents for cell in function.__closure__ or ()]
            new += [function.__globals__[name] for name in names_in(function.__code__) & set(function.__globals__)]
    return {
        value
        for value in found
        if source_of(value).is_relative_to(ROOT / "sim_core") or source_of(value).is_relative_to(ROOT / "agents")
    }


def source_of(kernel: Any) -> Path:
    """The file that a kernel stands in; the cutter of worlds is made of a text."""
    return Path(kernel.py_func.__code__.co_filename)


def names_in(code: CodeType) -> set[str]:
    """Names that code reads, in functions within it too."""
    inner = [names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def assigned(path: Path) -> set[str]:
    """Names that a file gives a value at its top level."""
    targets = [
        target
        for node in ast.parse(path.read_text("utf-8")).body
        for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
    ]
    return {
        each.id for target in targets if target is not None for each in ast.walk(target) if isinstance(each, ast.Name)
    }


def constants_used() -> Iterator[tuple[str, Any]]:
    for each in kernels():
        scope = each.py_func.__globals__
        for name in names_in(each.py_func.__code__) & set(scope):
            if isinstance(scope[name], CONSTANTS) and not name.startswith("__"):
                yield name, scope[name]


def test_the_folder_of_kernels_depends_on_every_file_that_kernels_are_made_of():
    """Their own files, and those where the constants that they read get their values."""
    covered = set(kernel_sources())
    own = {source_of(each) for each in kernels()}
    assert len(own) > 30
    assert own <= covered
    giving = {
        (path, name): getattr(module, name)
        for module in modules()
        for path in [Path(module.__file__ or "")]
        for name in assigned(path) & set(vars(module))
    }
    for name, value in constants_used():
        homes = [path for (path, given), there in giving.items() if given == name and there is value]
        assert not homes or set(homes) & covered, f"{name} of {homes}"


def test_the_folder_of_kernels_depends_on_every_record_type_and_on_the_list_of_components():
    covered = set(kernel_sources())
    for module in modules():
        path = Path(module.__file__ or "")
        if "np.dtype(" in path.read_text("utf-8"):
            assert path in covered
    for name in ("components.py", "limits.py", "assembly.py", "dataplane/services/kinds.py", "tables.py"):
        assert ROOT / "sim_core" / name in covered


@pytest.mark.parametrize("name", ["sim_core/theory.py", "sim_core/workload/prometheus.py", "agents/learning/train.py"])
def test_what_no_kernel_is_made_of_compiles_none_anew(name):
    assert ROOT / name not in set(kernel_sources())


def test_the_sources_are_found_in_a_moment():
    """Every process does it before it loads its first kernel."""
    begin = time.process_time()
    kernel_sources()
    assert time.process_time() - begin < 0.5
