"""Real series: the same bits however they come, and no skill shown where there is none."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_lstm.cli.main import main
from stream_lstm.core.replay import Digest
from stream_lstm.core.session import Session
from stream_lstm.events import Output, Prediction, Ticks
from stream_lstm.feed.files import open_file

from .engines import engine_for, settings

COMMAND = Path(sys.executable).with_name("stream-lstm")

SERIES = {
    "eurusd_quotes.csv.gz": ("time_ns", ["bid", "ask"], ["log_return(mid(bid, ask))"]),
    "ibm_trades.csv.gz": ("time_ns", ["price", "size"], ["log_return(price)", "log1p(size)"]),
    "btcusdt_book.csv.gz": (
        "time_ns",
        ["bid_px", "bid_qty", "ask_px", "ask_qty"],
        ["diff(mid(bid_px, ask_px))", "imbalance(bid_qty, ask_qty)", "elapsed()"],
    ),
    "gbpusd_minutes.csv.gz": ("timestamp", ["close"], ["log_return(close)"]),
}


def digest_in_blocks(data_dir: Path, name: str, sizes: list[int], *, learn: bool) -> str:
    time, columns, features = SERIES[name]
    digest = Digest()

    def count(event: Output) -> None:
        if isinstance(event, Prediction):
            digest.add(event)

    config = settings(features=features, learn=learn, window=100, bptt=20, hidden=8)
    session = Session(config, columns, count, engine=engine_for(config, len(features)))
    source = open_file(
        data_dir / name, columns=columns, time=time, limit=3000, on_refusal=lambda refusal: None
    )
    with source:
        block = next(iter(source.blocks()))
    start, turn = 0, 0
    while start < len(block.values):
        part = slice(start, start + sizes[turn % len(sizes)])
        session.push(Ticks(name, block.t_ns[part], block.values[part]))
        start, turn = part.stop, turn + 1
    return digest.hexdigest()


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The record of a replay in this process."""

    def run(file: Path, *arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["stream-lstm", "replay", str(file), *arguments])
        with contextlib.suppress(SystemExit):
            main()
        record: dict[str, Any] = json.loads(capsys.readouterr().out)
        return record

    return run


@pytest.mark.slow
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("name", SERIES)
def test_the_cut_into_blocks_changes_no_bit(data_dir: Path, name: str, learn: bool) -> None:
    whole = digest_in_blocks(data_dir, name, [3000], learn=learn)
    assert digest_in_blocks(data_dir, name, [1], learn=learn) == whole
    assert digest_in_blocks(data_dir, name, [1, 9, 77, 1000], learn=learn) == whole
    assert digest_in_blocks(data_dir, name, [2999], learn=not learn) != whole


@pytest.mark.slow
def test_a_live_feed_gives_the_digest_of_a_replay(data_dir: Path, replay: Any) -> None:
    file, count = data_dir / "eurusd_quotes.csv.gz", "8000"
    model = ["--feature", "log_return(mid(bid, ask))", "--learn", "--json"]
    feed = ["--bind", "tcp://127.0.0.1:*", "--stream", "eurusd_quotes", "--columns", "bid,ask"]
    pace = ["--speed", "max", "--limit", count, "--wait-subscribers", "1"]
    with subprocess.Popen(
        [COMMAND, "publish", file, *feed, *pace], stderr=subprocess.PIPE, text=True
    ) as publisher:
        assert publisher.stderr is not None
        endpoint = publisher.stderr.readline().split(" at ")[1].strip()
        live = subprocess.run(
            [COMMAND, "run", "--connect", endpoint, "--until-end", "--idle-timeout", "60", *model],
            capture_output=True,
            text=True,
            check=True,
        )
    replayed, fed = replay(file, "--limit", count, *model), json.loads(live.stdout)
    assert fed["ticks"] == int(count)
    for key in ("digest", "elements", "predictions", "labels", "log_loss", "updates"):
        assert fed[key] == replayed[key], key


def test_bars_without_signal_show_none(data_dir: Path, replay: Any) -> None:
    file = data_dir / "gbpusd_minutes.csv.gz"
    done = replay(file, "--feature", "log_return(close)", "--learn", "--json")
    assert done["labels"] == 3002
    assert done["log_loss"] <= done["base_rate_log_loss"] + 0.01
    assert abs(done["accuracy"] - 0.5) < 0.05
    for rival in ("coin", "base_rate", "last_label"):
        assert done["evidence"][rival]["better"]["labels_to_proof"] is None
    assert done["verdict"].startswith("no evidence yet after 3,002 labels")


def test_skill_on_quotes_is_proven_within_3000_labels(data_dir: Path, replay: Any) -> None:
    file = data_dir / "eurusd_quotes.csv.gz"
    feature = "log_return(mid(bid, ask))"
    done = replay(file, "--feature", feature, "--learn", "--limit", "30000", "--json")
    assert done["labels"] < 3000
    proof = done["evidence"]["base_rate"]["better"]
    assert proof["labels_to_proof"] is not None
    assert proof["highest_log_e"] > 3.0
    assert done["verdict"].startswith("better than the base rate (evidence ")


@pytest.mark.slow
def test_a_files_own_labels_are_learned(data_dir: Path, replay: Any) -> None:
    """Elec2, the label of the row itself: nothing but prices, and the label of the row before."""
    features = [f"--feature={name}" for name in ("nswprice", "nswdemand", "lag(up)")]
    label = ["--label-column", "up", "--horizon", "0", "--stride", "1", "--scaling", "zscore"]
    learn = ["--learn", "--limit", "4000", "--twin", "frozen", "--json"]
    done = replay(data_dir / "elec2.csv.gz", *features, *label, *learn)
    assert done["labels"] == 3900
    assert done["refused_labels"] == 0
    assert done["log_loss"] < done["base_rate_log_loss"] - 0.2
    assert done["log_loss"] < done["frozen_log_loss"] - 0.1
    late = replay(data_dir / "elec2.csv.gz", *features, *label, "--label-delay=500", *learn)
    assert late["label_column"]["undelivered"] == 500
    assert done["log_loss"] < late["log_loss"] < late["frozen_log_loss"]
