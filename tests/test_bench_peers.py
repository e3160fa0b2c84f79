"""Peers run our network and say so where they cannot; how fast anything is is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]

HASTE = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.fixture
def needs_compiler(bench: Any) -> None:
    if bench("peers.registry").compiler() is None:
        pytest.skip("no C compiler is found here")


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """What a short run of `step` prints where no compiler can be found."""
    command = ["-m", "bench", "step", "--json", "--repeats", "1", "--calls", "20", "--gaps", "0,1"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=os.environ | HASTE | {"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["results"]["step"]
    return found


def stepped(module: ModuleType, given: Any) -> Any:
    call = module.step(given)
    return np.array([call(x) for x in given.xs])


def test_our_predictions_differenough_to_tell_networks_apart(given: Any) -> None:
    assert given.p.shape == (200,)
    assert given.p.std() > 0.01


def test_numpy_by_hand_gives_our_numbers(bench: Any, given: Any) -> None:
    np.testing.assert_allclose(stepped(bench("peers.numpy_cell"), given), given.p, atol=1e-5)


@pytest.mark.usefixtures("needs_compiler")
def test_the_c_loop_gives_our_numbers_singly_and_in_blocks(bench: Any, given: Any) -> None:
    module = bench("peers.c_cell")
    np.testing.assert_allclose(stepped(module, given), given.p, atol=1e-5)
    block = module.sequence(given)
    parts = [block(given.xs[:70]), block(given.xs[70:])]
    np.testing.assert_allclose(np.concatenate(parts), given.p, atol=1e-5)
    assert np.float64(5e-324) * 1.0 > 0.0, "loading it flushes subnormal numbers to zero"


@pytest.mark.parametrize(
    "name",
    [
        "numba",
        "ONNX Runtime",
        "ONNX Runtime, bound",
        "torch nn.LSTM",
        "Keras, predict_on_batch",
        "Keras, jitted",
    ],
)
def test_an_installed_peer_gives_our_numbers(bench: Any, given: Any, name: str) -> None:
    registry = bench("peers.registry")
    peer = registry.PEERS[name]
    if reason := registry.missing(peer):
        pytest.skip(f"{name}: {reason}")
    module = bench(f"peers.{peer.module}")
    if "step" in peer.kinds:
        np.testing.assert_allclose(stepped(module, given), given.p, atol=1e-5)
    if "sequence" in peer.kinds:
        np.testing.assert_allclose(module.sequence(given)(given.xs), given.p, atol=1e-5)


def test_what_is_given_is_read_as_it_was_written(bench: Any, given: Any, tmp_path: Path) -> None:
    given.save(tmp_path)
    for read, written in zip(bench("peers.workload").Workload.load(tmp_path), given, strict=True):
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, written)


def test_a_peer_with_wrong_numbers_is_told_and_not_timed(bench: Any, given: Any) -> None:
    main = bench("peers.__main__")
    off = given._replace(p=given.p + np.float32(1e-3))
    found = main.measure("NumPy by hand", "step", off, {"gaps": [0], "count": 10})
    assert set(found) == {"note"}
    assert found["note"].startswith("wrong: p is 0.001 from ours")
    nothing = given._replace(p=np.full_like(given.p, np.nan))
    found = main.measure("NumPy by hand", "step", nothing, {"gaps": [0], "count": 10})
    assert set(found) == {"note"}


def test_a_peer_that_fails_is_a_line(
    bench: Any,
    given: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given.save(tmp_path)
    main, registry = bench("peers.__main__"), bench("peers.registry")
    monkeypatch.setitem(registry.PEERS, "broken", registry.Peer("no_such_file"))
    monkeypatch.setattr(sys, "argv", ["peers", "broken", "step", str(tmp_path), "{}"])
    main.main()
    note = json.loads(capsys.readouterr().out)["note"]
    assert note == "failed: ModuleNotFoundError: No module named 'bench.peers.no_such_file'"


def test_a_missing_peer_says_how_to_install_it(bench: Any) -> None:
    registry = bench("peers.registry")
    peer = registry.Peer("x", ("no_such_package", "json"))
    assert registry.missing(peer) == "not installed (pip install no_such_package)"
    assert registry.missing(registry.PEERS["NumPy by hand"]) == ""


@pytest.mark.slow
def test_the_table_has_ours_and_each_peer_or_a_line_for_it(
    bench: Any, rows: dict[str, dict[str, Any]]
) -> None:
    registry = bench("peers.registry")
    ours = ["ours", "ours without scaler", "empty jitted call", "ours, whole session"]
    assert rows["C loop"] == {"note": "no C compiler found (cc, gcc, clang)"}
    peers = [name for name, peer in registry.PEERS.items() if "step" in peer.kinds]
    for name in [*ours, *peers]:
        if name in rows:
            assert set(rows[name]) == {"note"}
            assert name in peers
            continue
        for way in ("back to back", "1 ms"):
            row = rows[f"{way}, {name}"]
            assert row["p50"] > 0
            assert row["of ours"] > 0
    assert "back to back, NumPy by hand" in rows
    assert rows["1 ms, ours"]["of ours"] == 1.0


def test_rows_of_a_way_stand_together_and_ratios_are_to_ours(bench: Any) -> None:
    comparison = bench("comparison")
    found = {
        ("a", "ours"): {"p50": 2.0},
        ("b", "ours"): {"p50": 4.0},
        ("a", "peer"): {"p50": 3.0},
        ("b", "ours / empty"): {"p50": 1.1},
    }
    repeat = comparison.of_ours(found)
    assert repeat["a", "peer"] == {"p50": 3.0, "of ours": 1.5}
    assert repeat["b", "ours / empty"] == {"p50": 1.1}
    rows = comparison.table_rows({key: [row] for key, row in repeat.items()}, {"z": "why"})
    assert list(rows) == ["a, ours", "a, peer", "b, ours", "b, ours / empty", "z"]
    assert rows["z"] == {"note": "why"}


def test_no_percentile_is_told_that_no_call_lies_above(bench: Any) -> None:
    enough = bench("timing").enough
    assert list(enough([1000] * 1000)) == ["p50", "p90", "p99", "p99.9"]
    assert list(enough([1000] * 200)) == ["p50", "p90", "p99"]


def test_all_calls_are_made_and_the_warm_up_is_not_counted(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing = bench("timing")
    counted: list[int] = []
    monkeypatch.setattr(timing, "percentiles", lambda ns: counted.append(len(ns)) or {})
    made = {"a": 0, "b": 0}

    def call(name: str) -> Any:
        def one(x: np.ndarray) -> None:
            assert x.shape == (1,)
            made[name] += 1

        return one

    timing.ways({name: call(name) for name in made}, gaps=[0], count=1200)
    assert made == {"a": 1320, "b": 1320}
    assert counted == [1200, 1200]


def test_every_benchmark_can_be_asked_for(bench: Any) -> None:
    main = bench("__main__")
    for name in [*main.BENCHMARKS, *main.ALONE, "all"]:
        options = main.parser().parse_args([name, "--repeats", "2", "--json"])
        assert (options.name, options.repeats, options.json) == (name, 2, True)
    assert main.parser().parse_args(["sequence", "--elements", "5000"]).elements == 5000
