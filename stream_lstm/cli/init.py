"""`stream-lstm init` and `listen`: a configuration for a file or a feed, and what a feed sends.

The settings come from a bounded look at the source (see `feed.look`). A feature is suggested only
if its values over the sample are finite and vary. The parser of `--config` reads the text back
before it is written.
"""

from __future__ import annotations

import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from ..config import KEYS, Config, build, flatten, parse_tables
from ..core.expressions import Column, columns_of
from ..errors import ConfigurationError, DataError, OutputError, UsageError
from ..feed.input_file import InputFile
from ..quoting import json_line, printable
from ..schema import FeedConfig, SecurityConfig
from .console import note, say, say_json
from .options import JsonOption, key_help, options
from .settings import Settings

if TYPE_CHECKING:
    from ..feed.look import FeedLook, FileLook

FEW_ROWS = 20
"""Fewer values do not show whether a column varies around zero."""

MOST_OTHERS = 5
"""Further features that are listed as comments."""

PRICES = ("mid", "price", "close", "last", "px", "rate", "quote", "value", "open", "high", "low")
AMOUNTS = ("size", "qty", "quantity", "volume", "vol", "amount", "count", "num", "id", "seq",
           "index", "idx", "no", "row", "n")  # fmt: skip
"""Words in the names of columns with prices, the first ones preferred, and of doubtful ones."""

VOLUMES = AMOUNTS[:6]
"""Words in the names of columns with volumes."""

COMMON = ("features", "window", "stride", "horizon", "labels", "on_missing", "hidden", "layers",
          "weights", "scaling", "learn", "optimizer", "learning_rate", "bank", "connect",
          "columns", "publish", "store", "metrics")  # fmt: skip
"""Keys that are listed for a file or a feed, beside those that it needs."""

EXAMPLES: Mapping[str, Any] = {
    "threshold": 0.0,
    "weights": "weights.safetensors",
    "compile_cache": "compiled",
    "topic": "quotes/",
    "time_field": "time",
    "publish": "tcp://127.0.0.1:5556",
    "store": "stream-lstm.db",
    "curve_dir": "keys",
    "metrics": "127.0.0.1:9464",
}
"""Values of the keys that are not set by default."""


class Draft(NamedTuple):
    """The settings to write, further features, notes, and the command to type after the check.

    `facts` are for the JSON object.
    """

    settings: Mapping[str, Any]
    others: Sequence[str]
    notes: Sequence[str]
    run: str
    facts: Mapping[str, Any]


@options()
def command(
    *,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|ENDPOINT",
            help="A file that replay reads, or the endpoint of a running publisher, such as "
            "tcp://127.0.0.1:5555. Without it, every key is listed with its default.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE.toml", help="The configuration file to write.")
    ] = Path("stream-lstm.toml"),
    force: Annotated[
        bool, typer.Option("--force", "--overwrite", help="Replace a file of that name.")
    ] = False,
    container: Annotated[
        bool,
        typer.Option(
            "--container",
            help="Also write, beside it, a Containerfile, a compose file, and the scrape "
            "configuration and alerts of a Prometheus.",
        ),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            min=0.1, max=3600, metavar="S", help="Seconds to wait for a feed's first message."
        ),
    ] = 10.0,
    curve_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Key directory, for an encrypted feed.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a commented configuration for a file or a feed, and print what to type next.

    Example: stream-lstm init quotes.csv.gz
    """
    if out.is_dir() or not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: name a file in a directory that exists")
    if out.exists() and source and Path(source).exists() and out.samefile(source):
        raise UsageError(f"--out {out} is the file that is read; name another")
    if out.exists() and not force:
        raise UsageError(f"{out} exists already; --force replaces it")
    beside = container_files(out) if container else {}
    if (there := [str(path) for path in beside if path.exists()]) and not force:
        raise UsageError(f"{there[0]} exists already; --force replaces it")
    name = shlex.quote(str(out))
    if source is None:
        draft = Draft({}, (), (), f"stream-lstm run --config {name}", {})
    elif "://" in source:
        draft = draft_feed(source, name, wait, curve_dir)
    else:
        draft = draft_file(InputFile(Path(source), "file"), str(out))
    text = render(source, draft)
    build(parse_tables(tomllib.loads(text)))
    for path, content in {out: text, **beside}.items():
        try:
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from None
    commands = [f"stream-lstm check-config {name}", draft.run]
    if as_json:
        say_json({"file": str(out), "source": source, **draft.facts, "next": commands})
        return
    note(f"Wrote {', '.join(map(str, (out, *beside)))}.", *draft.notes, "Next, type:")
    say(*commands)


CONTAINER = (
    "container/Containerfile",
    "container/compose.yaml",
    "monitoring/prometheus.yml",
    "monitoring/alerts.yml",
)
"""Data files of the package that `--container` writes."""


def container_files(config: Path) -> dict[Path, str]:
    """Return the files of a container beside a configuration, and their contents."""
    data, default = files("stream_lstm") / "data", json_line("stream-lstm.toml")
    return {
        config.with_name(name.rpartition("/")[2]): (data / name)
        .read_text(encoding="utf-8")
        .replace(f"COPY [{default}", f"COPY [{json_line(config.name)}")
        for name in CONTAINER
    }


def draft_file(file: InputFile, config: str) -> Draft:
    """Return the draft for a file; raises what `look_at_file` raises."""
    from ..feed.look import look_at_file

    look = look_at_file(file)
    features = suggest(look.columns, look.values)
    words = ["stream-lstm", "replay", str(file.path), "--config", config, "--learn"]
    line = shlex.join([*words, *row_flags(look, features[0])])
    notes = [f"Columns: {printable(', '.join(look.names))}."]
    if empty := [n for n, y in zip(look.columns, look.values.T, strict=True) if np.isnan(y).any()]:
        notes += [f"Values are missing in {printable(', '.join(empty))}: see on_missing."]
    facts = {"columns": look.columns, "features": features, "time": look.time}
    facts |= {"stream_column": look.stream_column}
    settings = {"features": features[:1], "columns": look.columns}
    return Draft(settings, features[1:], notes, line, facts)


def row_flags(look: FileLook, feature: str) -> list[str]:
    """Return the flags of `replay` that read a file's rows for a feature."""
    used = [look.columns.index(name) for name in columns_of([feature])]
    skip = look.skip or not np.isfinite(look.values[:, used]).all()
    file = look.file
    flags = {"--time": file.time, "--time-format": file.time_format}
    flags |= {"--stream-column": file.stream_column, "--on-bad-row": "skip" if skip else None}
    words = [word for flag, text in flags.items() if text for word in (flag, text)]
    return words + ["--reverse"] * file.reverse


def draft_feed(endpoint: str, config: str, wait_s: float, curve_dir: str | None) -> Draft:
    """Return the draft for a feed; raises what `look_at_feed` raises."""
    from ..feed.look import look_at_feed
    from ..feed.security import Security

    feed = FeedConfig(connect=(endpoint,))
    look = look_at_feed(feed, wait_s, Security(SecurityConfig(curve_dir=curve_dir)))
    columns = look.settings["columns"]
    features = suggest(columns, look.values)
    streams = printable(", ".join(look.streams), 300) or "none yet"
    notes = [
        f"Messages read: {look.messages - look.refused} of {look.messages}. Streams: {streams}.",
        "Ticks have sequence numbers, so that lost ticks are noticed."
        if look.numbered
        else "Ticks have no sequence numbers: lost ticks cannot be noticed.",
    ]
    if look.look is not None and look.look.doubtful:
        notes.append(f"Not certain: {look.look.kind}; {look.look.doubtful}.")
    facts = {key: look.settings.get(key) for key in ("columns", "payload", "topic", "time_field")}
    facts |= {"features": features, "streams": look.streams, "sequence_numbers": look.numbered}
    settings = look.settings | {"features": features[:1]}
    if curve_dir is not None:
        settings["curve_dir"] = curve_dir
    run = f"stream-lstm run --config {config} --learn"
    return Draft(settings, features[1:], notes, run, facts)


# ---- listen ------------------------------------------------------------------------------

SHOWN_TOPICS, SHOWN_MESSAGES, SHOWN_BYTES = 8, 3, 48
"""How much of a feed is shown."""


@options("security", extra=("connect", "bind_feed", "feed_socket", "subscribe", "receive_hwm"))
def listen(
    *,
    settings: Settings,
    wait: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=3600,
            metavar="S",
            help="Seconds to wait, before and after the first message.",
        ),
    ] = 10.0,
    messages: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="Messages to take, at most.")
    ] = 256,
    as_json: JsonOption = False,
) -> None:
    """Show what a feed sends, what it looks like, and the command that reads it.

    Example: stream-lstm listen --connect tcp://127.0.0.1:5555
    """
    from ..feed import look as feed_look
    from ..feed.security import Security
    from ..feed.sniff import sniff

    feed, security = settings.config.feed, settings.config.security
    if not (feed.connect or feed.bind_feed):
        raise UsageError("name the publisher with --connect, or bind with --bind-feed")
    heard = feed_look.listen(feed, wait, Security(security), messages)
    record = described(heard.messages, heard.seconds)
    try:
        look = feed_look.judge(feed, heard.messages)
    except DataError as error:
        found = sniff(heard.messages)
        record |= {"looks_like": found.kind, "doubtful": found.doubtful, "command": None}
        record["problem"] = str(error)
    else:
        features = suggest(look.settings["columns"], look.values)
        words = ["stream-lstm", "run", *flags_of(feed), *form_flags(look)]
        words += ["--feature", features[0]]
        if security.curve_dir is not None:
            words += ["--curve-dir", security.curve_dir]
        known = look.look
        record["looks_like"] = "records of this protocol" if known is None else known.kind
        record["doubtful"] = "" if known is None else known.doubtful
        record |= {"columns": list(look.settings["columns"]), "streams": look.streams}
        record |= {"sequence_numbers": look.numbered, "command": shlex.join(words)}
    if as_json:
        say_json(record)
        return
    show_feed(record)


def flags_of(feed: FeedConfig) -> list[str]:
    """Return the flags that say where a feed's messages come from."""
    words = [word for one in feed.connect for word in ("--connect", one)]
    words += [word for one in feed.bind_feed for word in ("--bind-feed", one)]
    words += [word for one in feed.subscribe for word in ("--subscribe", one)]
    return words + (["--feed-socket", "pull"] if feed.feed_socket == "pull" else [])


def form_flags(look: FeedLook) -> list[str]:
    """Return the flags that say what a feed's messages are."""
    if look.look is None:
        return ["--columns", ",".join(look.settings["columns"])]
    return shlex.split(look.look.flags)


def described(messages: Sequence[Sequence[bytes]], seconds: float) -> dict[str, Any]:
    """Return the topics, rate and sizes of messages, and the first ones in hex and text."""
    topics = Counter(
        printable(frames[0].decode(errors="backslashreplace"), 80) if len(frames) > 1 else ""
        for frames in messages
    )
    sizes = [sum(map(len, frames)) for frames in messages]
    mean = round(sum(sizes) / len(sizes), 1)
    return {
        "messages": len(messages),
        "per_s": round((len(messages) - 1) / seconds, 3) if seconds > 0 else None,
        "bytes": {"least": min(sizes), "most": max(sizes), "mean": mean},
        "frames": sorted({len(frames) for frames in messages}),
        "topics": dict(topics.most_common(SHOWN_TOPICS)),
        "further_topics": max(len(topics) - SHOWN_TOPICS, 0),
        "first": [
            [
                {"text": repr(frame[:SHOWN_BYTES])[2:-1], "hex": frame[:SHOWN_BYTES].hex(" ")}
                for frame in frames[:8]
            ]
            for frames in messages[:SHOWN_MESSAGES]
        ],
    }


def show_feed(record: Mapping[str, Any]) -> None:
    """Print what `listen` found."""
    rate = "" if record["per_s"] is None else f", {record['per_s']:g} a second"
    sizes = record["bytes"]
    note(f"{record['messages']} messages{rate}, {sizes['least']} to {sizes['most']} bytes")
    for topic, count in record["topics"].items():
        note(f"  topic {topic!r}: {count}" if topic else f"  one frame, without a topic: {count}")
    if record["further_topics"]:
        note(f"  and {record['further_topics']} more topics")
    for k, frames in enumerate(record["first"], 1):
        for j, frame in enumerate(frames, 1):
            note(f"message {k}, frame {j}: {frame['text']}", f"    {frame['hex']}")
    note(f"It looks like {record['looks_like']}.")
    if record["doubtful"]:
        note(f"This is not certain: {record['doubtful']}.")
    if record["command"] is None:
        raise DataError(record["problem"])
    note("This command reads it:")
    say(record["command"])


# ---- the text ----------------------------------------------------------------------------


def render(source: str | None, draft: Draft) -> str:
    """Return the configuration as TOML, each key with its help in a comment."""
    what = "every key with its default" if source is None else f"for {printable(source)}"
    lines = [f"# Configuration of stream-lstm: {what}.", *(f"# {note}" for note in draft.notes)]
    lines += [f"# Use it with: {printable(draft.run)}", "# Remove the # before a key to set it."]
    table = ""
    for key, default in flatten(Config()).items():
        text = key_help(key)
        listed = source is None or key in COMMON or key in draft.settings
        if not listed or text.startswith("does nothing"):
            continue
        if KEYS[key] != table:
            table = KEYS[key]
            lines += ["", f"[{table}]"]
        lines.append(f"# {text.split('. ')[0].rstrip('.')}.")
        if key in draft.settings:
            lines.append(f"{key} = {toml(draft.settings[key])}")
        elif default is None:
            lines.append(f"#{key} = {toml(EXAMPLES[key])}  # an example; not set by default")
        else:
            lines.append(f"#{key} = {toml(default)}")
        if key == "features":
            lines += [f"#features = {toml([other])}" for other in draft.others[:MOST_OTHERS]]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """Return a value as TOML; DataError for text that no TOML file can hold."""
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise DataError(f"{value!r} is not valid Unicode: rename it")
        marks = {'"': '\\"', "\\": "\\\\"}
        return f'"{"".join(marks.get(c) or _escaped(c) for c in value)}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _escaped(character: str) -> str:
    return character if character.isprintable() else f"\\U{ord(character):08x}"


# ---- features ----------------------------------------------------------------------------


def suggest(names: Sequence[str], values: Any) -> list[str]:
    """Return features over columns, the most likely first; values: float64 (m, C), a sample."""
    groups = _candidates(names, values)
    found = (next((form for form in forms if _works(form, names, values)), "") for forms in groups)
    fullest = names[int(np.isfinite(values).sum(axis=0).argmax())]
    return [form for form in found if form] or [f"diff({Column(fullest)})"]


def _candidates(names: Sequence[str], values: Any) -> Iterator[list[str]]:
    """Yield the features of each pair of quotes and of each column, in order of preference.

    Sizes that come with quotes or trades are used with these.
    """
    from ..feed.look import STREAMS, TIMES, rank

    doubtful_words = [*AMOUNTS, *TIMES, *STREAMS]
    both = [(bid, ask) for bid in names if (ask := _ask_of(bid, names))]
    sizes = [pair for pair in both if rank(pair[0], AMOUNTS) < len(AMOUNTS)]
    quotes = {name for pair in both if pair not in sizes for name in pair}
    for bid, ask in both:
        if bid in quotes:
            mid = f"mid({Column(bid)}, {Column(ask)})"
            yield [f"log_return({mid})", f"diff({mid})"]
    for bid, ask in sizes if quotes else []:
        yield [f"imbalance({Column(bid)}, {Column(ask)})"]
    ranked = []
    for place, name in enumerate(names):
        column = values[np.isfinite(values[:, place]), place]
        text, word = str(Column(name)), rank(name, PRICES)
        signed = len(column) >= FEW_ROWS and min(np.mean(column > 0), np.mean(column < 0)) > 0.1
        signed = bool(signed and abs(column.mean()) < column.std())
        forms = [text] if signed else [f"diff({text})", text]
        if word < len(PRICES) and not signed:
            forms.insert(0, f"log_return({text})")
        doubtful = rank(name, doubtful_words) < len(doubtful_words) or name in quotes
        doubtful |= bool(2 * len(column) < len(values) or np.isin(column, (0, 1)).all())
        ranked.append(((doubtful and not signed, word, not signed, place), forms))
    (_, first), *rest = sorted(ranked)
    yield first
    price = next((name for name in names if first[0] == f"log_return({Column(name)})"), "")
    volume = next((name for name in names if rank(name, VOLUMES) < len(VOLUMES)), "")
    if price and volume and not quotes:
        yield [f"signed_volume({Column(price)}, {Column(volume)})"]
    yield from (forms for _, forms in rest)


def _ask_of(bid: str, names: Sequence[str]) -> str:
    return next(filter(None, (_other_side(bid, side, names) for side in ("ask", "offer"))), "")


def _other_side(bid: str, side: str, names: Sequence[str]) -> str:
    """Return the column that is called as `bid` is, with the other side's word in it, or ""."""
    for old, new in (("bid", side), ("BID", side.upper()), ("Bid", side.capitalize())):
        if old in bid and (other := bid.replace(old, new)) in names:
            return other
    return ""


def _works(form: str, names: Sequence[str], values: Any) -> bool:
    """Return whether a feature can be computed over the sample, and varies in it."""
    from ..core.feature_sets import compile_features

    try:
        feature = compile_features([form], names)
    except ConfigurationError:
        return False
    used = [names.index(name) for name in columns_of([form])]
    rows = values[np.isfinite(values[:, used]).all(axis=1)]
    made = feature.evaluate(np.zeros(len(rows), np.int64), np.ascontiguousarray(rows))
    few = len(values) < FEW_ROWS
    return bool(np.isfinite(made).all() and (few or (made.size and np.ptp(made) > 0)))
