"""Label selectors as text: parsing and matching.

Source: Kubernetes, apimachinery/pkg/labels/selector.go (the grammar of `labels.Parse`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = rf"(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}"
_VALUE = rf"(?:{_NAME})?"
_REQUIREMENT = re.compile(
    rf"\s*(?:"
    rf"!\s*(?P<absent>{_KEY})"
    rf"|(?P<set_key>{_KEY})\s+(?P<set_word>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{_KEY})\s*(?P<sign>==|=|!=|>|<)\s*(?P<value>{_VALUE})"
    rf"|(?P<present>{_KEY})"
    rf")\s*(?:,|$)"
)


class SelectorError(ValueError):
    """The text is no label selector."""


@dataclass(frozen=True)
class Requirement:
    """One part of a selector: `key sign values`, signs: exists, !, =, !=, in, notin, >, <."""

    key: str
    sign: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels fulfil it."""
        if self.sign == "exists":
            return self.key in labels
        if self.sign == "!":
            return self.key not in labels
        if self.sign in ("!=", "notin"):
            return self.key not in labels or labels[self.key] not in self.values
        if self.key not in labels:
            return False
        if self.sign in (">", "<"):
            try:
                difference = int(labels[self.key]) - int(self.values[0])
            except ValueError:
                return False
            return difference > 0 if self.sign == ">" else difference < 0
        return labels[self.key] in self.values


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Requirements of a selector, all of which must hold.

    Raises:
        SelectorError: the text does not follow the grammar.
    """
    requirements: list[Requirement] = []
    place, more = 0, bool(text)
    while more:
        match = _REQUIREMENT.match(text, place)
        if match is None:
            raise SelectorError(f"no label selector: {text!r}")
        requirements.append(_requirement(match))
        place, more = match.end(), match.group().endswith(",")
    return tuple(requirements)


def _requirement(match: re.Match[str]) -> Requirement:
    if match["absent"]:
        return Requirement(match["absent"], "!")
    if match["present"]:
        return Requirement(match["present"], "exists")
    if match["set_key"]:
        values = tuple(value.strip() for value in match["values"].split(","))
        for value in values:
            if not re.fullmatch(_VALUE, value):
                raise SelectorError(f"no label value: {value!r}")
        return Requirement(match["set_key"], match["set_word"], values)
    sign = "=" if match["sign"] == "==" else match["sign"]
    if sign in (">", "<") and not re.fullmatch(r"[0-9]+", match["value"]):
        raise SelectorError(f"no number: {match['value']!r}")
    return Requirement(match["key"], sign, (match["value"],))


def selects(requirements: tuple[Requirement, ...], labels: Mapping[str, str]) -> bool:
    """Whether the labels fulfil all requirements."""
    return all(requirement.matches(labels) for requirement in requirements)
