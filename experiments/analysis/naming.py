"""Short names of configurations: what differs first, since pages cut names after some twenty letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_UNITS = {"_pct": " %", "_per_s": "/s", "_seconds": " s", "_s": " s", "_cores": " cores", "_gib": " GiB"}
_UNSET = "default"  # a setting that only some configurations have
_WORDS = 2  # of a setting's name


def short_names(configurations: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """`hpa 60 % / 300 s`: the policy, and the values in which it differs from the others under the same policy.

    Units tell which setting a value is of; where they do not, words of its name do: `hpa up 0 s / down 300 s`. A policy's
    only configuration shows all of its settings.

    Args:
        configurations: policy and settings (and changed parameters) of each.
    """
    return [
        _name(policy, settings, [s for p, s in configurations if p == policy]) for policy, settings in configurations
    ]


def _name(policy: str, settings: Mapping[str, Any], siblings: Sequence[Mapping[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for sibling in siblings for key in sibling))
    differing = [key for key in keys if len({repr(sibling.get(key, _UNSET)) for sibling in siblings}) > 1]
    shown = differing if len(siblings) > 1 else keys
    values = [f"{_words_before(key, shown)}{_value(key, settings.get(key, _UNSET))}" for key in shown]
    return " ".join([policy, " / ".join(values)]).strip()


def _value(key: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.10g}{_unit(key)}"
    return str(value)


def _unit(key: str) -> str:
    last = key.rpartition(".")[2]
    if last == "replicas":
        return " replicas"
    return next((unit for suffix, unit in _UNITS.items() if last.endswith(suffix)), "")


def _words_before(key: str, shown: Sequence[str]) -> str:
    unit = _unit(key)
    rivals = [other for other in shown if _unit(other) == unit]
    if unit and len(rivals) == 1:
        return ""
    if len(rivals) == 1:
        return f"{key.rpartition('.')[2]} "
    common = Counter(word for other in rivals for word in set(_words(other)))
    own = [word for word in _words(key) if common[word] < len(rivals)]
    return f"{' '.join(own[-_WORDS:] if '.' in key else own[:_WORDS])} "


def _words(key: str) -> list[str]:
    stem = key.removesuffix(next((suffix for suffix in _UNITS if key.endswith(suffix)), ""))
    return re.split(r"[._]", stem)
