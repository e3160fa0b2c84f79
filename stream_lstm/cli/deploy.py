"""Commands for a deployment: `check-config`, `keys` and `metrics-dashboard`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from ..config import KEYS, flatten
from ..core.expressions import columns_of
from ..errors import ConfigurationError, OutputError
from ..platform import access_advice
from ..quoting import json_line
from ..schema import LearningConfig
from ..store.startup import read_bank
from .console import note, result, say, say_json, warn
from .convert import check_free
from .options import AllowPluginsOption, JsonOption, OverwriteOption, options, use_plugins
from .settings import resolve


@options()
def check_config(
    *,
    file: Annotated[Path, typer.Argument(help="The configuration to check.", metavar="FILE.toml")],
    allow_plugins: AllowPluginsOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the settings as one JSON object.")
    ] = False,
) -> None:
    """Check a configuration file and print every resulting setting.

    Settings of the environment count as they would for run and replay. Exit code 78 and one
    sentence report an error.
    """
    resolved = resolve({}, file)
    config, values = resolved.config, flatten(resolved.config)
    use_plugins(config, allow_plugins)
    expressions = config.stream.features
    if expressions:
        from ..core.feature_sets import compile_features
        from ..core.features import check_streams

        compiled = compile_features(
            expressions, config.feed.columns or columns_of(expressions), config.stream
        )
        if config.feed.streams:
            check_streams(compiled.others, config.feed.streams)
    read_bank(config)
    if config.learning.learn:
        _check_optimizer(config.learning)
    if as_json:
        say_json(values)
        return
    table = ""
    for key, value in values.items():
        if KEYS[key] != table:
            table = KEYS[key]
            say("", f"[{table}]")
        origin = resolved.origins.get(key)
        source = f"  # from the {origin}" if origin else ""
        # TOML has no null: a setting without a value is a comment
        line = f"# {key} is not set" if value is None else f"{key} = {json_line(value)}"
        typer.echo(line + source)  # a value may be longer than a message
    note("", f"{file} is valid.")


def _check_optimizer(config: LearningConfig) -> None:
    # JAX takes a second to import, which a check without learning does not need
    from ..model.optimizers import KALMAN, build_kalman, build_optimizer

    build_kalman(config) if config.optimizer == KALMAN else build_optimizer(config)


@options()
def keys(
    *,
    folder: Annotated[
        Path, typer.Argument(help="Key directory; created if missing.", metavar="DIR")
    ],
    as_json: JsonOption = False,
) -> None:
    """Make CURVE keys for a server and a client, for --curve-dir. Keys are never overwritten.

    Example: stream-lstm keys /etc/stream-lstm/keys
    """
    import zmq

    from ..feed.security import make_keys

    if not zmq.has("curve"):
        raise ConfigurationError("this libzmq was built without CURVE and cannot make keys")
    paths = [str(path) for path in make_keys(folder)]
    result({"files": paths}, paths, as_json=as_json)
    if advice := access_advice(folder):
        warn(advice)
    if not as_json:
        note(
            "",
            f"Use it with --curve-dir {folder}. A peer elsewhere needs its own folder: give it "
            "server.key, and put its client.key into clients.",
        )


@options()
def metrics_dashboard(
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Output file, instead of standard output."),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a Grafana dashboard over the metrics that `run --metrics` serves.

    Example: stream-lstm metrics-dashboard --out dashboard.json
    """
    text = (files("stream_lstm") / "data" / "grafana.json").read_text(encoding="utf-8")
    if out is None:
        typer.echo(text, nl=False)
        return
    check_free(out, None, overwrite)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from None
    warn(f"wrote {out}; import it in Grafana")
