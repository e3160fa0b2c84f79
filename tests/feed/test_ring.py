"""The ring holds the newest ticks, as they were sent, within its two limits."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.feed.recovery_server import CHUNK_BYTES, FIRST_ROWS, MAX_ROWS, Ring


def values_of(first, count, width=2):
    return np.arange(first, first + count)[:, None] + np.arange(width) / 10


def fill(ring, stream, sizes, first=1):
    """Append blocks of some sizes, 0 being a single tick that is no block; return the next
    number."""
    seq = first
    for size in sizes:
        if size:
            ring.append(stream, seq, np.arange(seq, seq + size), values_of(seq, size))
        else:
            ring.append(stream, seq, seq, values_of(seq, 1)[0])
        seq += size or 1
    return seq


sizes = st.lists(st.sampled_from([0, 0, 0, 1, 3, 20, 5000]), max_size=40)


@given(sizes, st.integers(1, 9000), st.data())
def test_what_is_read_is_what_was_appended_up_to_the_limit(sizes, ticks, data):
    ring = Ring(2, ticks=ticks)
    due = fill(ring, "A", sizes)
    if not sizes:
        assert ring.span("A") is None
        return
    oldest = max(1, due - ticks)
    assert ring.span("A") == (oldest, due)
    first = data.draw(st.integers(oldest, due - 1))
    last, most = data.draw(st.integers(first, due + 5)), data.draw(st.integers(1, 6000))
    seq, t_ns, values = ring.read("A", first, last, most)
    count = min(last + 1, due, first + most) - first
    assert (seq, len(t_ns)) == (first, count)
    np.testing.assert_array_equal(t_ns, np.arange(first, first + count))
    np.testing.assert_array_equal(values, values_of(first, count))


def test_what_is_not_held_is_not_read():
    ring = Ring(2, ticks=3)
    fill(ring, "A", [0] * 5)
    assert ring.read("A", 2, 5, 10) is None
    assert ring.read("A", 6, 9, 10) is None
    assert ring.read("B", 1, 1, 10) is None
    assert ring.span("B") is None
    assert ring.spans() == {"A": (3, 6)}


def test_what_is_given_is_copied():
    ring = Ring(2)
    row, block = np.array([1.0, 2.0]), np.array([[3.0, 4.0]])
    ring.append("A", 1, 5, row)
    ring.append("A", 2, [6], block)
    row[:], block[:] = 0.0, 0.0
    assert ring.read("A", 1, 2, 9).values.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_block_may_have_one_time():
    ring = Ring(1)
    ring.append("A", 1, 0, np.ones((3, 1)))
    assert ring.read("A", 1, 3, 9).t_ns.tolist() == [0, 0, 0]


def test_all_streams_together_keep_to_the_bytes():
    most = 400_000
    ring = Ring(2, max_bytes=most)
    for k in range(1, 30_000):
        ring.append("busy", k, k, [1.0, 2.0])
        assert ring.size <= most
    oldest, due = ring.span("busy")
    assert due == 30_000
    assert most / 2 < 24 * (due - oldest) <= most


def test_a_busy_stream_does_not_drive_out_a_quiet_one():
    ring = Ring(2, max_bytes=400_000)
    fill(ring, "quiet", [0] * 50)
    fill(ring, "busy", [20] * 5_000)
    assert ring.span("quiet") == (1, 51)
    assert ring.span("busy")[0] > 1


def test_streams_that_come_later_get_their_share():
    ring = Ring(2, max_bytes=600_000)
    fill(ring, "A", [20] * 5_000)
    for name in "BC":
        fill(ring, name, [20] * 5_000)
        assert ring.size <= 600_000
    held = [due - oldest for oldest, due in ring.spans().values()]
    assert min(held) > 3_000, held


def test_more_streams_than_there_is_room_for_each_keep_their_last_ticks():
    ring = Ring(2, max_bytes=10_000)
    for k in range(200):
        fill(ring, f"S{k}", [0] * 100)
    assert all(due == 101 and oldest < 101 for oldest, due in ring.spans().values())
    one = 24 * 64 + CHUNK_BYTES
    assert ring.size <= 200 * one


def test_a_quiet_stream_takes_little():
    ring = Ring(14)
    ring.append("A", 1, 1, np.zeros(14))
    assert ring.size == CHUNK_BYTES + FIRST_ROWS * 8 * 15


def test_a_reader_in_another_thread_sees_whole_ticks():
    ring, torn = Ring(2, ticks=2 * MAX_ROWS), []

    def read():
        while not done.is_set():
            span = ring.span("A")
            found = span and ring.read("A", span[0], span[1], 10_000)
            if found and not np.array_equal(found.values[:, 0], found.t_ns):
                torn.append(found)

    done = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    for k in range(1, 20_000):
        ring.append("A", k, k, [k, -k])
    done.set()
    reader.join()
    assert not torn
