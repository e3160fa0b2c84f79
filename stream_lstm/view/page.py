"""The page around the figures: one template for the live page and the report.

All text is escaped, and the page loads nothing from elsewhere: style, script and data are in the
page or come from its server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup

from ..quoting import printable
from .figures import Panel
from .track import Track
from .words import Fact

FOLDER = Path(__file__).parent


def _shown(value: Any) -> Any:
    """Return a value for the page, text that is not HTML as printable characters."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_ENVIRONMENT = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, finalize=_shown)


def template() -> Template:
    """Return the page's template, for `file_html` and for `Document.template`."""
    return _ENVIRONMENT.get_template("page.html")


def figure_template() -> Template:
    """Return the template of one figure as a picture of its own."""
    return _ENVIRONMENT.get_template("figure.svg")


def facts_css() -> str:
    """Return the style of the row of health figures."""
    return (FOLDER / "facts.css").read_text(encoding="utf-8")


def head_html(verdict: str, facts: list[Fact], status: str, *, bad: bool) -> str:
    """Return the head of the live page."""
    return str(template().module.head(verdict, facts, status, bad))  # type: ignore[attr-defined]


def card(panel: Panel, root: str, track: Track, note: str = "") -> dict[str, Any]:
    """Return the template's variables of a panel; its figure is named `root`."""
    panel.figure.name = root
    return {
        "root": root,
        "title": panel.title,
        "about": panel.about.replace("{window}", f"{track.window:,}"),
        "keys": panel.keys,
        "note": note,
        "drawn": panel.has_data(track),
    }
