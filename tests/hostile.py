"""Text that drives a terminal, forges a line or turns the order of letters round."""

import unicodedata

CONTROLS = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\x7f\t"
BIDI = "\u202egpj.exe\u2066\u200f"
LINES = "\nready: all is well\u2028ready: forged\u2029\x85"
HOSTILE = CONTROLS + BIDI + LINES
"""All of it."""

FORGED = ("ready: all is well", "ready: forged")


def raw(text: str) -> str:
    """What of a text that was shown is raw: its own line ends are not."""
    forged = [line for line in text.splitlines() if line.startswith(FORGED)]
    own = text.replace("\n", "")
    return "".join(
        c for c in own if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ) + "".join(forged)
