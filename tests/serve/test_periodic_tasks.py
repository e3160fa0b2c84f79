"""Periodic tasks: each at its own period, and none made up for."""

from stream_lstm.serve.daemon import PeriodicTasks


def test_each_chore_has_its_period():
    done = []
    tasks = PeriodicTasks()
    assert tasks.due == float("inf")
    tasks.add(0.0, 1.0, lambda: done.append("one"))
    tasks.add(0.0, 2.5, lambda: done.append("two"))
    assert tasks.due == 1.0
    tasks.run(0.9)
    assert done == []
    tasks.run(1.0)
    assert done == ["one"]
    assert tasks.due == 2.0
    tasks.run(2.6)
    assert done == ["one", "one", "two"]


def test_what_was_missed_is_not_made_up_for():
    done = []
    tasks = PeriodicTasks()
    tasks.add(0.0, 1.0, lambda: done.append(1))
    tasks.run(50.0)
    assert done == [1]
    assert tasks.due == 51.0
