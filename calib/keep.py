"""What of an INT8 model stays FP16: as the command takes it, and as the graph names it."""

import difflib
import fnmatch
from collections.abc import Sequence

from deepir.calib.blocks import Block
from deepir.errors import OptionError

Keep = int | tuple[str, ...] | None
"""How many of the worst blocks stay FP16, or which blocks or convolutions; None: as many as the gate asks for."""


def parse_keep(text: str) -> Keep:
    """Read `auto`, a number of blocks, or names with commas between them.

    Raises:
        OptionError: Nothing of these.
    """
    if text == "auto":
        return None
    if text.isdigit():
        return int(text)
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        message = f"--keep-fp16 takes auto, a number of blocks, or names with commas between them, got {text!r}"
        raise OptionError(message)
    return names


def named_convolutions(patterns: Sequence[str], blocks: Sequence[Block]) -> tuple[str, ...]:
    """The convolutions of the blocks, and those, whose names match; `*` stands for anything.

    Raises:
        OptionError: A pattern that matches nothing.
    """
    known = {block.name: block.convolutions for block in blocks}
    known |= {name: (name,) for block in blocks for name in block.convolutions if name not in known}
    chosen: dict[str, None] = {}
    for pattern in patterns:
        matching = fnmatch.filter(known, pattern)
        if not matching:
            near = ", ".join(difflib.get_close_matches(pattern, known, 3, 0)) or ", ".join(list(known)[:3])
            message = f"--keep-fp16 names no block or convolution of this model: {pattern!r}; it has for example {near}"
            raise OptionError(message)
        chosen |= dict.fromkeys(name for match in matching for name in known[match])
    return tuple(chosen)
