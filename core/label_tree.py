"""Labels as paths, `brand/product/size`: which are allowed, what they have in common, and whole branches of them."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from deepir.errors import InputError

SEPARATOR = "/"
MOST_CHARACTERS = 200

_REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, halves of a surrogate pair (from a file name that is not UTF-8), and breaks of a line."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A label with everything below it, as an argument `brand/` means it.

    Attributes:
        label: Without the slash at its end.
    """

    label: str

    def holds(self, label: str) -> bool:
        """Whether it is the branch's own label or one below it: `brand` and `brand/product`, not `brandy`."""
        return label == self.label or is_below(label, self.label)


def check_label(label: str) -> str:
    """The label as it is, when it is one.

    Raises:
        InputError: An empty part, `.` or `..` as a part, a slash at an end, a control character, or too long.
    """
    if len(label) > MOST_CHARACTERS:
        message = f"a label has at most {MOST_CHARACTERS} characters, {_shown(label)} has {len(label)}: shorten it"
        raise InputError(message)
    foreign = next((one for one in label if unicodedata.category(one) in _REFUSED), None)
    if foreign is not None:
        message = f"the label {_shown(label)} holds the control character {foreign!a}: leave it out"
        raise InputError(message)
    wrong = next((part for part in label.split(SEPARATOR) if part.strip() in {"", ".", ".."}), None)
    if wrong is not None:
        fault = f"the part {wrong!r}" if wrong.strip() else "an empty part"
        message = f"the label {_shown(label)} has {fault}: expected names with single slashes between, brand/product"
        raise InputError(message)
    return label


def parse_selection(argument: str) -> str | Branch:
    """What an argument of a command means: one label, or with a slash at its end the whole branch.

    Raises:
        InputError: Not a label, with or without that slash; a slash alone would mean everything.
    """
    if argument.endswith(SEPARATOR):
        return Branch(check_label(argument[: -len(SEPARATOR)]))
    return check_label(argument)


def parts(label: str) -> tuple[str, ...]:
    """The names from the root down: `brand`, `product`, `size`."""
    return tuple(label.split(SEPARATOR))


def parent(label: str) -> str | None:
    """The label above, None for one at the root."""
    return label.rpartition(SEPARATOR)[0] or None


def is_below(label: str, branch: str) -> bool:
    """Whether a label lies inside a branch, at any depth; a label is not below itself."""
    return label.startswith(branch + SEPARATOR)


def common_ancestor(labels: Iterable[str]) -> str | None:
    """The deepest label that each of them is or lies below; None when they share nothing, or there are none.

    Of one label it is that label; of `a/b` and `a/b/c` it is `a/b`.
    """
    levels = zip(*map(parts, labels))  # noqa: B905 it ends with the shortest label
    return SEPARATOR.join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels)) or None


def branch_counts(views: Mapping[str, int]) -> dict[str, int]:
    """How many views each branch holds, sorted by name; a branch is whatever has a label below it.

    Args:
        views: The number of views of each label. Those of a label that is a branch too count in its branch.
    """
    counts: Counter[str] = Counter()
    for label, count in views.items():
        above = parent(label)
        while above is not None:
            counts[above] += count
            above = parent(above)
    return {branch: counts[branch] + views.get(branch, 0) for branch in sorted(counts)}


def _shown(label: str) -> str:
    return repr(label if len(label) <= MOST_CHARACTERS else label[:40] + "…").encode("utf-8", "replace").decode()
