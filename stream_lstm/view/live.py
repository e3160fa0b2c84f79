"""The live page: a document for each browser that opens it, filled from a watcher's tracks."""

from __future__ import annotations

from typing import Any

from bokeh.document import Document
from bokeh.models import InlineStyleSheet
from bokeh.models.widgets import Div, Select

from .. import __version__
from ..quoting import label
from .figures import panels
from .page import card, facts_css, head_html, template
from .track import Track
from .watcher import Watcher
from .words import facts, verdict

EVERY_MS = 1000

NO_STREAM = "no stream yet"

CHOOSER = """
:host label { color: var(--faint); font-size: 12px; }
:host select.bk-input {
  background-color: var(--card); color: var(--ink); border: 1px solid var(--edge); height: 34px;
  background-image: url('data:image/svg+xml;utf8,\
<svg viewBox="0 0 25 20" xmlns="http://www.w3.org/2000/svg">\
<path d="M 0,0 25,0 12.5,20 Z" fill="gray" /></svg>');
}
:host option { background-color: var(--card); color: var(--ink); }
"""


class LivePage:
    """One browser's view.

    document: to be filled. watcher: gives the tracks. endpoint: told in the page.
    """

    def __init__(self, document: Document, watcher: Watcher, endpoint: str) -> None:
        self._watcher = watcher
        self._shown: Any = None
        self._streams: dict[str, str] = {}  # by what the page calls them
        self._head = Div(
            name="head",
            sizing_mode="stretch_width",
            margin=(10, 0, 0, 0),
            stylesheets=[InlineStyleSheet(css=facts_css())],
        )
        self._chooser = Select(
            name="chooser",
            title="Stream",
            width=280,
            margin=0,
            options=_options([NO_STREAM]),
            value=NO_STREAM,
            stylesheets=[InlineStyleSheet(css=CHOOSER)],
        )
        self._panels = panels()
        blank = Track("")
        self._cards = [card(panel, panel.name, blank) for panel in self._panels]
        self._notes = [
            Div(name=f"note-{p.name}", text="", margin=(6, 0, 0, 0)) for p in self._panels
        ]
        self.refresh()
        self._chooser.on_change("value", self._choose)
        for root in (self._chooser, self._head, *self._notes, *(p.figure for p in self._panels)):
            document.add_root(root)
        document.title = "stream-lstm"
        document.template = template()
        document.template_variables.update(
            live=True,
            subtitle=f"Predictions published at {endpoint}, as they come.",
            runs=[{"panels": self._cards}],
            comparison=None,
            facts_css=facts_css(),
            footer=f"stream-lstm {__version__}. The daemon does nothing for this page.",
        )
        document.add_periodic_callback(self.refresh, EVERY_MS)

    def _choose(self, attr: str, old: str, new: str) -> None:  # noqa: ARG002 - Bokeh gives them
        self.refresh()

    def refresh(self) -> None:
        """Show what is known by now."""
        with self._watcher.lock:
            names = sorted(self._watcher.tracks)
        self._streams = {label(name): name for name in names}
        shown = list(self._streams)
        if names and shown != self._chooser.options:
            self._chooser.options = _options(shown)
            if self._chooser.value not in shown:
                self._chooser.value = shown[0]
        with self._watcher.lock:
            stream = self._streams.get(str(self._chooser.value), str(self._chooser.value))
            track = self._watcher.tracks.get(stream) or Track(stream)
            status = self._watcher.status(stream)
            text = head_html(_sentence(verdict(track)), facts(track), status.text, bad=status.bad)
            if self._head.text != text:
                self._head.text = text
            state = _state(track)
            if state != self._shown:
                self._shown = state
                self._fill(track)

    def _fill(self, track: Track) -> None:
        for panel, note in zip(self._panels, self._notes, strict=True):
            has_data = panel.has_data(track)
            if has_data:
                panel.fill(track)
            # in the place of a figure without data stands why it has none
            panel.figure.visible = has_data
            note.text = panel.note(track)


def _state(track: Track) -> tuple[Any, ...]:
    """Return what changes whenever a figure would."""
    counts = track.predictions, track.scores.labels, track.updates, track.refused, track.rollbacks
    return (id(track), *counts, len(track.targets().n), *track.spells)


def _options(names: list[str]) -> list[Any]:
    return list(names)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
