"""Elements of many streams in one loop have the bits of single steps."""

from __future__ import annotations

import numpy as np
import pytest

from stream_lstm.model.table_engine import TableEngine

from ..engines import engine_for, settings


@pytest.mark.parametrize("per_stream", [False, True])
def test_the_loop_and_single_steps_give_the_same_bits(per_stream: bool) -> None:
    engine = TableEngine(engine_for(settings(), 2), per_stream=per_stream)
    assert engine.exact
    rng, count = np.random.default_rng(1), 300
    index = rng.integers(0, 40, count).astype(np.int32)
    xs = rng.normal(size=(count, 2)).astype(np.float32)
    row = engine.flat(engine.engine.init_weights())
    scales = 1 + np.arange(40, dtype=np.float32)[:, None] / 40
    weights = row * scales if per_stream else (row,)
    table = np.zeros((40, engine.width), np.float32)
    looped = engine.step(weights, table, index, xs)
    engine.exact = False
    alone = engine.step(weights, table, index, xs)
    assert looped[0].tobytes() == alone[0].tobytes()
    assert looped[1].tobytes() == alone[1].tobytes()
    assert not table.any()
