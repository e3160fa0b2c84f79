"""The subjects of `python -m bench question`, each run in a process of its own.

`python -m bench.question_subjects NAME FOLDER` reads `elements.npy` and `settings.json` there and
prints {row: figures}. What this project does is done by its command line, as a user would.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .question_scores import WINDOW, Array, both, cut, scores

HIDDEN, BATCH, CALLS, WARM_UP = 32, 128, 3000, 300

MISSING = "keras is not installed here: pip install keras"

COMMAND = [sys.executable, "-c", "from stream_lstm.cli.main import main; main()"]


def median_us(call: Callable[[], object]) -> float:
    """Return the median time of a call in microseconds."""
    spent = []
    for _ in range(WARM_UP + CALLS):
        before = time.perf_counter_ns()
        call()
        spent.append(time.perf_counter_ns() - before)
    return round(statistics.median(spent[WARM_UP:]) / 1e3, 1)


def stream_lstm(*arguments: str) -> tuple[str, float]:
    """Run the command line; return what it prints and the seconds of the whole process."""
    start = time.perf_counter()
    done = subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"stream-lstm {' '.join(arguments)}: {done.stderr}")
    return done.stdout, time.perf_counter() - start


def so_far(hits: Array) -> Array:
    """Return the share of hits (m,) before each, with half a count on either side."""
    return np.asarray((np.cumsum(hits) - hits + 0.5) / (np.arange(len(hits)) + 1.0))


def subject_plain(folder: Path, elements: Array) -> dict[str, Any]:
    """Score the forecasters that need no network, each from the labels before."""
    where = cut(elements)
    label, last = where.label, elements[where.due - 1] > 0
    rate, share = so_far(label), so_far(label == last)
    repeated = np.where(last, share, 1.0 - share)
    late, right = where.held_out, label == last
    bare = {"accuracy": float(right[late].mean()), "all_accuracy": float(right.mean())}
    rows = {
        "base rate so far": both(rate, where),
        "last label again": both(repeated, where) | bare,
    }
    best = folder / "best.npy"
    if best.exists():
        rows["best possible"] = both(np.load(best)[where.due - 1], where)
    return rows


def replayed(folder: Path, elements: Array, *options: str) -> dict[str, Any]:
    """Return the scores of `replay --learn` with options."""
    import pyarrow.parquet

    out = folder / f"{os.getpid()}.parquet"
    arguments = ["replay", str(folder / "elements.npy"), "--feature", "x", "--learn"]
    _, seconds = stream_lstm(*arguments, "--out", str(out), *options)
    rows = pyarrow.parquet.read_table(out, columns=["n", "p"]).to_pydict()
    where = cut(elements)
    p = np.array(rows["p"])[: len(where.due)]
    assert np.array_equal(rows["n"][: len(p)], where.due)
    return both(p, where) | {"seconds": round(seconds, 1)}


def engine_cost(**settings: Any) -> dict[str, Any]:
    """Return what a prediction of this project costs from one element to the next."""
    from stream_lstm.config import DEFAULT_BANK, build
    from stream_lstm.model.engine import Engine
    from stream_lstm.model.runtime import SharedArray, aligned_zeros

    config = build({"features": ["x"], "hidden": HIDDEN} | settings)
    members = DEFAULT_BANK if config.learning.bank == "default" else None
    engine = Engine(config, 1, members)
    held, x = SharedArray(aligned_zeros((engine.width,))), np.ones((1, 1), np.float32)
    held.host[:] = engine.init_carry()
    weights = engine.pack(engine.init_weights())
    window = np.ones((WINDOW, 1), np.float32)
    carried = engine.stepper.scaler_size + engine.stepper.state
    state = 4 * carried + (window.nbytes if config.model.mode == "window" else 0)

    def predict() -> object:
        out = engine.advance_in_place(weights, held, x)
        if config.model.mode == "window":
            return engine.window(weights, window)
        return engine.rows(out, 1)

    return {"state_bytes": state, "us_per_prediction": median_us(predict)}


def subject_window(folder: Path, elements: Array) -> dict[str, Any]:
    row = replayed(folder, elements, "--mode", "window")
    return {"online, each window of 100 from a zero state": row | engine_cost(mode="window")}


def subject_carry(folder: Path, elements: Array) -> dict[str, Any]:
    return {"online, state carried": replayed(folder, elements) | engine_cost()}


def subject_bank(folder: Path, elements: Array) -> dict[str, Any]:
    bank = settings(folder)["bank"]
    if bank != "default":
        path = folder / "bank.toml"
        path.write_text(bank, encoding="utf-8")
        return {"online, bank of experts": replayed(folder, elements, "--bank", str(path))}
    row = replayed(folder, elements, "--bank", bank) | engine_cost(learn=True, bank=bank)
    return {"online, bank of experts": row}


def subject_train(folder: Path, elements: Array) -> dict[str, Any]:
    """Score the last tenth after training on what comes before it."""
    epochs = settings(folder)["train_epochs"]
    arguments = ["train", str(folder / "elements.npy"), "--feature", "x", "--json"]
    given = ["--epochs", str(epochs)] if epochs else []
    printed, seconds = stream_lstm(
        *arguments, *given, "--out", str(folder / "weights.safetensors")
    )
    told = json.loads(printed)["validation"]
    where = cut(elements)
    assert told["labels"] == where.held_out.sum()
    row = {key: told[key] for key in ("labels", "accuracy", "log_loss")}
    row |= {"seconds": round(seconds, 1)}
    if epochs is None:  # a quick run looks at the cost of this network once
        row |= engine_cost()
    return {"trained, state carried": row}


def keras_recipe(folder: Path, elements: Array, scale: float) -> dict[str, Any]:
    """Train LSTM(32) and Dense(1) on windows of elements times `scale`; score the last tenth."""
    os.environ["KERAS_BACKEND"] = "jax"
    start = time.perf_counter()
    import jax
    import keras

    where, given = cut(elements), settings(folder)
    windows = np.lib.stride_tricks.sliding_window_view(elements * np.float32(scale), WINDOW)
    windows = np.ascontiguousarray(windows[where.due - WINDOW])[..., None]
    label, early, late = where.label.astype(np.float32), where.trained, where.held_out
    keras.utils.set_random_seed(given["seed"])
    layers = [keras.layers.LSTM(HIDDEN), keras.layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential([keras.Input((WINDOW, 1)), *layers])
    model.compile("adam", "binary_crossentropy")
    model.fit(
        windows[early], label[early], batch_size=BATCH, epochs=given["keras_epochs"], verbose=0
    )
    p = model.predict(windows[late], batch_size=1024, verbose=0)[:, 0]
    seconds = time.perf_counter() - start
    call = jax.jit(lambda *inputs: model.stateless_call(*inputs)[0])
    weights = [
        [v.value for v in part]
        for part in (model.trainable_variables, model.non_trainable_variables)
    ]
    one = windows[:1]
    return scores(p, where.label[late]) | {
        "seconds": round(seconds, 1),
        "state_bytes": one.nbytes,
        "us_per_prediction": median_us(lambda: np.asarray(call(*weights, one))),
    }


def subject_asked(folder: Path, elements: Array) -> dict[str, Any]:
    return _with_keras("the recipe as asked (Keras)", folder, elements, 1.0)


def subject_scaled(folder: Path, elements: Array) -> dict[str, Any]:
    early = elements[: cut(elements).train].astype(np.float64)
    return _with_keras("the same, inputs over their s.d.", folder, elements, 1.0 / early.std())


def _with_keras(row: str, folder: Path, elements: Array, scale: float) -> dict[str, Any]:
    if importlib.util.find_spec("keras") is None:
        return {row: {"note": MISSING}}
    return {row: keras_recipe(folder, elements, scale)}


def settings(folder: Path) -> dict[str, Any]:
    """Return what was asked of the run."""
    found: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    return found


SUBJECTS = {
    "plain": subject_plain,
    "asked": subject_asked,
    "scaled": subject_scaled,
    "window": subject_window,
    "carry": subject_carry,
    "bank": subject_bank,
    "train": subject_train,
}

if __name__ == "__main__":
    place = Path(sys.argv[2])
    print(json.dumps(SUBJECTS[sys.argv[1]](place, np.load(place / "elements.npy"))))
