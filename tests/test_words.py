"""What a person reads is plain English: the words that nobody would say are not in it.

The patterns are those that can be held without false alarms. They are looked for in the README,
the manual, the help of every command, the public docstrings and the strings of the package.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_manual import DOCUMENTS, LEAVES, MANUAL

PACKAGE = MANUAL.parent

PLAINER = {
    r"\b(?:tells?|told|says?|said|telling) of\b": "reports, lists, warns",
    r"\b(?:is|are|was|were|be|been) told\b|\bto be told\b": "receives, reads, is shown",
    r"(?<!\bthere )\b(?:is|are|was|were) none\b": "not a, without",
    r"(?<!\bthere )\bis no (?!(?:more|longer|less|later|better|fewer|larger)\b)": "is not a",
    r"\bthere is no \w+ that is\b": "not a, without",
    r"\bit is looked\b|\blooked whether\b": "checks",
    r"\bgo(?:es)? before\b": "overrides, takes precedence",
    r"\b(?:go|goes|went|going) on\b": "continues",
    r"\banew\b": "again; restarts",
    r"(?<!looked )\bat once\b": "immediately, together",
    r"\bfor ?ever\b": "permanently",
    r"\bside by side\b": "together, in parallel",
    r"\bin vain\b": "failed",
    r"\b(?:come|comes|came|coming) (?:of|to be)\b": "results, happens",
    r"\bwhoever\b": "the noun: a client, a process",
    r"\bwho asks?\b|\bwho has\b": "the noun: clients that request",
    r"\blet in\b|\blets? \w+ in\b": "accepted, admitted",
    r"\blets\b": "what the program does",
    r"\bstands\b(?! for\b)|\bstand (?:in|at|beside|behind|under)\b": "is in, is at",
    r"\b(?:lies|lie|lay) (?:in|at|beside|behind|there)\b": "is in",
    r"\bsuch that nobody\b": "so that no process",
    r"\bhave (?:it|them) \w+ed\b": "what the program does",
    r"\bwhat (?:is|was) (?:there|held|said|let|taken|had)\b": "the thing, by its noun",
    r"\bforeknowledge\b": "look-ahead",
}
"""What not to write, and what to write; the Python value None is not the word."""

PATTERNS = [(re.compile(f"(?i:{pattern})"), words) for pattern, words in PLAINER.items()]
PYTHON = re.compile(r"\bNone\b")


def odd(text: str) -> list[str]:
    """Return the odd words of a text, each with its surroundings and what to write."""
    flat = PYTHON.sub("null", " ".join(text.split()))
    return [
        f"{flat[max(0, found.start() - 40) : found.end() + 30]!r}: write {words}"
        for pattern, words in PATTERNS
        for found in pattern.finditer(flat)
    ]


def test_the_patterns_find_what_they_are_for() -> None:
    for text in ("it is told of", "x is no label", "Keys are let in", "who asks for it", "Anew"):
        assert odd(text), text
    for text in ("is no more than 3", "there is no store", "he stands for None", "a stand-by"):
        assert not odd(text), text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_plain(name: str) -> None:
    assert not odd(DOCUMENTS[name])


@pytest.mark.parametrize(
    "words",
    sorted(LEAVES),
    ids=" ".join,
)
def test_the_help_of_a_command_is_plain(words: tuple[str, ...]) -> None:
    command = LEAVES[words]
    texts = [command.help, *(getattr(p, "help", None) for p in command.params)]
    assert not [found for text in texts if text for found in odd(text)]


# ---- the package --------------------------------------------------------------------------


def folders() -> list[str]:
    return sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")})


def files_of(folder: str) -> list[Path]:
    path = PACKAGE / folder
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("folder", folders())
def test_the_strings_and_public_docstrings_of_the_package_are_plain(folder: str) -> None:
    found = []
    for path in files_of(folder):
        for line, text in readable(ast.parse(path.read_text(encoding="utf-8"))):
            found += [f"{path.relative_to(PACKAGE)}:{line} {words}" for words in odd(text)]
    assert not found, "\n".join(found)


def test_the_benchmarks_are_plain() -> None:
    found = []
    for path in sorted((Path(__file__).parents[1] / "bench").rglob("*.py")):
        for line, text in readable(ast.parse(path.read_text(encoding="utf-8"))):
            found += [f"{path.name}:{line} {words}" for words in odd(text)]
    assert not found, "\n".join(found)


def readable(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every string of a module that a person may see, with its line.

    The docstrings of private names are left out; strings that are joined are taken together.
    """
    private = set(_private_docstrings(tree, False))
    parts = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for value in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(_text(value) for value in node.values)
            yield node.lineno, text
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            joined = id(node) in parts or id(node) in private
            yield from () if joined else [(node.lineno, node.value)]


def _text(value: ast.expr) -> str:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else "…"


def _private_docstrings(node: ast.AST, private: bool) -> Iterator[int]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            hidden = private or (child.name.startswith("_") and not child.name.startswith("__"))
            first = child.body[0]
            if hidden and isinstance(first, ast.Expr):
                yield id(first.value)
            yield from _private_docstrings(child, hidden)
