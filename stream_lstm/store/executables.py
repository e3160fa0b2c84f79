"""Kept executables: a start with the settings of an earlier one compiles nothing.

JAX writes what it compiled into a folder, finds an executable there by what it computes, its
options and the machine, and compiles again if a file cannot be read. A file that was altered
could still be read, and then run. So each file has a sealed digest beside it, and what does not
match is removed before JAX looks.

The folder is the user's own: mode 0700, in the folder that the system has for caches. Each version
of jaxlib and each kind of processor has its own, since executables of one are useless or harmful
to another.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..compiling import around_compilations
from ..errors import OutputError
from ..platform import WINDOWS, is_ours, replace

OFF = "none"
"""The setting that keeps nothing."""

MAX_BYTES = 128 << 20
"""Of all executables in a folder; the oldest are removed."""

SEAL = ".sha256"
DONE = ".done"
"""Marks programs that were compiled completely: their next start reads them."""

SECONDS = {"bank": 6.0, "learning": 1.5, "training": 1.5}
"""What a compilation takes on a machine that has not measured it, if it is worth a line."""

VARIABLES = {
    "jax_compilation_cache_dir": "JAX_COMPILATION_CACHE_DIR",
    "jax_persistent_cache_min_compile_time_secs": "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "jax_persistent_cache_min_entry_size_bytes": "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
}
"""JAX's settings, and the variables from which it takes them when it is imported."""

Say = Callable[[str], object]


def keep_executables(setting: str | None, say: Say = lambda _: None) -> None:
    """Keep executables from now on, and look for those that were kept.

    setting: `compile_cache`: None for the user's own folder, OFF, or a folder. say: takes a line
    before something is compiled. A folder of JAX's own that the user has set stays. Raises
    OutputError if a given folder cannot be used; without one the user's own is left out silently.
    """
    if setting is None and _folder_of_jax():
        return  # the user's, or that of an earlier call
    if setting == OFF:
        around_compilations(lambda kind, _: _not_kept(kind, say))
        return
    path = _user_folder() if setting is None else Path(setting).expanduser().absolute()
    try:
        if path is None:
            raise OSError("there is no folder for caches")
        folder = _made(path)
        _check(folder)
    except OSError as error:
        if setting is not None:
            raise OutputError(f"cannot keep executables in {setting}: {error}") from None
        around_compilations(lambda kind, _: _not_kept(kind, say))
        return
    _tell_jax(folder)
    atexit.register(_seal, folder, _executables(folder))  # of the small programs beside
    around_compilations(lambda kind, key: _kept(folder, kind, key, say))


def _folder_of_jax() -> str | None:
    """Return the folder in which JAX keeps executables at present, if any."""
    if "jax" not in sys.modules:
        return os.environ.get("JAX_COMPILATION_CACHE_DIR")
    import jax

    folder: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return folder


def _user_folder() -> Path | None:
    """Return the folder for caches of the user, None where there is none."""
    named = os.environ.get("LOCALAPPDATA" if WINDOWS else "XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # as the specification of XDG demands
        return Path(named) / "stream-lstm"
    home = os.environ.get("USERPROFILE" if WINDOWS else "HOME", "")
    if not os.path.isabs(home):
        return None
    parts = ("Library", "Caches") if sys.platform == "darwin" else (".cache",)
    return Path(home, *parts, "stream-lstm")


def _made(path: Path) -> Path:
    """Make the folder for this jaxlib and processor; OSError if others may write to it."""
    from importlib.metadata import version  # takes 10 ms, which --help need not spend

    folder = path / f"jaxlib-{version('jaxlib')}-{_processor()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    for one in (path, folder):
        one.mkdir(mode=0o700, exist_ok=True)
        about = one.stat()
        if not is_ours(about) or (about.st_mode & 0o022 and not WINDOWS):
            raise PermissionError(
                f"{one} belongs to another user, or others may write to it; its files are executed"
            )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written")
    return folder


def _processor() -> str:
    """Return a name of the instructions that this processor has."""
    flags = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        words = ("flags", "Features", "model name")
        flags = "".join(sorted({line for line in lines if line.startswith(words)}))
    return hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:8]


def _tell_jax(folder: Path) -> None:
    values: tuple[str | float, ...] = (str(folder), 0.0, -1)
    if "jax" not in sys.modules:
        texts = map(str, values)
        os.environ |= dict(zip(VARIABLES.values(), texts, strict=True))
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    for name, value in zip(VARIABLES, values, strict=True):
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
    # JAX decides at its first compilation whether there is a cache, and remembers
    compilation_cache.reset_cache()


# ---- what is in the folder --------------------------------------------------------------------


def _executables(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if path.name.endswith("-cache")}


def _seal_of(path: Path) -> Path:
    return path.with_name(path.name + SEAL)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check(folder: Path) -> None:
    """Remove what is not as it was sealed, and the oldest files above the limit."""
    kept: list[tuple[float, int, Path]] = []
    for path in _executables(folder):
        seal = _seal_of(path)
        if not seal.is_file():  # of a process that was killed, or has not ended
            path.unlink(missing_ok=True)
        elif seal.read_text(encoding="ascii", errors="replace") == _digest(path):
            about = path.stat()
            kept.append((about.st_mtime, about.st_size, path))
        else:
            _remove(folder, path)
    total = 0
    for _, size, path in sorted(kept, reverse=True):
        total += size
        if total > MAX_BYTES:
            _remove(folder, path)


def _seal(folder: Path, before: set[Path]) -> None:
    """Seal the executables that were not there before."""
    with contextlib.suppress(OSError):  # the disk may be full: then nothing is kept
        for path in _executables(folder) - before:
            _write(_seal_of(path), _digest(path))


def _remove(folder: Path, path: Path) -> None:
    """Remove an executable; no program counts as complete any more."""
    for one in (path, _seal_of(path), *folder.glob(f"*{DONE}")):
        one.unlink(missing_ok=True)


@contextlib.contextmanager
def _kept(folder: Path, kind: str, key: str, say: Say) -> Iterator[None]:
    """Say that a compilation begins, unless it is kept, and seal what it leaves."""
    done = folder / f"{kind}-{key}{DONE}"
    if done.exists():
        yield
        return
    _tell(say, _seconds(folder, kind), "kept for the next start")
    before, began = _executables(folder), time.monotonic()
    yield
    _seal(folder, before)
    with contextlib.suppress(OSError):
        _write(done, f"{time.monotonic() - began:.1f}")


@contextlib.contextmanager
def _not_kept(kind: str, say: Say) -> Iterator[None]:
    _tell(say, SECONDS.get(kind, 0.0), "and not kept for the next start: --compile-cache")
    yield


def _tell(say: Say, seconds: float, what: str) -> None:
    if seconds >= 1.0:
        say(f"compiling (about {seconds:.0f} s; {what})")


def _seconds(folder: Path, kind: str) -> float:
    """Return how long such a compilation took here, or may take."""
    measured = list[float]()
    for path in folder.glob(f"{kind}-*{DONE}"):
        with contextlib.suppress(OSError, ValueError):
            measured.append(float(path.read_text(encoding="ascii")))
    return max(measured, default=SECONDS.get(kind, 0.0))


def _write(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(text, encoding="ascii")
    replace(new, path)
