"""A reader of pickles that hold plain data: it interprets them itself, so nothing in the file can run."""

import pickletools
import struct
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from deepir.errors import InputError
from deepir.pickle_makers import MAKERS, ForeignError, Global, Unfinished, checked_keys, expect

_MOST_BYTES = 1 << 24

_MOST_SHOWN = 120
"""Characters of an error, which may repeat what the file says."""


def read_plain_pickle(path: Path) -> object:
    """What a pickle holds: None, numbers, text, bytes, lists, tuples, dictionaries, sets, numpy arrays and scalars.

    As Python 2 and 3, numpy 1 and 2 write them. Arrays hold numbers or text and may be read-only.

    Raises:
        InputError: Missing, over 16 MiB, truncated, damaged, or with anything else in it, which the error names.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _MOST_BYTES else b""
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise InputError(message) from error
    if size > _MOST_BYTES:
        message = f"{path} has {size} bytes: a file of ground truth has at most {_MOST_BYTES}"
        raise InputError(message)
    try:
        return _Machine(content).run()
    except ForeignError as error:
        message = f"{path} asks for {_line(error)}: from a pickle only plain data and numpy arrays are read"
        raise InputError(message) from error
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        message = f"{path} ({size} bytes) is truncated or not a pickle of plain data: {_line(error)}"
        raise InputError(message) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:_MOST_SHOWN]


class _Machine:
    """The stack machine of pickle, with the operations that make plain data."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._allowance = len(content)

    def run(self) -> object:
        for operation, argument, _ in pickletools.genops(self._content):
            name = operation.name
            if name in _VALUES:
                self._stack.append(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in _IGNORED:
                message = f"the operation {name}" + (f" {argument}" if argument is not None else "")
                raise ForeignError(message)
        (result,) = self._stack
        return result

    def push(self, value: object) -> None:
        self._stack.append(value)

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def last(self, count: int) -> list[Any]:
        items = [self._stack.pop() for _ in range(count)]
        return items[::-1]

    def extend(self, items: list[Any]) -> None:
        expect(self._stack[-1], list).extend(items)

    def update(self, items: list[Any]) -> None:
        expect(self._stack[-1], dict).update(_dictionary(items))

    def add(self, items: list[Any]) -> None:
        expect(self._stack[-1], set).update(checked_keys(items))

    def remember(self, place: int | None) -> None:
        place = len(self._memo) if place is None else place
        self._memo[place] = self._stack[-1]
        if isinstance(self._stack[-1], Unfinished):
            self._stack[-1].places.append(place)

    def recall(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def name(self, module: str, name: str) -> None:
        if (module, name) not in MAKERS:
            message = f"{module}.{name}"
            raise ForeignError(message)
        self._stack.append(Global(module, name))

    def call(self) -> None:
        function, arguments = self.last(2)
        known = expect(function, Global)
        self._stack.append(MAKERS[known.module, known.name](*self._paid(arguments)))

    def build(self) -> None:
        made, state = self.last(2)
        unfinished = expect(made, Unfinished)
        finished = unfinished.make(self._paid(state))
        self._memo.update(dict.fromkeys(unfinished.places, finished))
        self._stack.append(finished)

    def _paid(self, arguments: object) -> tuple[Any, ...]:
        """The arguments of something that copies them, which a file without tricks does once for each of its bytes."""
        values = expect(arguments, tuple)
        self._allowance -= sum(len(value) for value in values if isinstance(value, str | list))
        if self._allowance < 0:
            message = "it unfolds to many times its size"
            raise ValueError(message)
        return values


def _dictionary(items: list[Any]) -> dict[Hashable, Any]:
    return dict(zip(checked_keys(items[::2]), items[1::2], strict=True))


_VALUES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})

_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "MARK": lambda machine, _: machine.mark(),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "DICT": lambda machine, _: machine.push(_dictionary(machine.since_mark())),
    "FROZENSET": lambda machine, _: machine.push(frozenset(checked_keys(machine.since_mark()))),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.last(3))),
    "APPEND": lambda machine, _: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.since_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "GLOBAL": lambda machine, pair: machine.name(*pair.split(" ")),
    "STACK_GLOBAL": lambda machine, _: machine.name(*(expect(word, str) for word in machine.last(2))),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
