"""The command line as a whole: options, help, settings, what is printed where, its start."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from stream_lstm import __version__
from stream_lstm.cli.main import ADVANCED, PANELS, app
from stream_lstm.cli.settings import read_environment, resolve, split_list
from stream_lstm.errors import ConfigurationError, UsageError

from .lines import ran, write_csv

SMALL = ("--feature", "x", "--hidden", "4", "--window", "5", "--bptt", "5")
FLAGS = json.loads(Path(__file__).with_name("flags.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    write_csv(folder / "x.csv", x=[k % 7 - 3 for k in range(60)])
    (folder / "c.toml").write_text("[model]\nhidden = 3\n")
    return folder


# ---- options and their help -----------------------------------------------------------------


def leaves(command, path=()):
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
        if not hasattr(child, "commands"):
            yield " ".join((*path, name)), child


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("name", FLAGS)
def test_no_flag_metavar_or_default_changes_unnoticed(name):
    def shown(p):
        return p.show_default if isinstance(p.show_default, str) else p.default

    found = {
        "/".join((*p.opts, *p.secondary_opts)): [p.metavar, shown(p), p.required]
        for p in COMMANDS[name].params
    }
    assert found.pop("--quiet/-q") == found.pop("--verbose/-v") == [None, False, False]
    assert found == FLAGS[name]


@pytest.mark.parametrize("name", FLAGS)
def test_help_is_in_panels_and_a_long_one_begins_with_few_options(cli, name):
    text = cli(*name.split(), "--help").out
    sections = [line[:-1] for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert sections == [panel for panel in (*PANELS, ADVANCED) if panel in sections]
    assert max(map(len, text.splitlines())) <= 80
    first = text.split(f"\n{ADVANCED}:")[0]
    assert first.count("\n  -") <= 21
    for panel in PANELS if name in ("replay", "run") else ():
        assert f"\n{panel}:\n" in text
    assert (ADVANCED in sections) == (len(COMMANDS[name].params) > 16)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "replay x.csv --connect y",
            "option: --connect; --connect is an option of run, watch and listen",
        ),
        ("publish x.csv --feature y", "--feature; --feature is an option of replay, train, run, "),
        ("run --speed 1x", "option: --speed; --speed is an option of demo and publish\n"),
        ("replay x.csv --hiden 3", "option: --hiden; did you mean --hidden?\n"),
        ("replay x.csv --colums a", "--colums; did you mean --columns, an option of publish, run"),
        (
            "prove live --connect y",
            "option: --connect; --connect is an option of run, watch and listen\n",
        ),
        ("replay x.csv --zebra", "No such option: --zebra\n"),
        ("repaly", "No such command 'repaly'. Did you mean 'replay'"),
        ("prove cusal", "No such command 'cusal'. Did you mean 'causal'"),
        ("replay x.csv --hidden=abc", "--hidden is a whole number, not 'abc'\n"),
        ("replay x.csv --window=1.5", "--window is a whole number, not '1.5'\n"),
        ("replay x.csv --learning-rate=fast", "--learning-rate is a number, not 'fast'\n"),
        ("replay x.csv -q -v", "--quiet and --verbose exclude each other"),
    ],
)
def test_a_wrong_name_or_value_is_answered_with_what_may_be_meant(cli, line, words):
    done = cli(*line.split())
    assert done.code == 2
    assert words in done.err
    assert "Possible options" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands_and_options(shell):
    def completed(line):
        asked = {
            "_STREAM_LSTM_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        return code(f"import sys; sys.argv = ['stream-lstm']; {START}", env=os.environ | asked)

    assert "--state-check" in completed("stream-lstm replay --state-c").stdout
    assert "inspect" in completed("stream-lstm insp").stdout
    script = ran("completion", shell).stdout
    assert f"complete_{shell}" in script
    assert script.startswith("#compdef ") == (shell == "zsh")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="there is no bash")
def test_bash_completes_what_is_typed_whatever_shell_runs_the_command(tmp_path):
    program = tmp_path / "stream-lstm"
    start = "from stream_lstm.cli.start import main\nmain()\n"
    program.write_text(f"#!{sys.executable}\n{start}", encoding="utf-8")
    program.chmod(0o755)
    asked = f"""
    eval "$({program} completion bash)"
    COMP_WORDS=(stream-lstm metrics-d) COMP_CWORD=1
    _stream_lstm_completion {program}
    echo "found ${{COMPREPLY[*]}}"
    """
    environment = os.environ | {"SHELL": "/bin/none"}
    done = subprocess.run(
        ["bash", "-c", asked], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "found metrics-dashboard\n", done.stderr


def test_a_shell_without_completion_is_named_with_those_that_have_it(cli):
    done = cli("completion", "tcsh")
    assert done.code == 2
    assert "no completion for 'tcsh'; name one of bash, zsh, fish" in done.err


def test_watch_says_what_it_needs(cli):
    done = cli("run", "--connect", "tcp://127.0.0.1:1", "--feature", "x", "--watch")
    assert done.code == 2
    assert "add --publish tcp://127.0.0.1:5556" in done.err
    for name in ("run", "demo"):
        text = "".join(cli(name, "-h").out.split())  # a line may end at any hyphen
        assert "Needstheextraview(pipinstall'stream-lstm[view]')" in text


# ---- what is printed ------------------------------------------------------------------------


def test_quiet_leaves_the_result_and_errors_and_verbose_adds_details(cli, folder, monkeypatch):
    monkeypatch.setenv("STREAM_LSTM_SEED", "3")
    far = write_csv(folder / "far.csv", x=[1000 + k % 7 for k in range(1100)])
    line = ("replay", far, *SMALL, "--config", folder / "c.toml")
    normal, quiet, verbose = cli(*line), cli(*line, "-q"), cli(*line, "--verbose")
    assert "feature x of the stream far is" in normal.err
    assert quiet.err == ""
    assert "1,100 elements" in quiet.out
    for words in ("hidden = 4 (flag)", "seed = 3 (environment)", "compiled in "):
        assert f"stream-lstm: {words}" in verbose.err
        assert words not in normal.err
    assert "feature x" in verbose.err
    assert cli("-q", *line).err == "", "before the command too"
    refused = cli("replay", folder / "none.csv", *SMALL, "-q")
    assert (refused.code, refused.err.count("\n")) == (66, 1)
    from_file = cli("replay", far, *SMALL[:2], *SMALL[4:], "--config", folder / "c.toml", "-v")
    assert "hidden = 3 (file)" in from_file.err


def test_a_quiet_daemon_logs_errors_only(cli):
    line = ("run", "--connect", "tcp://127.0.0.1:1", *SMALL, "--idle-timeout", "0.2")
    assert cli(*line).err.startswith("ready: ")
    done = cli(*line, "--quiet", "--log-format", "json")
    (error,) = map(json.loads, done.err.splitlines())
    assert (done.code, error["event"], error["level"]) == (69, "failed", "error")


@pytest.mark.parametrize(
    "line",
    [
        ("replay", "x.csv", *SMALL),
        ("doctor", "x.csv", *SMALL),
        ("prove", "state", "--synthetic", "s1", "--help"),
        ("check-config", "c.toml"),
        ("--help",),
        ("demo", "--help"),
    ],
    ids=" ".join,
)
def test_a_pipe_gets_plain_text_without_boxes_or_colours(cli, folder, monkeypatch, line):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FORCE_COLOR", "")
    done = cli(*line)
    assert done.code in (0, 65)
    assert done.out
    assert not set("\x1b│─╭┃━…") & set(done.out + done.err)


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("bid,ask", ["bid", "ask"]),
        ("f(mid(bid, ask)), spread(bid, ask)", ["f(mid(bid, ask))", "spread(bid, ask)"]),
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
    environment = dict.fromkeys(("layers", "features"), "environment")
    assert found.origins == {"hidden": "flag", "seed": "file", **environment}


def test_each_source_gets_the_error_of_its_own_mistakes(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="carry, window"):
        resolve({"mode": "rolling"}, None)
    file = tmp_path / "c.toml"
    file.write_text('[stream]\nfeatures = "x"\n')
    with pytest.raises(ConfigurationError, match=r"c\.toml: features.*write a list as"):
        resolve({}, file)
    monkeypatch.setenv("STREAM_LSTM_LEARN", "yes")
    with pytest.raises(ConfigurationError, match=r"STREAM_LSTM_LEARN.*true or false"):
        resolve({}, None)
    with pytest.raises(ConfigurationError, match="did you mean 'hidden'"):
        read_environment({"STREAM_LSTM_HIDEN": "3"})
    assert read_environment({"STREAM_LSTM_DATA": "/somewhere", "OTHER": "1"}) == {}


# ---- the start of the process ---------------------------------------------------------------

AS_FROM_A_SHELL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""Where tests run in the background, an interrupt is ignored."""

START = "from stream_lstm.cli.start import main; main()"
INTERRUPTED = f"""
import os, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "stream_lstm.cli.replay":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
{START}
"""


def code(text, *arguments, **options):
    line = [sys.executable, "-c", AS_FROM_A_SHELL + text, *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


def test_an_interrupt_within_the_imports_ends_it_without_a_traceback():
    done = code(INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    shown = "lambda: print(signal.getsignal(signal.SIGINT).__name__)"
    kept = code(f"import atexit; atexit.register({shown}); {START}", "--version")
    assert kept.stdout.split()[0] == "stream-lstm"
    assert kept.stdout.splitlines()[-1] == "default_int_handler"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("replay --help", "--save-weights"),
        ("replay x.csv --feature elapsed()", "--time COLUMN"),
        ("train x.csv --out w.safetensors", "--feature"),
        ("prove causal x.csv", "--feature"),
    ],
)
def test_help_and_a_mistake_in_features_need_no_heavy_library(folder, line, words):
    text = f"""
import atexit, sys
heavy = ("jax", "flax", "optax")
atexit.register(lambda: print([name for name in heavy if name in sys.modules]))
{START}
"""
    done = code(text, *line.split(), cwd=folder)
    assert words in done.stdout + done.stderr
    assert done.stdout.endswith("[]\n")


def test_as_a_process_it_names_a_mistake_without_a_traceback(folder):
    bad = ran("replay", folder / "x.csv", "--feature", "diff(")
    assert (bad.returncode, bad.stdout, "Traceback" in bad.stderr) == (2, "", False)
    assert bad.stderr.startswith("stream-lstm: ")


# ---- standard streams that a supervisor closed before the start -------------------------------

LINE = "--feature x --hidden 4 --window 5 --bptt 5"


def without_streams(command, folder):
    line = f"{sys.executable} -m stream_lstm {command} <&- >&- 2>&-"
    here = {"cwd": folder, "env": os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}}
    return subprocess.run(line, shell=True, check=False, **here).returncode


@pytest.mark.slow
def test_a_replay_writes_its_results_and_nothing_else(folder):
    assert without_streams(f"replay x.csv {LINE} --out o.csv", folder) == 0
    header, *lines = (folder / "o.csv").read_text().splitlines()
    assert header.startswith("stream,n,")
    assert all(line.startswith("x,") for line in lines)
    assert len(lines) > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("--version", 0),
        ("inspect nothing.db", 66),
        ("run --connect tcp://127.0.0.1:1 --feature x --hidden 2 --idle-timeout 0.1", 69),
        ("publish x.csv --bind tcp://127.0.0.1:* --speed max", 0),
        ("demo --seconds 0.1", 0),
    ],
)
def test_without_any_stream_a_command_ends_with_its_code(folder, command, exit_code):
    assert without_streams(command, folder) == exit_code


@pytest.mark.parametrize("words", [(), ("replay",), ("prove",), ("prove", "state"), ("help",)])
def test_help_has_a_short_flag_everywhere(cli, words):
    short, long = cli(*words, "-h"), cli(*words, "--help")
    assert (short.code, short.out) == (0, long.out)
    assert long.out


def test_the_version_has_a_short_flag(cli):
    assert cli("-V").out == cli("--version").out == f"stream-lstm {__version__}\n"


HEAVY = ("jax", "flax", "optax", "scipy", "pandas", "polars", "pyarrow", "bokeh", "zmq", "rich")


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("replay", "--help")])
def test_help_imports_nothing_heavy(words):
    lines = (
        "import sys",
        f"sys.argv = ['stream-lstm', *{words!r}]",
        "from stream_lstm.cli.main import main",
        "try: main()",
        "except SystemExit: pass",
        "print(*sys.modules, file=sys.stderr)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert not set(HEAVY) & set(done.stderr.split())


def test_a_daemon_imports_no_arrow_and_a_replay_nothing_of_pages():
    feed = "--connect", "tcp://127.0.0.1:9", "--idle-timeout", "0.1"
    for words, code, without in (
        (("run", *feed), 69, {"flax", "pyarrow", "pandas", "polars", "bokeh", "tensorstore"}),
        (
            ("replay", "--synthetic", "s1-ar", "--limit", "300"),
            0,
            {"flax", "bokeh", "rich"},
        ),
    ):
        line = ["stream-lstm", *words, "--feature", "x", "--hidden", "2"]
        program = (
            "import sys, atexit",
            f"sys.argv = {line!r}",
            "atexit.register(lambda: print(*sys.modules))",
            "from stream_lstm.cli.main import main; main()",
        )
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(program)], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert not without & set(done.stdout.splitlines()[-1].split())
