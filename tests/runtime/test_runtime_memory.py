"""Memory that was freed behind something that stays goes back to the system."""

import ctypes
import sys

import pytest

from deepir.runtime.memory import give_back
from deepir.runtime.vitals import resident_bytes

BLOCK, COUNT = 100_000, 500


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc keeps freed memory; other systems differ")
def test_what_lies_free_below_a_block_in_use_is_returned() -> None:
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(BLOCK) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[:-1]:
        libc.free(block)
    kept = resident_bytes()
    give_back()
    left = resident_bytes()
    libc.free(blocks[-1])
    assert kept is not None
    assert left is not None
    assert kept - left > BLOCK * COUNT // 2
