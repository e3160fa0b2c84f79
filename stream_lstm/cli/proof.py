"""What the three proofs share: how they start, and how they are told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import Config, build, flatten
from ..errors import ConfigurationError, StreamLSTMError, UsageError
from .input_file import InputFile
from .process import say, say_json
from .settings import Settings

if TYPE_CHECKING:
    from ..config import Members
    from ..core.outcome import Deliver
    from ..core.session import Session
    from ..model.engine import Engine


class Subject(NamedTuple):
    """What is to be proved of: a file, and the session that a replay of it would have."""

    file: InputFile
    config: Config
    columns: tuple[str, ...]
    weights: dict[str, Any] | None
    scaler: Any
    members: Members | None

    def session(self, deliver: Deliver | None = None, engine: Engine | None = None) -> Session:
        """Return a fresh session, which compiles unless it is given an engine."""
        from ..core.session import Session  # JAX is imported here and not before

        return Session(
            self.config,
            self.columns,
            deliver=deliver,
            weights=self.weights,
            scaler=self.scaler,
            members=self.members,
            engine=engine,
        )


def subject(file: InputFile, settings: Settings) -> Subject:
    """Return what a command is about; raises what a replay of it would, before it compiles."""
    from .bank_file import check_bank, read_bank
    from .replay_checks import check_features
    from .warm_start import warm_start

    if settings.config.stream.labels == "external":
        raise UsageError("proofs are of labels from the series itself: leave labels=external out")
    check_bank(settings.config, None)
    members = read_bank(settings.config)
    config, weights, scaler = warm_start(settings)
    if not config.stream.features:
        config = build({**flatten(config), "features": file.default_features()})
    return Subject(file, config, check_features(file, config), weights, scaler, members)


def blame(settings: Settings, error: ConfigurationError) -> StreamLSTMError:
    """Return the error with who is to blame for it."""
    if error.key == "time":
        return UsageError(f"--time: {error}")
    return settings.blame(error)


def tell(summary: dict[str, Any], lines: Iterable[str], as_json: bool) -> None:
    """Print one JSON object, or the lines."""
    if as_json:
        say_json(summary)
        return
    for line in lines:
        say(line)
