"""Where settings come from: flags before the environment before the file before the default."""

import pytest

from stream_lstm.cli.settings import read_environment, resolve, split_list
from stream_lstm.errors import ConfigurationError, UsageError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("bid,ask", ["bid", "ask"]),
        (
            "log_return(mid(bid, ask)), spread(bid, ask)",
            ["log_return(mid(bid, ask))", "spread(bid, ask)"],
        ),
        ('diff("a, b"), x', ['diff("a, b")', "x"]),
        ('"odd ( name",y', ['"odd ( name"', "y"]),
        (" a , ,b,", ["a", "b"]),
        ("", []),
    ],
)
def test_a_list_is_split_at_its_own_commas(text, parts):
    assert split_list(text) == parts


def test_flag_before_environment_before_file_before_default(monkeypatch, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[model]\nhidden = 8\nlayers = 2\nseed = 5\n")
    monkeypatch.setenv("STREAM_LSTM_HIDDEN", "16")
    monkeypatch.setenv("STREAM_LSTM_LAYERS", "3")
    monkeypatch.setenv("STREAM_LSTM_FEATURES", "log_return(mid(bid, ask)), elapsed()")
    found = resolve({"hidden": 64}, file)
    model = found.config.model
    assert (model.hidden, model.layers, model.seed, model.mode) == (64, 3, 5, "carry")
    assert found.config.stream.features == ("log_return(mid(bid, ask))", "elapsed()")
    assert found.origins == {
        "hidden": "flag",
        "layers": "environment",
        "features": "environment",
        "seed": "file",
    }


def test_each_source_is_blamed_for_its_own_mistakes(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="carry, window"):
        resolve({"mode": "rolling"}, None)
    file = tmp_path / "c.toml"
    file.write_text('[stream]\nfeatures = "x"\n')
    with pytest.raises(ConfigurationError, match=r"c\.toml: features.*a list is written"):
        resolve({}, file)
    monkeypatch.setenv("STREAM_LSTM_LEARN", "yes")
    with pytest.raises(ConfigurationError, match=r"STREAM_LSTM_LEARN.*true or false"):
        resolve({}, None)
    with pytest.raises(ConfigurationError, match="did you mean 'hidden'"):
        read_environment({"STREAM_LSTM_HIDEN": "3"})
    assert read_environment({"STREAM_LSTM_DATA": "/somewhere", "OTHER": "1"}) == {}


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--hidden=abc", "--hidden is a whole number, not 'abc'"),
        ("--window=1.5", "--window is a whole number, not '1.5'"),
        ("--learning-rate=fast", "--learning-rate is a number, not 'fast'"),
    ],
)
def test_a_flag_that_is_no_number_is_named_with_its_value(cli, flag, words):
    done = cli("replay", "x.csv", flag)
    assert (done.code, done.err) == (2, f"stream-lstm: {words}\n")
