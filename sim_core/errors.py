"""What can go wrong for a user, said the same way everywhere: the place, the rule, the value, the nearest right thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class DevOpsSimError(Exception):
    """Base of all errors meant for users; the command line prints it without a traceback and exits with 1."""


class InputError(DevOpsSimError):
    """The input was wrong: every problem of one source at once; the command line exits with 2.

    Args:
        where: the file, option or value that holds the problems.
        problems: one line each, `place: rule (got value)`.
    """

    def __init__(self, where: str, problems: str | Sequence[str]):
        self.where = where
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__(where, self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{type(self).__name__}: {self.where}: {self.problems[0]}"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{type(self).__name__}: {self.where}: {len(self.problems)} problems{lines}"


class ProfileError(InputError):
    """A profile, or an override of one, breaks the schema."""


class TraceError(InputError):
    """A traffic trace cannot be read or breaks the format."""


class SpecError(InputError):
    """A sweep specification breaks the schema."""


class PolicyError(InputError):
    """A policy is unknown or its settings are wrong."""


class ModelError(InputError):
    """A registered model cannot be found, read or applied to this profile."""


class PlatformError(DevOpsSimError):
    """A service or process that the platform started failed; the message says which and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or an empty string when none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""
