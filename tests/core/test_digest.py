"""The digest tells two runs apart, and nothing else."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from stream_lstm.core.replay import Digest
from stream_lstm.events import Prediction
from stream_lstm.records import Batch


def digest(*predictions: Prediction) -> str:
    running = Digest()
    for prediction in predictions:
        running.add(prediction)
    return running.hexdigest()


def test_is_what_its_documentation_says() -> None:
    p = float(np.float32(0.3))
    wanted = hashlib.sha256("µ".encode() + struct.pack("<q", 7) + struct.pack("<f", p))
    assert digest(Prediction("µ", 7, 0, p)) == wanted.hexdigest()
    assert digest() == hashlib.sha256().hexdigest()


def test_one_bit_of_p_or_another_order_shows() -> None:
    one, two = Prediction("a", 1, 0, 0.5), Prediction("a", 2, 0, 0.5)
    near = Prediction("a", 2, 0, float(np.nextafter(np.float32(0.5), np.float32(1))))
    assert len({digest(one, two), digest(two, one), digest(one, near), digest(one)}) == 4


def test_time_and_flags_do_not_show() -> None:
    assert digest(Prediction("a", 1, 5, 0.5, "s", True, True)) == digest(
        Prediction("a", 1, 0, 0.5)
    )


def test_of_several_streams_only_the_order_within_each_one_shows() -> None:
    a, later = Prediction("a", 1, 0, 0.5), Prediction("a", 2, 0, 0.5)
    b = Prediction("b", 1, 0, 0.5)
    assert digest(a, later, b) == digest(a, b, later) == digest(b, a, later)
    assert len({digest(a, later, b), digest(later, a, b), digest(a, later), digest(b)}) == 4
    both = b"".join(bytes.fromhex(digest(*part)) for part in ([a, later], [b]))
    assert digest(a, later, b) == hashlib.sha256(both).hexdigest()


def test_a_batch_counts_as_its_predictions_one_by_one() -> None:
    rng = np.random.default_rng(2)
    made = [
        Prediction(str(rng.choice(["a", "bö", "c"])), n, 0, float(np.float32(rng.random())), "")
        for n in range(1, 300)
    ]
    one, other = Digest(), Digest()
    for prediction in made:
        one.add(prediction)
    alone = [prediction for prediction in made if prediction.stream == "c"]
    for part in (made[:1], [], made[1:200], made[200:]):
        other.add_batch(Batch.of(Prediction, part))
    assert one.hexdigest() == other.hexdigest()
    one, other = Digest(), Digest()
    for prediction in alone:
        one.add(prediction)
    other.add_batch(Batch.of(Prediction, alone))
    assert one.hexdigest() == other.hexdigest()
