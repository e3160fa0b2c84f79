"""The configuration: what it takes, what it refuses, and what it says then."""

from __future__ import annotations

import difflib
import math
import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from stream_lstm.cli.options import flag, key_default, key_help
from stream_lstm.config import (
    KEYS,
    TABLES,
    Config,
    build,
    flatten,
    nearest,
    parse_bank,
    parse_tables,
)
from stream_lstm.errors import ConfigurationError
from stream_lstm.model.optimizers import build_optimizer
from stream_lstm.schema import MAX_BLOCK

DEFAULTS = flatten(Config())


def field_of(key: str) -> Any:
    return {f.name: f for f in msgspec.structs.fields(TABLES[KEYS[key]])}[key]


def refused(values: dict[str, Any]) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        build(values)
    return caught.value


def test_every_key_stands_in_one_table() -> None:
    names = [name for struct in TABLES.values() for name in struct.__struct_fields__]
    assert len(names) == len(set(names)) == len(KEYS)
    assert list(TABLES) == list(Config.__struct_fields__)
    assert not set(KEYS) & set(TABLES) - {"publish", "scaling", "store"}, "a key like a table"


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_help_a_default_and_a_flag(key: str) -> None:
    text = key_help(key)
    assert len(text) > 8
    assert "\n" not in text
    assert key_default(key)
    assert flag(key).startswith("--")


def test_a_key_without_help_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TABLES["model"], "__doc__", "The network.\n\nhidden: units.")
    with pytest.raises(LookupError, match="ModelConfig does not describe layers"):
        key_help("layers")


def test_no_settings_are_the_defaults() -> None:
    assert build({}) == Config()
    assert build(DEFAULTS) == Config()
    assert set(DEFAULTS) == set(KEYS)


text = st.text(min_size=1, max_size=8)
length = st.integers(1, MAX_BLOCK)
count = st.integers(1, 100)
positive = st.floats(1e-6, 1e3)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "features": st.lists(text, max_size=3),
    "window": st.integers(100, MAX_BLOCK),
    "stride": length,
    "horizon": length,
    "labels": st.sampled_from(["series", "external"]),
    "max_pending": length,
    "on_gap": st.sampled_from(["continue", "reset"]),
    "mode": st.sampled_from(["carry", "window"]),
    "hidden": count,
    "layers": st.integers(1, 4),
    "seed": st.integers(0, 2**32 - 1),
    "sharing": st.sampled_from(["shared", "per-stream"]),
    "weights": text,
    "scaling": st.sampled_from(["sd", "zscore", "none"]),
    "memory": st.floats(2, 1e6),
    "clip": positive,
    "learn": st.booleans(),
    "optimizer": text,
    "learning_rate": positive,
    "bptt": st.integers(1, 100),
    "clip_norm": st.floats(0, 1e3),
    "connect": st.lists(text, max_size=3),
    "streams": st.lists(text, max_size=3),
    "columns": st.lists(text, max_size=3),
    "topic": text,
    "time_field": text,
    "idle_timeout": st.floats(0, 1e6),
    "publish": text,
}
settings = st.fixed_dictionaries({}, optional=VALUES)


@pytest.mark.slow
@limits(max_examples=30)
@given(settings)
def test_what_was_built_can_be_flattened_and_built_again(values: dict[str, Any]) -> None:
    config = build(values)
    flat = flatten(config)
    assert build(flat) == config
    for key, value in values.items():
        assert flat[key] == (tuple(value) if isinstance(value, list) else value)
    for key in KEYS.keys() - values.keys():
        assert flat[key] == DEFAULTS[key]


@given(settings)
def test_tables_are_flattened_to_keys(values: dict[str, Any]) -> None:
    tables: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        tables.setdefault(KEYS[key], {})[key] = value
    assert parse_tables(tables) == values


@pytest.mark.slow
@given(st.integers(1, 8192), st.floats(1e-9, 1e3), st.booleans())
def test_text_is_read_as_the_key_wants_it(hidden: int, rate: float, learn: bool) -> None:
    config = build(
        {"hidden": str(hidden), "learning_rate": repr(rate), "learn": str(learn).lower()}
    )
    assert config.model.hidden == hidden
    assert config.learning.learning_rate == rate
    assert config.learning.learn is learn


@pytest.mark.parametrize(
    ("wrong", "meant"), [("hiden", "hidden"), ("learn_rate", "learning_rate"), ("strid", "stride")]
)
def test_an_unknown_key_is_refused_with_the_nearest(wrong: str, meant: str) -> None:
    error = refused({wrong: 1})
    assert error.key == wrong
    assert str(error) == f"unknown key {wrong!r}; did you mean {meant!r}?"
    assert error.exit_code == 78
    with pytest.raises(ConfigurationError, match=f"{wrong!r} in .*did you mean {meant!r}"):
        parse_tables({KEYS[meant]: {wrong: 1}})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[models]\n", "unknown table [models]; did you mean 'model'?"),
        ("[stream]\nhidden = 3\n", "unknown key 'hidden' in [stream]; it belongs in [model]"),
        ("hidden = 3\n", "unknown table [hidden]; the key 'hidden' belongs in [model]"),
        ("[zzzzzz]\n", "unknown table [zzzzzz]"),
        ("[model]\nqqqq = 1\n", "unknown key 'qqqq' in [model]"),
        ("model = 3\n", "[model] must be a table of keys"),
    ],
)
def test_a_misplaced_name_is_told_where_it_belongs(document: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_tables(tomllib.loads(document))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hidden": 0}, "hidden = 0: Expected `int` >= 1"),
        ({"layers": 5}, "<= 4"),
        ({"stride": 0}, "stride = 0"),
        ({"horizon": MAX_BLOCK + 1}, "horizon"),
        ({"seed": -1}, "seed"),
        ({"mode": "windows"}, "mode = 'windows'"),
        ({"learn": 1}, "learn"),
        ({"hidden": True}, "hidden"),
        ({"hidden": 3.0}, "hidden"),
        ({"hidden": "many"}, "hidden = 'many'"),
        ({"features": "x"}, "features"),
        ({"features": [1]}, "features"),
        ({"memory": 1.5}, "memory"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"clip_norm": -1.0}, "clip_norm"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(values: dict[str, Any], says: str) -> None:
    error = refused(values)
    assert says in str(error)
    assert [error.key] == list(values)


FLOATS = [key for key in KEYS if "float" in str(field_of(key).type)]


@pytest.mark.parametrize("key", FLOATS)
def test_a_number_that_is_none_is_refused(key: str) -> None:
    assert refused({key: math.nan}).key == refused({key: "nan"}).key == key


@pytest.mark.parametrize("value", [math.inf, "inf", 1e300])
def test_a_clip_that_clips_nothing_is_refused(value: Any) -> None:
    """It would let infinities into the carried state, and these never leave it."""
    assert refused({"clip": value}).key == "clip"


def test_a_tape_longer_than_the_warm_up_is_refused_where_it_matters() -> None:
    assert "lower bptt or raise window" in str(refused({"learn": True, "window": 49, "bptt": 50}))
    build({"learn": True, "window": 50})
    build({"learn": False, "window": 3})
    build({"learn": True, "window": 3, "mode": "window"})


@given(st.text(max_size=12))
def test_nearest_names_one_that_exists_or_nothing(name: str) -> None:
    hint = nearest(name, KEYS)
    close = difflib.get_close_matches(name, list(KEYS), 1, 0.5)
    assert hint == (f"; did you mean {close[0]!r}?" if close else "")


def test_a_configuration_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(AttributeError):
        config.stream.window = 3  # type: ignore[misc]
    assert hash(config) == hash(build({}))


FLOATS = [
    key
    for table in TABLES.values()
    for key, kind in table.__annotations__.items()
    if "float" in str(kind) or "Positive" in str(kind)
]


@pytest.mark.parametrize("key", FLOATS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, "inf", "nan", "1e999"])
def test_what_is_not_finite_is_refused_with_its_key(key, value):
    with pytest.raises(ConfigurationError, match=f"^{key} = ") as refused:
        build({key: value})
    assert refused.value.key == key


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_number_of_a_member_or_an_optimiser_is_finite(value):
    bank = {"member": [{"kind": "logistic", "name": "a", "p0": float(value)}]}
    with pytest.raises(ConfigurationError, match="p0"):
        parse_bank(bank)
    with pytest.raises(ConfigurationError, match=r"b1=.* is not a finite number"):
        build_optimizer(build({"optimizer_args": [f"b1={value}"]}).learning)


def test_every_number_that_is_no_integer_is_among_them():
    assert len(FLOATS) > 20
    assert {"learning_rate", "threshold", "max_gb", "live_after", "clip_norm"} <= set(FLOATS)
