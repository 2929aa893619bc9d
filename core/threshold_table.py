"""How many pairs of pictures a threshold takes for one: pairs of the same origin and unrelated ones (method.md 4.6)."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepir.errors import InputError, OptionError, ShapeError

LOW, HIGH = 50, 100
"""The table's thresholds in hundredths, ends included: 0.50 to 1.00."""

Scored = Mapping[str, Mapping[str, float]]
"""Of a mapped file: the similarity of each item found for an anchor."""

_MILLIONTHS = 1_000_000
_STEP = _MILLIONTHS // 100
_MOST = 1.01
"""A similarity is at most 1; descriptors whose length is not quite 1 exceed it by less than this."""


@dataclass(frozen=True, slots=True)
class ThresholdTable:
    """Counts of pairs with a similarity of t or more, for each threshold t in steps of 0.01.

    Thresholds are whole hundredths, so that no step is lost to rounding, and a similarity is compared with them as a
    whole number of millionths, to which it is rounded: 0.7 in single precision, 0.69999999, counts at 0.70.

    Attributes:
        hundredths: t in hundredths, rising by one.
        same_origin: Pairs of nearly identical content: the same label, or an anchor on the annotated list.
        unrelated: The other pairs. Neither count rises with t.
    """

    hundredths: tuple[int, ...]
    same_origin: tuple[int, ...]
    unrelated: tuple[int, ...]

    def __add__(self, other: "ThresholdTable") -> "ThresholdTable":
        """The table of the pairs of both, such as of two blocks of queries.

        Raises:
            OptionError: They have other thresholds.
        """
        if self.hundredths != other.hundredths:
            ranges = [f"{table.hundredths[0]}..{table.hundredths[-1]}" for table in (self, other)]
            message = f"only tables of the same thresholds add up, got {ranges[0]} and {ranges[1]} hundredths"
            raise OptionError(message)
        same_origin = tuple(map(sum, zip(self.same_origin, other.same_origin, strict=True)))
        return ThresholdTable(
            self.hundredths, same_origin, tuple(map(sum, zip(self.unrelated, other.unrelated, strict=True)))
        )

    def rows(self) -> Iterator[tuple[float, int, int]]:
        """Threshold, same origin, unrelated; the lowest threshold first."""
        for hundredths, same, unrelated in zip(self.hundredths, self.same_origin, self.unrelated, strict=True):
            yield hundredths / 100, same, unrelated


def count_pairs(
    same_m: NDArray[np.floating[Any]], unrelated_m: NDArray[np.floating[Any]], *, low: int = LOW, high: int = HIGH
) -> ThresholdTable:
    """The table of pairs whose similarities are given, (M,) each; -infinity is a pair that counts nowhere.

    Args:
        same_m: Of pairs of the same origin.
        unrelated_m: Of the others.
        low: The first threshold, in hundredths.
        high: The last one.

    Raises:
        ShapeError: NaN, or a similarity above 1.
        OptionError: `low` and `high` are not whole hundredths within -100..100 in that order.
    """
    if not (-100 <= low <= high <= 100 and int(low) == low and int(high) == high):
        message = f"a table of thresholds runs from low to high hundredths within -100..100, got {low} to {high}"
        raise OptionError(message)
    hundredths = tuple(range(int(low), int(high) + 1))
    return ThresholdTable(hundredths, _count(same_m, hundredths), _count(unrelated_m, hundredths))


def count_by_label(
    similarity_qn: NDArray[np.floating[Any]],
    query_labels: Sequence[str],
    item_labels: Sequence[str],
    *,
    low: int = LOW,
    high: int = HIGH,
) -> ThresholdTable:
    """The table of every query with every item: the same origin is the same label.

    Of many queries the tables of a few at a time can be added. Where the queries are items themselves, set the
    similarity of each to itself to -infinity first; that pair is then left out.

    Args:
        similarity_qn: (Q, N).
        query_labels: Q of them.
        item_labels: N of them.
        low: As `count_pairs`.
        high: As `count_pairs`.

    Raises:
        ShapeError: Not a label for each row and column; else as `count_pairs`.
    """
    if similarity_qn.shape != (len(query_labels), len(item_labels)):
        message = (
            f"expected similarities of shape ({len(query_labels)}, {len(item_labels)}), a row for each query's label "
            f"and a column for each item's, got {similarity_qn.shape}"
        )
        raise ShapeError(message)
    number_of = {label: number for number, label in enumerate(dict.fromkeys([*query_labels, *item_labels]))}
    queries_q, items_n = (
        np.array([number_of[label] for label in labels], dtype=np.intp) for labels in (query_labels, item_labels)
    )
    same_qn = queries_q[:, None] == items_n[None, :]
    return count_pairs(similarity_qn[same_qn], similarity_qn[~same_qn], low=low, high=high)


def count_mapped(mapped: Scored, same_origin: Collection[str], *, low: int = LOW, high: int = HIGH) -> ThresholdTable:
    """The table of a mapped file: all pairs of an anchor on the annotated list are of the same origin.

    Raises:
        InputError: None of the list's names is an anchor, which is then the list of another file.
        ShapeError: As `count_pairs`.
    """
    listed = set(same_origin)
    if not listed & set(mapped):
        example = next(iter(sorted(listed)), "")
        message = (
            f"none of the {len(listed)} names of the list, such as {example!r}, is one of the {len(mapped)} anchors "
            "of the mapped file: do they belong together?"
        )
        raise InputError(message)
    same = [score for anchor, items in mapped.items() if anchor in listed for score in items.values()]
    unrelated = [score for anchor, items in mapped.items() if anchor not in listed for score in items.values()]
    return count_pairs(np.array(same, dtype=np.float64), np.array(unrelated, dtype=np.float64), low=low, high=high)


def read_mapped(file: Path) -> dict[str, dict[str, float]]:
    """The items and similarities of each anchor: lines of `anchor<TAB>item:score item:score ...`.

    The name of an item ends at its last colon and holds no space; an anchor may have no items. Lines of one anchor are
    merged, and an item that they repeat counts once.

    Raises:
        InputError: Missing, empty, not UTF-8; a line without a tab, anchor, item or similarity, or one that gives a
            pair another similarity than a line before; with its number.
    """
    mapped: dict[str, dict[str, float]] = {}
    for number, line in _lines(file):
        anchor, tab, rest = line.partition("\t")
        anchor = anchor.strip()
        if not tab or not anchor:
            message = f"{file} line {number}: expected anchor<TAB>item:score item:score ..., got {line[:80]!r}"
            raise InputError(message)
        items = mapped.setdefault(anchor, {})
        for word in rest.split():
            item, score = _scored_item(file, number, word)
            if _whole(items.setdefault(item, score)) != _whole(score):
                message = f"{file} line {number}: {item} has similarity {score} to {anchor}, {items[item]} before"
                raise InputError(message)
    if not mapped:
        message = f"{file} holds no anchor: expected lines of anchor<TAB>item:score item:score ..."
        raise InputError(message)
    return mapped


def read_names(file: Path) -> frozenset[str]:
    """The annotated list of anchors whose items are of the same origin: a name a line.

    Raises:
        InputError: Missing, empty or not UTF-8.
    """
    names = frozenset(line.strip() for _, line in _lines(file))
    if not names:
        message = f"{file} holds no name: expected an anchor a line"
        raise InputError(message)
    return names


def _lines(file: Path) -> Iterable[tuple[int, str]]:
    """The number and text of each line that is not blank."""
    try:
        # other breaks of a line than \n may stand in a name
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        message = f"cannot read {file}: {error.strerror}"
        raise InputError(message) from error
    except UnicodeDecodeError as error:
        message = f"{file} is not text in UTF-8: {error}"
        raise InputError(message) from error
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _scored_item(file: Path, number: int, word: str) -> tuple[str, float]:
    item, _, text = word.rpartition(":")
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not item or not -_MOST <= score <= _MOST:
        message = f"{file} line {number}: expected item:score with a similarity from -1 to 1, got {word[:80]!r}"
        raise InputError(message)
    return item, score


def _whole(score: float) -> int:
    return round(score * _MILLIONTHS)


def _count(similarity_m: NDArray[np.floating[Any]], hundredths: tuple[int, ...]) -> tuple[int, ...]:
    if not (similarity_m <= _MOST).all():
        wrong = similarity_m[~(similarity_m <= _MOST)][0]
        message = f"expected similarities of at most 1, got {wrong}: were the descriptors of length 1?"
        raise ShapeError(message)
    within = np.clip(similarity_m.astype(np.float64), -_MOST - 1, 1)
    reached = np.rint(within * _MILLIONTHS).astype(np.int64) // _STEP
    # each pair stands at the highest threshold that it reaches, and counts there and at all below
    places = np.maximum(np.minimum(reached, hundredths[-1]) - hundredths[0] + 1, 0)
    standing = np.bincount(places, minlength=len(hundredths) + 1)
    return tuple(standing[::-1].cumsum()[::-1][1:].tolist())
