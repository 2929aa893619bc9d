"""Which blocks INT8 hurts: each alone stays FP16, and the descriptors say how much nearer to FP32 they come."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepir.calib.blocks import Block
from deepir.calib.record import BlockDamage
from deepir.descriptors import Descriptors
from deepir.errors import OptionError, ShapeError
from deepir.runtime.progress import Report

_SECONDS_BETWEEN_REPORTS = 15.0


def block_damage(
    make: Callable[[tuple[str, ...]], Any],
    describe: Callable[[Any], Descriptors],
    reference_nd: Descriptors,
    blocks: Sequence[Block],
    report: Report,
) -> list[BlockDamage]:
    """The damage of each block, the worst first: the mean cosine when it alone stays FP16, less that of all in INT8.

    Args:
        make: The INT8 model in which convolutions of these names stay FP16; none is all INT8.
        describe: Descriptors (N, D) of length 1 that a model gives of some pictures.
        reference_nd: Those of the FP32 model, of the same pictures in the same order.
        blocks: From `deepir.calib.blocks.find_blocks`.
        report: Hears now and then how far it is.

    Raises:
        ShapeError: Descriptors of other pictures than `reference_nd`.
    """

    def cosine(kept: tuple[str, ...]) -> float:
        return _mean_cosine(reference_nd, describe(make(kept)))

    all_int8 = cosine(())
    if len(blocks) == 1:
        # nothing would be left to quantise; what the FP16 file loses is of another order
        return [BlockDamage(blocks[0].name, blocks[0].convolutions, 1 - all_int8)]
    started = told = time.monotonic()
    found = []
    for done, block in enumerate(blocks, start=1):
        found.append(BlockDamage(block.name, block.convolutions, cosine(block.convolutions) - all_int8))
        now = time.monotonic()
        if done == 1 or now - told > _SECONDS_BETWEEN_REPORTS:
            told, left = now, (now - started) / done * (len(blocks) - done)
            report(f"damage of {done} of {len(blocks)} blocks measured, about {left:.0f} s left")
    return sorted(found, key=lambda damage: -damage.damage)


def fewest_kept(
    damage: Sequence[BlockDamage], passes: Callable[[tuple[str, ...]], bool], *, most: int
) -> tuple[str, ...] | None:
    """The convolutions of the fewest of the worst blocks with which a model passes when they stay FP16.

    Blocks are added in the order of their damage, twice as many each time, and then halfway back: about 2 log2(blocks)
    trials. What is given has passed; with one block less it has failed.

    Args:
        damage: From `block_damage`, the worst first.
        passes: Whether the model passes in which convolutions of these names stay FP16; expensive.
        most: Convolutions that may stay FP16, from 0 on.

    Returns:
        None when it does not pass within `most`.

    Raises:
        OptionError: `most` is negative.
    """
    if most < 0:
        message = f"the most convolutions that may stay FP16 are a number from 0 on, got {most}"
        raise OptionError(message)
    prefixes = _prefixes(damage, most)
    if not prefixes:
        return None
    failed, passed = 0, 1
    while not passes(prefixes[passed - 1]):
        if passed == len(prefixes):
            return None
        failed, passed = passed, min(2 * passed, len(prefixes))
    while passed - failed > 1:
        middle = (failed + passed) // 2
        failed, passed = (failed, middle) if passes(prefixes[middle - 1]) else (middle, passed)
    return prefixes[passed - 1]


def _prefixes(damage: Sequence[BlockDamage], most: int) -> list[tuple[str, ...]]:
    """The convolutions of the worst block, of the two worst, and so on."""
    prefixes, names = list[tuple[str, ...]](), tuple[str, ...]()
    for block in damage:
        names += block.convolutions
        if len(names) > most:
            break
        prefixes.append(names)
    return prefixes


def _mean_cosine(reference_nd: Descriptors, found_nd: Descriptors) -> float:
    if reference_nd.shape != found_nd.shape or not len(reference_nd):
        message = f"damage is measured on descriptors of the same pictures, got {reference_nd.shape}, {found_nd.shape}"
        raise ShapeError(message)
    cosines_n = np.sum(reference_nd.astype(np.float64) * found_nd, axis=1)
    # FP16 that overflows gives NaN: as bad as can be
    return float(np.where(np.isfinite(cosines_n), cosines_n, -1).mean())
