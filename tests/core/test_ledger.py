"""The book of waiting predictions, against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.stream import LEFT_UNLABELLED, REMEMBERED, Ledger, Pending


def pending(n: int) -> Pending:
    return Pending(n, 0.5, 0.5, 0.5, -1)


@given(limit=st.integers(1, 5), moves=st.lists(st.integers(0, 12), max_size=60))
def test_a_prediction_leaves_once_by_its_label_or_as_the_oldest(
    limit: int, moves: list[int]
) -> None:
    ledger, book, expired, n = Ledger(), [], 0, 0
    for move in moves:
        if move < 6:
            n += 10
            gone = ledger.add(pending(n), limit)
            book.append(n)
            wanted = book.pop(0) if len(book) > limit else None
            expired += wanted is not None
            assert (gone.n if gone else None) == wanted
        else:
            asked = n - 10 * (move - 7)
            got = ledger.take(asked)
            assert (got.n if got else None) == (asked if asked in book else None)
            book = [other for other in book if other != asked]
        assert list(ledger.waiting) == book
        assert ledger.oldest() == (book[0] if book else None)
        assert ledger.expired == expired
    assert [ledger.expire(limit).n for _ in list(book)] == book
    assert ledger.expired == expired + len(book)
    assert ledger.oldest() is None


def test_what_has_left_is_remembered_up_to_a_bound() -> None:
    ledger = Ledger()
    for n in range(1, 3 * REMEMBERED):
        ledger.add(pending(n), 1)
    assert list(ledger.closed) == list(range(2 * REMEMBERED - 1, 3 * REMEMBERED - 1))
    assert set(ledger.closed.values()) == {LEFT_UNLABELLED}
