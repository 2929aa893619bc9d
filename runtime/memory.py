"""Memory that was freed goes back to the system, where the C library would keep it for itself."""

import contextlib
import ctypes
import functools
from typing import Any


def give_back() -> None:
    """Let glibc return what lies free in its arenas; where there is another C library, nothing is done.

    A model that is loaded in one thread and given back in another leaves holes that glibc keeps: up to ten megabytes
    a swap, in about one swap of three (docs/soak.md). It takes milliseconds: call it after a swap, not for each frame.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Any:
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL("libc.so.6").malloc_trim
    return None
