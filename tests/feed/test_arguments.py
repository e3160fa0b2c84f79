"""Wrong arguments of public calls are refused by errors of this package, with a remedy."""

import decimal
import fractions
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import StreamLSTMError, UsageError
from stream_lstm.events import Label
from stream_lstm.feed.callers import MAX_INT, milliseconds, names, seconds, text, whole
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber
from stream_lstm.feed.protocol import encode_label
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

ANY_PORT = "tcp://127.0.0.1:*"
anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.complex_numbers(), st.decimals(), st.lists(st.integers()), st.datetimes(),
    st.just(10**400), st.just(np.int64(5)),
    st.just(np.float32(0.5)), st.just(fractions.Fraction(1, 3)), st.just(object()),
)  # fmt: skip


def refused(call, *given):
    """Call, and return what came; an error other than our own passes through."""
    try:
        return call(*given)
    except StreamLSTMError as error:
        return error


@given(anything)
def test_arguments_are_in_range_or_refused(value):
    wait_s = refused(seconds, "timeout_s", value)
    assert isinstance(wait_s, UsageError) or (type(wait_s) is float and wait_s >= 0.0)
    if not isinstance(wait_s, UsageError):
        assert -1 <= milliseconds(wait_s) <= MAX_INT
    count = refused(whole, "count", value, 0)
    assert isinstance(count, UsageError) or 0 <= count <= MAX_INT
    assert isinstance(refused(text, "bind", value), UsageError | str)
    listed = refused(names, "columns", value)
    assert isinstance(listed, UsageError) or all(isinstance(name, str) for name in listed)


def test_what_a_time_to_wait_means():
    assert seconds("t", None) == seconds("t", math.inf) == math.inf
    assert seconds("t", -3) == 0.0
    assert seconds("t", np.float32(0.5)) == 0.5
    assert (milliseconds(math.inf), milliseconds(0.0), milliseconds(0.0011)) == (-1, 0, 2)
    with pytest.raises(
        UsageError, match="timeout_s=nan: write seconds as a number, 0 not to wait"
    ):
        seconds("timeout_s", math.nan)


BAD_TIMES = (math.nan, "5", decimal.Decimal(1), [1], 1j, 10**400)


def test_readers_refuse_times_that_are_none_and_take_all_others():
    with Publisher(ANY_PORT, columns=["x"]) as out:
        config = FeedConfig(connect=(out.endpoint,), columns=("x",))
        with Subscriber(config) as ticks, PredictionSubscriber(out.endpoint) as predictions:
            out.wait_for_subscribers(1, None)
            for reader in (ticks, predictions):
                for bad in BAD_TIMES:
                    with pytest.raises(UsageError, match="timeout_s="):
                        reader.receive(bad)
                assert reader.receive(-1.0) == []
                assert reader.receive(-math.inf) == []
            for forever in (None, math.inf):
                out.publish("A", 0, [1.0])
                assert ticks.receive(forever)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": "bid"}, "columns='bid': write a list of names"),
        ({"columns": [1]}, "columns: 1 is not a name"),
        ({"columns": None}, "columns=None"),
        ({"encoding": "xml"}, "encoding='xml': write msgpack or json"),
        ({"send_timeout_s": math.nan}, "send_timeout_s=nan"),
        ({"send_timeout_s": "1"}, "send_timeout_s='1'"),
        ({"send_hwm": 1.5}, "send_hwm=1.5: write a whole number from 0"),
        ({"send_hwm": -1}, "send_hwm=-1: write a whole number from 0"),
        ({"ring": 0}, "ring=0: write a whole number from 1"),
        ({"ring": "9"}, "ring='9'"),
        ({"run_id": 5}, "run_id=5: write text"),
        ({"bind": None}, "bind=None: write text"),
        ({"linger_s": "1"}, "linger_s='1'"),
    ],
)
def test_a_publisher_says_which_argument_is_wrong(change, words):
    given = {"bind": ANY_PORT, "columns": ["x"], **change}
    with pytest.raises(StreamLSTMError, match=words):
        Publisher(**given)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda out: out.publish(5, 0, [1.0]), "stream's name must be text, not 5"),
        (lambda out: out.publish(["A"], 0, [1.0]), "stream's name must be text"),
        (lambda out: out.publish(None, 0, [1.0]), "stream's name must be text, not None"),
        (lambda out: out.publish("A", 0, [10**400]), "values are numbers.*too large"),
        (lambda out: out.publish("A", 0, ["x"]), "values are numbers"),
        (lambda out: out.publish("A", 0, [None, None]), "do not fit the columns"),
        (lambda out: out.publish("A", 0, np.array([1 + 2j])), "values are numbers.*complex"),
        (lambda out: out.publish("A", 0, np.ma.array([5.0], mask=[1])), "masked"),
        (lambda out: out.end(5), "stream=5: write text"),
        (lambda out: out.wait_for_subscribers("1", 0.0), "count='1': write a whole number"),
        (lambda out: out.wait_for_subscribers(1, math.nan), "timeout_s=nan"),
        (lambda out: out.wait_for_subscribers(1, 0.0, stream=5), "stream=5: write text"),
    ],
)
def test_calls_of_a_publisher_say_which_argument_is_wrong(call, words):
    with Publisher(ANY_PORT, columns=["x"]) as out:
        with pytest.raises(UsageError, match=words):
            call(out)
        assert out.publish("A", 0, [1.0]) == 1, "it goes on, and has counted nothing"


def test_times_without_end_and_far_away_are_taken():
    with Publisher(ANY_PORT, columns=["x"], send_timeout_s=math.inf, linger_s=1e12) as out:
        assert out.wait_for_subscribers(0, math.inf) == 0
        assert out.publish("A", 0, [1.0]) == 1
    with PredictionPublisher(ANY_PORT) as out:
        assert out.wait_for_subscribers(0, None) == 0


def test_readers_say_which_argument_is_wrong():
    for change, words in (
        ({"streams": "AAPL"}, "streams='AAPL': write a list of names"),
        ({"streams": [5]}, "streams: 5 is not a name"),
        ({"receive_hwm": -1}, "receive_hwm=-1"),
    ):
        with pytest.raises(UsageError, match=words):
            PredictionSubscriber("tcp://127.0.0.1:5556", **change)
    with pytest.raises(UsageError, match="endpoint=None: write text"):
        PredictionSubscriber(None)
    with pytest.raises(UsageError, match=r"connect='tcp.*write a list of names"):
        Subscriber(FeedConfig(connect="tcp://127.0.0.1:5555", columns=("x",)))


@pytest.mark.parametrize(
    ("n", "y"), [("26", 1), (25.0, 1), (True, 1), (None, 1), (1, "1"), (1, None)]
)
def test_a_label_of_wrong_types_is_not_sent(n, y):
    with pytest.raises(UsageError, match="a label of 'A': n is the whole number of a prediction"):
        encode_label(Label("A", n, y))
    assert encode_label(Label("A", 1, 0.5))
