"""Keep what is compiled, so that the next start need not compile it again.

JAX looks an executable up by what it computes and for which options and machine, and compiles it
anew where a file cannot be read. By itself it leaves out what compiled within a second, which is
all that we have. The executables of one jaxlib are of no use to another, so each version
has a folder of its own, and an old one can be deleted.

What lies there is run: whoever can write to the folder can run code here. It is made for the
user alone.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from ..errors import OutputError


def keep_compiled(folder: str) -> None:
    """Look for executables in `folder`, and keep new ones there, from now on.

    Raises OutputError where the folder cannot be made.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    path = Path(folder).expanduser().absolute() / f"jaxlib-{version('jaxlib')}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot keep executables in {folder}: {error}") from None
    for name, value in (
        ("jax_compilation_cache_dir", str(path)),
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
    # JAX decides at its first compilation whether there is a cache, and remembers.
    compilation_cache.reset_cache()
