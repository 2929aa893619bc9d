"""Calibration pictures: which to measure ranges on, and which to judge the result with."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepir.datasets import read_picture_paths
from deepir.errors import InputError

FEWEST = 32
"""With fewer pictures the ranges are guesswork (field.md 3.2)."""

RECOMMENDED = 128

_JUDGE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Pictures that fix the ranges, and others, unseen by them, that judge the result."""

    measure: tuple[Path, ...]
    judge: tuple[Path, ...]


def choose_images(folders: Sequence[Path], *, most: int = 500, seed: int = 0) -> CalibrationSet:
    """Draw at most `most` pictures at random and split them, three quarters to measure and one to judge.

    Raises:
        InputError: A folder without pictures, or fewer than FEWEST in all.
    """
    paths = [path for folder in folders for path in read_picture_paths(folder)]
    if len(paths) < FEWEST:
        message = (
            f"calibration needs at least {FEWEST} pictures, {RECOMMENDED} or more are better; "
            f"got {len(paths)} in {', '.join(map(str, folders))}"
        )
        raise InputError(message)
    chosen = random.Random(seed).sample(paths, min(most, len(paths)))  # noqa: S311 a sample, not a secret
    judges = max(1, round(len(chosen) * _JUDGE_SHARE))
    return CalibrationSet(tuple(chosen[judges:]), tuple(chosen[:judges]))
