"""Strict documents: YAML that hides no mistake, and every problem of a document at once, by path.

Shared by everything a user writes in YAML (profiles, sweep specifications). YAML is read by the core schema of
YAML 1.2, so `5e-4` is a number, `no` is text and `1:30` is not 90; a key that stands twice is refused.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from sim_core.errors import MAX_PROBLEMS, InputError, nearest

MAX_BYTES = 1 << 20  # a document is written by hand; more is some other file
MAX_DEPTH = 50  # levels of nesting; a reader of YAML takes long over many
_INCONSISTENT = "inconsistent"  # pydantic error type of broken cross-field rules

# -0.0 becomes 0.0: equal documents have equal digests
Number = typing.Annotated[float, AfterValidator(lambda value: value + 0.0)]
Location = tuple[int | str, ...]


class Problem(NamedTuple):
    """A broken rule between fields: where, what should hold, and the value found there."""

    at: Location
    rule: str
    value: Any


class Section(BaseModel):
    """A part of a document: frozen, no unknown keys, no silent conversion (`true` and `"3"` are no numbers), finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Rules = Callable[[Any], Iterable[Problem]]
Model = TypeVar("Model", bound=Section)


def validate(model: type[Model], data: Any, where: str, error: type[InputError], rules: Rules) -> Model:
    """A document as a checked, frozen model.

    Args:
        model: the class of the whole document; it calls `refuse_inconsistent` with the same rules.
        data: what the YAML file held.
        where: the file or option to name in the message.
        error: the exception to raise.
        rules: yields the broken rules between fields. It also sees documents with invalid fields: an invalid number
            reads as NaN, with which no comparison is true, so a rule written as "if too large: yield" stays silent.

    Raises:
        InputError: of the class `error`, with every problem of fields and rules.
    """
    problems, instance = examine(model, data, rules)
    if instance is None:
        raise error(where, problems)
    return instance


def examine(model: type[Model], data: Any, rules: Rules) -> tuple[list[str], Model | None]:
    """Problem lines `path: rule (got value)` of a document, and the model if there are none."""
    if not isinstance(data, dict):
        return [f"must be a mapping of keys (got {shown(data)})"], None
    if _is_too_deep(data):
        return ["is nested too deeply"], None
    try:
        return [], model.model_validate(data)
    except ValidationError as failed:
        found = [detail for detail in failed.errors(include_url=False) if not _is_echo(detail)]
    # No message shows more than the first: for the others no nearest key is looked for, which takes long.
    lines = [_line(model, detail) for detail in found[:MAX_PROBLEMS]]
    lines += [f"{dotted(detail['loc'])}: {detail['type']}" for detail in found[MAX_PROBLEMS:]]
    lines += [_rendered(problem) for problem in rules(readable(model, data, {detail["loc"] for detail in found}))]
    return lines, None


def _is_too_deep(data: Any) -> bool:
    level = [data]
    for _ in range(MAX_DEPTH):
        items = [item for node in level for item in (node.values() if isinstance(node, dict) else node)]
        # by identity: what YAML's aliases show again and again is looked at once
        level = list({id(item): item for item in items if isinstance(item, dict | list | tuple)}.values())
    return bool(level)


def refuse_inconsistent(instance: Model, rules: Rules) -> Model:
    """Body of a model's `after` validator: an instance that breaks a rule between fields cannot exist."""
    lines = [_rendered(problem) for problem in rules(instance)]
    if lines:
        raise PydanticCustomError(_INCONSISTENT, "{lines}", {"lines": "; ".join(lines)})
    return instance


def shown(value: Any) -> str:
    """A value as a YAML user knows it, at most 60 characters."""
    names: dict[Any, str] = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return names[value]
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dotted(at: Iterable[int | str]) -> str:
    """`services.0.name` of ("services", 0, "name"); steps of more than 60 characters are cut off."""
    return ".".join(_step(str(step)) for step in at)


def _step(name: str) -> str:
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= 60 else f"{name[:57]}..."


def section_of(annotation: Any) -> type[Section] | None:
    """The section class inside an annotation (`X`, `X | None`, `tuple[X, ...]`), or None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := section_of(part))), None)


def is_list(annotation: Any) -> bool:
    """Whether an annotation (`tuple[X, ...]`, `tuple[X, ...] | None`) is written as a list."""
    return list_depth(annotation) > 0


def list_depth(annotation: Any) -> int:
    """How many lists are around a value: 0 of `X | None`, 1 of `tuple[X, ...]`, 2 of `tuple[tuple[X, ...], ...]`."""
    around = 1 if typing.get_origin(annotation) is tuple else 0
    return around + max((list_depth(part) for part in typing.get_args(annotation)), default=0)


def _rendered(problem: Problem) -> str:
    return f"{dotted(problem.at)}: {problem.rule} (got {shown(problem.value)})"


def readable(
    model: type[Section], data: Any, invalid: Set[Location] = frozenset(), at: Location = ()
) -> SimpleNamespace:
    """What can be read of a document: same attributes as the model, NaN where there is no valid value.

    Args:
        invalid: the places at which values are not valid.
        at: place of `data` in the whole document.
    """
    is_there = isinstance(data, dict)
    data = data if is_there else {}
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        here = (*at, name)
        section = section_of(field.annotation)
        plain = section is None and not is_list(field.annotation)
        no_default = field.is_required() or (plain and not is_there)  # a section that is missing leaves nothing out
        missing = math.nan if no_default else field.get_default(call_default_factory=True)
        value = data.get(name, missing)
        if (value is None and here not in invalid) or isinstance(value, BaseModel):
            values[name] = value
        else:
            values[name] = _readable_field(section, list_depth(field.annotation), value, invalid, here)
    return SimpleNamespace(**values)


def _readable_field(section: type[Section] | None, depth: int, value: Any, invalid: Set[Location], at: Location) -> Any:
    """What can be read of a field: a section or a plain value, or lists of them, as deep as its annotation has it."""
    if depth > 0:
        items = value if isinstance(value, list | tuple) else []
        return [_readable_field(section, depth - 1, item, invalid, (*at, i)) for i, item in enumerate(items)]
    if section:
        return readable(section, value, invalid, at)
    return math.nan if at in invalid else value


# --- pydantic's findings in the words of the house

_RULES = {
    "missing": "required key is missing",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be one of {expected}",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "invalid_key": "keys must be text",
}


def _is_echo(detail: ErrorDetails) -> bool:
    """Whether a finding repeats others: rules are read anew; of a list, pydantic counts only the valid items."""
    too_short = detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]
    return too_short or detail["type"] == _INCONSISTENT


def _line(model: type[Section], detail: ErrorDetails) -> str:
    at, kind, value = detail["loc"], detail["type"], detail["input"]
    if at[-1:] == ("[key]",) and kind == "string_type":  # of a mapping whose keys are free
        return f"{dotted(at[:-2])}: {_RULES['invalid_key']} (got {shown(value)})"
    if kind == "extra_forbidden":
        return unknown_key(model, at)
    if kind == "missing":
        return f"{dotted(at)}: {_RULES[kind]}"
    context = detail.get("ctx", {})
    rule = _RULES[kind].format(**context) if kind in _RULES else detail["msg"]
    hint = nearest(str(value), re.findall(r"'([^']*)'", context["expected"])) if kind == "literal_error" else ""
    return f"{dotted(at)}: {rule} (got {shown(value)}){hint}"


def unknown_key(model: type[Section], at: Location) -> str:
    """Problem line of a key that the schema does not have, with the nearest one beside it, below it or anywhere."""
    word = str(at[-1])
    section: type[Section] | None = model
    for step in at[:-1]:
        if section is not None and isinstance(step, str):
            section = section_of(section.model_fields[step].annotation)
    line = f"{dotted(at)}: unknown key"
    if hint := nearest(word, section.model_fields if section else ()):
        return line + hint
    for root in (section, model):
        places = _places(root) if root else {}
        if hint := nearest(word, places):
            key = re.findall("'(.*)'", hint)[0]
            return f"{line}{hint} (it belongs to {' and '.join(places[key])})"
    return line


def _places(section: type[Section], prefix: str = "", around: tuple[type[Section], ...] = ()) -> dict[str, list[str]]:
    """Every key below a section and the sections that hold it, as dotted paths; `[]` stands for the items of a list.

    A section within a section of its own class (`around`) is left out: it holds the same keys.
    """
    places: dict[str, list[str]] = {}
    for name, field in section.model_fields.items():
        places.setdefault(name, []).append(prefix or "the top level")
        below = section_of(field.annotation)
        if below is not None and below not in (section, *around):
            at = f"{prefix}.{name}{'[]' * list_depth(field.annotation)}".lstrip(".")
            for key, found in _places(below, at, (section, *around)).items():
                places.setdefault(key, []).extend(found)
    return places


# --- YAML


class _Loader(yaml.SafeLoader):
    """Plain data only (no tags but those of the core schema), read by the core schema of YAML 1.2."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise RecursionError
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    text = loader.construct_scalar(node).lower()
    if re.fullmatch(r"[-+]?[0-9]{1,300}", text):  # Python refuses to read more than 4300 digits; no field holds 300
        return int(text)
    return float(re.sub(r"\.(inf|nan)$", r"\1", text))


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), _first)
_PLAIN = [None, *(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "str", "seq", "map"))]
_Loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _PLAIN}
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def read_yaml(path: Path, error: type[InputError]) -> Any:
    """The plain data of a YAML file.

    Args:
        path: an UTF-8 file of at most 1 MiB.
        error: the exception to raise.

    Raises:
        InputError: of the class `error`: no such file, a directory, unreadable, too large, not UTF-8, not YAML (with
            line and column), empty, more than one document, or keys that stand twice (each with its lines).
    """
    text = _read_text(path, error)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        repeated = list(_repeated_keys(root, (), set())) if root else ["the file is empty"]
        if repeated:
            raise error(str(path), repeated)
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as failed:
        raise error(str(path), _yaml_problem(failed)) from None
    except yaml.reader.ReaderError as failed:
        place = f"line {text.count(chr(10), 0, failed.position) + 1}"
        raise error(str(path), f"not valid YAML: {place} holds the control character {failed.character:#x}") from None
    except (KeyError, ValueError) as failed:
        raise error(str(path), f"not valid YAML: a value does not fit its tag: {failed}") from None
    except RecursionError:
        raise error(str(path), "is nested too deeply") from None


def _read_text(path: Path, error: type[InputError]) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise error(str(path), f"no such file{_nearest_file(path)}") from None
    except IsADirectoryError:
        raise error(str(path), "is a directory; name a YAML file in it") from None
    except (OSError, ValueError) as failed:
        reason = getattr(failed, "strerror", None) or failed
        raise error(str(path), f"cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise error(str(path), f"is larger than {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as failed:
        raise error(str(path), f"is not UTF-8 text (byte {failed.start})") from None


def _nearest_file(path: Path) -> str:
    try:
        return nearest(path.name, sorted(file.name for file in path.parent.glob("*.y*ml")))
    except OSError:
        return ""


def _yaml_problem(failed: yaml.MarkedYAMLError) -> str:
    mark = failed.problem_mark or failed.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"not valid YAML: {place}{', '.join(part for part in (failed.context, failed.problem) if part)}"


def _repeated_keys(node: yaml.Node, at: Location, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias shows the same node again
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated_keys(item, (*at, index), seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value)
            if isinstance(key, yaml.ScalarNode) and name in lines:
                yield f"{dotted((*at, name))}: key stands twice, on lines {lines[name]} and {key.start_mark.line + 1}"
            lines.setdefault(name, key.start_mark.line + 1)
            yield from _repeated_keys(value, (*at, name), seen)
