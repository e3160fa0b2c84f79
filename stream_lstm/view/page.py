"""The page around the figures: one template for the live page and the report.

All that it shows is escaped, and it loads nothing: style, script and data are in the page, or come
from the server that it came from.
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
    """Return a value for the page: text that is not known to be HTML is made printable."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_ENVIRONMENT = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, finalize=_shown)

FACTS = _ENVIRONMENT.from_string(
    """{% if status %}<p class="status{% if bad %} bad{% endif %}">{{ status }}</p>{% endif %}
<p class="verdict">{{ verdict }}</p>
<dl class="facts">{% for fact in facts %}<div{% if fact.bad %} class="bad"{% endif %}>
<dt>{{ fact.name }}</dt><dd class="value">{{ fact.value }}</dd>
<dd class="more">{{ fact.more }}</dd></div>{% endfor %}</dl>"""
)


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
    return FACTS.render(verdict=verdict, facts=facts, status=status, bad=bad)


def card(panel: Panel, root: str, track: Track, note: str = "") -> dict[str, Any]:
    """Return what the template wants to know of a panel, whose figure is named `root`."""
    panel.figure.name = root
    return {
        "root": root,
        "title": panel.title,
        "about": panel.about.replace("{window}", f"{track.window:,}"),
        "keys": panel.keys,
        "note": note,
        "drawn": panel.has_data(track),
    }
