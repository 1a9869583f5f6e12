"""What every report page is made of: tables, scripts with their digests, figures as JSON, files that appear whole.

A page refuses, by its content security policy, to load or run anything but the scripts that it holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from experiments.store.files import write_atomically
from sim_core.errors import InputError, PlatformError

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what it says, what is said under it, and by what it sorts."""

    text: str
    note: str = ""
    key: float | str | None = None
    tone: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a table; `color` is the policy's, `mark` sets the row off, `settings` unfold under its name."""

    label: str
    note: str
    color: str
    cells: Sequence[Cell]
    mark: str = ""
    settings: str = ""


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Row]


def page_of(template: str, drawn: Mapping[str, go.Figure | None], dark: Mapping[str, str], **content: Any) -> str:
    """A page as text.

    Args:
        template: its name among the templates.
        drawn: figures by name; None where there is no data for one.
        dark: light colour -> the colour that takes its place on dark ground.
        content: what else the template shows.
    """
    present = {name: figure for name, figure in drawn.items() if figure is not None}
    plotly_js = _script(get_plotlyjs()) if present else None
    page_js = _script((_TEMPLATES / "report.js").read_text(encoding="utf-8"))
    scripts = [script for script in (plotly_js, page_js) if script is not None]
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template(template).render(
        figures=set(present),
        figure_data=_json_for_page({"figures": _plain_figures(present), "dark": dark}),
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        plotly_js=plotly_js.body if plotly_js else None,
        page_js=page_js.body,
        script_hashes=Markup(" ".join(f"'{script.digest}'" for script in scripts)),
        **content,
    )


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after each of its underscores."""
    return escape(name).replace("_", Markup("_<wbr>"))


@dataclass(frozen=True)
class _Script:
    body: Markup
    digest: str


def _script(source: str) -> _Script:
    # Browsers read CR LF as LF before they hash, so what is hashed here must be what they will see.
    text = source.replace("\r\n", "\n").replace("\r", "\n")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return _Script(Markup(text), f"sha256-{digest}")


def _plain_figures(drawn: Mapping[str, go.Figure]) -> dict[str, Any]:
    return {name: json.loads(figure.to_json(engine="json")) for name, figure in drawn.items()}


def _json_for_page(value: Any) -> Markup:
    # Inside <script> nothing but `<` can end the element; & and > are spelled out for readers stricter than browsers.
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def write_file(place: Path, content: bytes) -> Path:
    """The file with this content; it appears whole or not at all, with its folder.

    Raises:
        InputError: the folder cannot be made or written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, content, place.name)
    except (OSError, PlatformError) as error:
        cause = error.__cause__ if isinstance(error, PlatformError) else error
        remedy = "choose a folder that exists or can be made, and that you may write to"
        raise InputError(
            str(place), f"cannot be written: {getattr(cause, 'strerror', None) or cause}; {remedy}"
        ) from error
    return place
