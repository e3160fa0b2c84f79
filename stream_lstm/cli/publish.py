"""`stream-lstm publish`: a historical file as a live feed, at the pace of its recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ..errors import ConfigurationError, UsageError
from ..feed.pace import Speed, parse_speed
from ..schema import Encoding
from .input_file import (
    FileArgument,
    InputFile,
    JsonOption,
    LimitOption,
    OnBadRowOption,
    StreamOption,
    TimeOption,
    TimeUnitOption,
    one_of,
)
from .options import configured
from .peers import print_refused_peers
from .process import say, say_json
from .settings import Settings
from .synthetic_input import SeriesSeedOption, SyntheticOption, chosen_input

if TYPE_CHECKING:
    from ..feed.security import Security

MAX_BLOCK = 65_536
"""Ticks that the protocol lets one record hold."""

RING = 100_000
"""Ticks that a publisher keeps of each stream, as `feed.ring` has it."""


EncodingOption = Annotated[
    str, typer.Option(metavar="msgpack|json", help="Encoding of the records.")
]
RecoveryOption = Annotated[
    str | None,
    typer.Option(
        metavar="ENDPOINT",
        help="ZeroMQ endpoint to answer at who asks for lost ticks.",
        show_default="none",
    ),
]
RingOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Ticks that are kept for who asks.")
]


class Publication(msgspec.Struct, frozen=True):
    """What is to be published, where and how; no `columns` means all that are numeric."""

    file: InputFile
    bind: str
    columns: tuple[str, ...] | None
    speed: Speed
    block: int
    encoding: Encoding
    subscribers: int
    wait_timeout_s: float
    send_timeout_s: float
    security: Security | None = None
    recovery: str | None = None
    ring: int = RING


@configured(("security",))
def command(
    file: FileArgument = None,
    bind: Annotated[
        str, typer.Option(metavar="ENDPOINT", help="ZeroMQ endpoint to publish at.")
    ] = "tcp://127.0.0.1:5555",
    stream: StreamOption = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="The values of a tick.", show_default="all numeric columns"
        ),
    ] = None,
    time: TimeOption = None,
    time_unit: TimeUnitOption = "auto",
    speed: Annotated[
        str | None,
        typer.Option(
            metavar="recorded|max|10x|5000/s",
            help="The pace, in recorded time or ticks a second.",
            show_default="recorded with --time, or else max",
        ),
    ] = None,
    wait_subscribers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Wait until this many have subscribed.")
    ] = 0,
    wait_timeout: Annotated[
        float, typer.Option(min=0, metavar="S", help="Give up waiting for them after S seconds.")
    ] = 30.0,
    send_timeout: Annotated[
        float,
        typer.Option(min=0.001, metavar="S", help="Give up when one takes nothing for S seconds."),
    ] = 30.0,
    block: Annotated[
        int, typer.Option(min=1, max=MAX_BLOCK, metavar="N", help="Ticks in one record.")
    ] = 1,
    encoding: EncodingOption = "msgpack",
    recovery: RecoveryOption = None,
    ring: RingOption = RING,
    limit: LimitOption = None,
    synthetic: SyntheticOption = None,
    series_seed: SeriesSeedOption = None,
    on_bad_row: OnBadRowOption = "fail",
    as_json: JsonOption = False,
    *,
    settings: Settings,
) -> None:
    """Publish a historical file or a synthetic stream as a live feed, and say when it has ended.

    Example: stream-lstm publish quotes.csv.gz --columns bid,ask --time time_ns --speed 10x
    """
    from ..feed.security import Security
    from .sending import send_file

    security = Security(settings.config.security)
    security.check_bind(bind)
    if recovery is not None:
        security.check_bind(recovery)
    publication = Publication(
        file=chosen_input(
            file,
            synthetic,
            stream,
            series_seed=series_seed,
            time=time,
            time_unit=time_unit,
            on_bad_row=on_bad_row,
            limit=limit,
        ),
        bind=bind,
        columns=None if columns is None else tuple(name.strip() for name in columns.split(",")),
        speed=_speed(speed, time),
        block=block,
        encoding=one_of("--encoding", encoding, Encoding),
        subscribers=wait_subscribers,
        wait_timeout_s=wait_timeout,
        send_timeout_s=send_timeout,
        security=security,
        recovery=recovery,
        ring=ring,
    )
    try:
        sent = send_file(publication)
    except ConfigurationError as error:
        # Flags are all that configures this command; the file's reader cannot know that.
        raise UsageError(*error.lines) from None
    if as_json:
        say_json(sent)
    else:
        say(_sentence(sent))
        print_refused_peers(sent["refused_peers"])


def _speed(text: str | None, time: str | None) -> Speed:
    if text is None:
        return Speed("max" if time is None else "recorded")
    speed = parse_speed(text)
    if speed.kind == "recorded" and time is None:
        raise UsageError(f"--speed {text} needs times: name their column with --time COLUMN")
    return speed


def _sentence(sent: dict[str, Any]) -> str:
    rate = sent["ticks"] / sent["wall_s"] if sent["wall_s"] else 0.0
    cut = ", stopped by a signal" if sent["interrupted"] else ""
    return (
        f"{sent['stream']}: {sent['ticks']:,} ticks sent in {sent['wall_s']:.2f} s "
        f"({rate:,.0f} a second){cut}"
    )
