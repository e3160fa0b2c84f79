"""The settings of JAX and XLA that the package relies on."""

from stream_lstm.config import build
from stream_lstm.model.engine import Engine
from stream_lstm.model.runtime import xla_flags


def test_flags_of_the_user_stay():
    assert xla_flags("--xla_dump_to=d").startswith("--xla_dump_to=d --xla_backend_extra_options=")
    own = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=7"
    assert xla_flags(own) == own


def test_without_flags_there_are_ours_alone():
    assert xla_flags("").startswith("--xla_backend_extra_options=")


def test_the_loop_over_a_block_is_one_kernel():
    engine = Engine(build({"features": ["x"], "hidden": 8}), 1)
    text = engine._advance.lower(*engine._example("advance")).compile().as_text()
    assert "xla_cpu_small_call" in text
