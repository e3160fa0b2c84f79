"""A picture of the live page, of a real daemon that learns from the demo's feed.

    python -m bench.picture --out .github/live-page.png

It starts the feed, `run --watch` with a store, and Chromium at 1280 x 800, waits until every
figure has data and the stream its labels, and keeps the whole page in 256 colours. Needs the extra
`test` and a Chromium.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from stream_lstm.feed.child import demo_feed
from stream_lstm.feed.synthetic import HiddenLevel

SIZES = {"desk": (1280, 800), "phone": (390, 844)}
SPEED, SECONDS = 200.0, 600.0
PATIENCE_MS = 180_000
PROGRAM = "from stream_lstm.cli.main import main; main()"

FULL = """(labels) => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].roots()
  .filter((root) => root.type == "Figure")
  .every((root) => root.renderers.some((one) => one.data_source.data.x?.length
                                             || one.data_source.data.left?.length))
  && Bokeh.documents[0].get_model_by_name("loss").renderers
    .some((one) => one.data_source.data.n?.at(-1) > 10 * labels)"""
"""Whether every figure has data, and the stream so many labels."""


def take(out: Path, *, labels: int, size: str, theme: str) -> None:
    """Write the picture; the page is of a stream with so many labels."""
    from playwright.sync_api import sync_playwright

    from stream_lstm.view.pictures import BROWSERS

    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        count = round(SPEED * SECONDS)
        feed = stack.enter_context(demo_feed(seed=1, speed=SPEED, count=count))
        url = _daemon(stack, feed.endpoint(), folder / "live.db")
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        stack.callback(browser.close)
        width, height = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
        page.goto(url)
        page.wait_for_function(FULL, arg=labels, timeout=PATIENCE_MS)
        _write(out, page.screenshot(full_page=True))


def _daemon(stack: ExitStack, endpoint: str, store: Path) -> str:
    """Start a daemon with its page, which end with the stack; return the page's address."""
    words = ["run", "--connect", endpoint, "--publish", "tcp://127.0.0.1:*", "--store", str(store)]
    words += ["--feature", HiddenLevel.columns[0], "--learn", "--watch"]
    daemon = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(daemon.send_signal, signal.SIGTERM)
    assert daemon.stderr is not None
    said = []
    for line in daemon.stderr:
        said.append(line)
        if found := re.search(r"live page: (http://\S+)", line):
            return found[1]
    raise SystemExit(f"the daemon ended: {''.join(said)}")


def _write(out: Path, png: bytes) -> None:
    """Write a picture in its 256 commonest colours, a third of the size."""
    from PIL import Image  # Bokeh brings it

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    counted = picture.getcolors(picture.width * picture.height)
    commonest = sorted(counted, reverse=True)[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, color in commonest for part in color])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {picture.width} x {picture.height}, {out.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=1000, help="before it is taken (1000)")
    parser.add_argument("--size", choices=SIZES, default="desk")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    given = parser.parse_args()
    take(given.out, labels=given.labels, size=given.size, theme=given.theme)


if __name__ == "__main__":
    main()
