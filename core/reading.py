"""Pictures read from disk by several threads, in order and a few ahead of whoever uses them."""

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from deepir.errors import OptionError
from deepir.image import Image, read_image

MOST_WORKERS = 8
"""By default no more threads than this decode: they would only take cores from the model."""

THREAD_NAME = "deepir-decode"

_AHEAD = 8
"""Pictures that wait, decoded, besides those being decoded: as many as a model takes at once."""


def usable_cores() -> int:
    """How many cores this process may use, which may be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return (os.cpu_count() or 1) if affinity is None else len(affinity(0))


def default_workers() -> int:
    """A thread for each usable core, at most MOST_WORKERS."""
    return min(usable_cores(), MOST_WORKERS)


def read_images(paths: Iterable[Path], *, workers: int | None = None) -> Generator[Image, None, None]:
    """The pictures of `paths` as `read_image` gives them, in order; OpenCV decodes them outside Python's lock.

    Only a few pictures are in memory, however many there are. A picture that cannot be read raises when its turn
    comes, after those before it were given. The threads end with the iterator: when it is exhausted, closed or raises.

    Args:
        paths: Files; they are asked for as they are needed.
        workers: Threads, 1 or more; `default_workers()` when None.

    Raises:
        OptionError: Fewer than one worker; raised by the call itself.
        InputError: A file that is missing or not a picture.
    """
    threads = default_workers() if workers is None else workers
    if threads < 1:
        message = f"pictures need 1 decoding thread or more, got {threads}"
        raise OptionError(message)
    return _read_ahead(iter(paths), threads)


def _read_ahead(paths: Iterator[Path], threads: int) -> Generator[Image, None, None]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix=THREAD_NAME)
    try:
        waiting: deque[Future[Image]] = deque(pool.submit(read_image, path) for path in islice(paths, _AHEAD + threads))
        while waiting:
            image = waiting.popleft().result()
            waiting.extend(pool.submit(read_image, path) for path in islice(paths, 1))
            yield image
    finally:
        pool.shutdown(cancel_futures=True)
