"""The components of a world beside its services, one line each.

A component is a package. By convention it holds `profile.py` with

- `KEY`: where a profile describes it, such as `cache`;
- `SECTION`: the class of that section, a `Section` of `sim_core/documents.py`;
- `DESCRIPTION`: the words that a profile's schema has for it;
- `broken_rules(profile)`: yields the rules between fields that a profile breaks because of it. It is asked whether the
  section is there or null, and also sees profiles with invalid fields (see `sim_core/documents.py`).

Whatever is read here must import light: no numba, since specifications and the command line's help read profiles.
"""

from __future__ import annotations

COMPONENTS = (
    "sim_core.dataplane.cache",
    "sim_core.dataplane.database",
)
