"""Whether this process was forked from one in which JAX ran.

Fork copies one thread. JAX and XLA have others, whose locks the copy finds taken for good, so that
the first computation never ends.
"""

from __future__ import annotations

from jax._src import xla_bridge

from ..errors import UsageError
from ..forks import call_in_child

_forked = False


def check_forked() -> None:
    """Raise UsageError in a process that was forked after JAX had started."""
    if _forked:
        raise UsageError(
            "this process was forked from one in which JAX had started, where nothing that JAX "
            "computes ends: use the spawn start method, "
            'multiprocessing.set_start_method("spawn"), or fork before anything is constructed'
        )


def _note() -> None:
    global _forked  # noqa: PLW0603 - of this process
    # There is no public way to ask; without this one, importing JAX counts as starting it.
    started = getattr(xla_bridge, "backends_are_initialized", lambda: True)
    _forked = _forked or bool(started())


call_in_child(_note)
