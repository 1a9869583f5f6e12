"""What components bring, put together: by convention a component is a package with modules of these names.

| module | what it holds |
| --- | --- |
| `profile` | `KEY`, `SECTION`, `DESCRIPTION`, `broken_rules`: its section of a profile |
| `records` | record types of its tables |
| `rows` | `TABLES`, and `rows(profile, graph)`: its parameters |
| `fluid` | phases `begin`, `before` (services serve), `serve` of the fluid engine |
| `telemetry` | `TELEMETRY` fields, and the phase `scrape` |
| `indicators` | `INDICATORS` and `FIXED_COSTS` of the table of indicators |
| `accounts` | `indicators(worlds)` and `usd_per_s(worlds)`: their values |
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from sim_core.components import COMPONENTS


def modules(name: str) -> list[ModuleType]:
    """The module of this name of every component, in the order of the list."""
    return [import_module(f"{component}.{name}") for component in COMPONENTS]


def phase_of(module: str, name: str) -> Any:
    """One phase (world) -> None: that of every component in turn."""
    from sim_core.tables import phases

    return phases(*(getattr(each, name) for each in modules(module)))
