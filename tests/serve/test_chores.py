"""Chores: each at its own period, and none made up for."""

from stream_lstm.serve.daemon import PeriodicTasks


def test_each_chore_has_its_period():
    done = []
    chores = PeriodicTasks()
    assert chores.due == float("inf")
    chores.add(0.0, 1.0, lambda: done.append("one"))
    chores.add(0.0, 2.5, lambda: done.append("two"))
    assert chores.due == 1.0
    chores.run(0.9)
    assert done == []
    chores.run(1.0)
    assert done == ["one"]
    assert chores.due == 2.0
    chores.run(2.6)
    assert done == ["one", "one", "two"]


def test_what_was_missed_is_not_made_up_for():
    done = []
    chores = PeriodicTasks()
    chores.add(0.0, 1.0, lambda: done.append(1))
    chores.run(50.0)
    assert done == [1]
    assert chores.due == 51.0
