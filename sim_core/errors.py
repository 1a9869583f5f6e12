"""What can go wrong for a user, said the same way everywhere: the place, the rule, the value, the nearest right thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# A message fits on a screen, whatever was read: so many problems, of so many bytes each and together (UTF-8).
MAX_PROBLEMS = 20
MAX_PROBLEM_BYTES = 600
MAX_PLACE_BYTES = 300
MAX_MESSAGE_BYTES = 3900
MAX_WORD = 100  # characters; no name of ours is longer, and longer words are slow to compare


class DevOpsSimError(Exception):
    """Base of all errors meant for users; the command line prints it without a traceback and exits with 1."""


class InputError(DevOpsSimError):
    """The input was wrong: every problem of one source at once; the command line exits with 2.

    Args:
        where: the file, option or value that holds the problems.
        problems: one line each, `place: rule (got value)`. Longer ones than MAX_PROBLEM_BYTES are cut off.

    The message lists the first of them, as many as MAX_PROBLEMS and MAX_MESSAGE_BYTES allow, and says how many more there are.
    """

    def __init__(self, where: str, problems: str | Sequence[str]):
        self.where = where
        listed = [problems] if isinstance(problems, str) else problems
        self.problems = [_cut(problem, MAX_PROBLEM_BYTES) for problem in listed]
        super().__init__(where, self.problems)

    def __str__(self) -> str:
        head = f"{type(self).__name__}: {_cut(self.where, MAX_PLACE_BYTES)}"
        if len(self.problems) == 1:
            return f"{head}: {self.problems[0]}"
        lines, room = "", MAX_MESSAGE_BYTES - len(_bytes(head))
        for index, problem in enumerate(self.problems):
            room -= len(_bytes(problem)) + 3
            if index == MAX_PROBLEMS or room < 0:
                lines += f"\n  and {len(self.problems) - index} more"
                break
            lines += f"\n  {problem}"
        return f"{head}: {len(self.problems)} problems{lines}"


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


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _cut(text: str, most: int) -> str:
    """The beginning of a text, at most so many bytes of UTF-8, with an ellipsis where it was longer."""
    encoded = _bytes(text)
    return text if len(encoded) <= most else encoded[: most - 3].decode("utf-8", "ignore") + "..."


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or an empty string when none is near."""
    if len(word) > MAX_WORD:
        return ""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""
