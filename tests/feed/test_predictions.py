"""Predictions and scores over real sockets."""

import pytest
import zmq

from stream_lstm.events import NO_TIME, End, Prediction, Score
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber

from .received import ANY_PORT, WAIT_S, ended, gather, of


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_predictions_and_scores_arrive(encoding):
    prediction = Prediction("A", 100, 5, 0.25, "s", False, True)
    score = Score("A", 100, 6, 0.25, 1, 1.386, 0.5, 0.4, "s")
    with (
        PredictionPublisher(ANY_PORT, encoding) as out,
        PredictionSubscriber(out.endpoint, streams=["A"]) as into,
    ):
        out.wait_for_subscribers(1, WAIT_S, stream="A")
        out.publish(prediction)
        out.publish(Prediction("AX", 100, 5, 0.25))
        out.publish_score(score)
        out.heartbeat("A", 102, run_id="s")
        out.end("A", 102, run_id="s")
        assert gather(into, ended) == [prediction, score, End("A", "s")]
        assert into.receive(0.0) == []


def test_an_invalid_prediction_is_counted():
    with zmq.Context() as context, context.socket(zmq.XPUB) as out:
        out.setsockopt(zmq.LINGER, 0)
        out.bind(ANY_PORT)
        with PredictionSubscriber(out.getsockopt_string(zmq.LAST_ENDPOINT)) as into:
            for _ in range(3):
                out.recv()
            out.send_multipart([b"prediction/A/", b"{}"])
            out.send_multipart([b"heartbeat/A/", b'{"v":1,"seq":1,"end":true}'])
            assert gather(into, ended) == [End("A")]
            assert into.refused == 1


@pytest.mark.parametrize("count", [300, 5000])
def test_predictions_of_every_named_stream_come_before_and_after_a_restart(count):
    names, endpoint, into = [f"S{k}" for k in range(count)], ANY_PORT, None
    try:
        for life in range(2):
            with PredictionPublisher(endpoint, send_hwm=3 * count) as out:
                endpoint = out.endpoint
                into = into or PredictionSubscriber(endpoint, streams=names, receive_hwm=3 * count)
                # the owner of a SUB socket sends its subscriptions again when it receives
                topic, count_of = f"prediction/{names[-1]}/".encode(), out._subscriptions.count
                joined = lambda _, count_of=count_of, topic=topic: count_of(topic)  # noqa: E731
                gather(into, joined, out._update_subscriptions)
                for name in (*names, "other"):
                    out.publish(Prediction(name, 1, NO_TIME, 0.5, session=f"s{life}"))
                out.end(names[-1])
                assert [e.stream for e in of(Prediction, gather(into, ended))] == names
    finally:
        if into is not None:
            into.close()
