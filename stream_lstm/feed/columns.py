"""Whether the columns of a feed are ours, as its publishers say in heartbeats and welcomes."""

from __future__ import annotations

from collections.abc import Sequence

MAX_SESSIONS = 1000
"""Sessions that are remembered for having other columns; a session is easily forged."""

MAX_SHOWN = 1000
"""Characters of the names that a reason quotes: one is kept for every refused session."""


class Columns:
    """The names of our columns, and the publishers' sessions whose ticks must not be taken.

    ours: names in their order. `refused` has the sessions, and why; `others` are names that
    are not ours and were taken by their place.
    """

    def __init__(self, ours: tuple[str, ...]) -> None:
        self.refused: dict[str, str] = {}
        self.others: tuple[str, ...] = ()
        self.ours = ours
        self._places = {name: place for place, name in enumerate(ours)}

    def compare(self, session: str, theirs: tuple[str, ...]) -> bool:
        """Hold what a session calls its values against ours; return whether it is newly refused.

        Ours may have other names, but not the same ones elsewhere, nor more or fewer.
        """
        ours = self.ours
        if not theirs:
            return False
        if theirs == ours or (
            len(theirs) == len(ours)
            and all(self._places.get(name, place) == place for place, name in enumerate(theirs))
        ):
            self.refused.pop(session, None)
            if theirs != ours:
                self.others = theirs
            return False
        if session in self.refused:
            return False
        if len(self.refused) >= MAX_SESSIONS:
            self.refused.pop(next(iter(self.refused)))
        self.refused[session] = (
            f"the feed's columns are {_shown(theirs)}, and here they are {_shown(ours)}: "
            f"name them in the feed's order, --columns {_shown(theirs, ',')}"
        )
        return True


def _shown(names: Sequence[str], comma: str = ", ") -> str:
    """Return names as one line, cut where it would be long."""
    text = comma.join(names)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(names)} in all)"
