"""Which blocks stay FP16: the damage of each, and the fewest that let a model pass."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from deepir.calib import sensitivity
from deepir.calib.blocks import Block, find_blocks
from deepir.calib.half import keep_half
from deepir.calib.onnx_file import Feeds, open_session
from deepir.calib.quantise import place, quantise
from deepir.calib.ranges import measure_statistics, ranges_by
from deepir.calib.record import BlockDamage
from deepir.calib.sensitivity import block_damage, fewest_kept
from deepir.descriptors import Descriptors
from deepir.distill.checkpoint import Model
from deepir.errors import OptionError, ShapeError
from deepir.export.graph import build_onnx
from deepir.gate import GateLimits, judge

MakeModel = Callable[..., Model]
SILENT: Callable[[str], None] = lambda _: None  # noqa: E731 a name for what says nothing
BLOCKS = [Block("a", ("a.0", "a.1")), Block("b", ("b.0",)), Block("c", ("c.0",))]
REFERENCE = np.eye(4, dtype=np.float32)
COSINES = {(): 0.5, ("a.0", "a.1"): 0.6, ("b.0",): 0.9, ("c.0",): 0.4}


def turned(cosine: float) -> Descriptors:
    """Rows of length 1 that have this cosine with those of REFERENCE."""
    rows: Descriptors = cosine * REFERENCE + math.sqrt(1 - cosine**2) * np.roll(REFERENCE, 1, axis=1)
    return rows.astype(np.float32)


def test_the_damage_of_a_block_is_what_fp16_there_alone_wins_and_the_worst_comes_first() -> None:
    found = block_damage(lambda kept: kept, lambda kept: turned(COSINES[kept]), REFERENCE, BLOCKS, SILENT)
    assert [(one.block, one.convolutions) for one in found] == [
        ("b", ("b.0",)),
        ("a", ("a.0", "a.1")),
        ("c", ("c.0",)),
    ]
    np.testing.assert_allclose([one.damage for one in found], [0.4, 0.1, -0.1], atol=1e-6)


def test_every_model_is_made_once() -> None:
    made: list[tuple[str, ...]] = []

    def make(kept: tuple[str, ...]) -> tuple[str, ...]:
        made.append(kept)
        return kept

    block_damage(make, lambda kept: turned(COSINES[kept]), REFERENCE, BLOCKS, SILENT)
    assert made == [(), ("a.0", "a.1"), ("b.0",), ("c.0",)]


def test_a_person_hears_at_once_how_long_it_takes_and_then_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(sensitivity.time, "monotonic", lambda: float(next(clock)))
    said: list[str] = []
    blocks = [Block(f"b{number}", (f"c{number}",)) for number in range(6)]
    block_damage(lambda kept: kept, lambda _: REFERENCE, REFERENCE, blocks, said.append)
    assert said == [
        "damage of 1 of 6 blocks measured, about 50 s left",
        "damage of 3 of 6 blocks measured, about 30 s left",
        "damage of 5 of 6 blocks measured, about 10 s left",
    ]


def test_descriptors_that_are_not_finite_are_as_bad_as_can_be() -> None:
    def describe(kept: tuple[str, ...]) -> Descriptors:
        return np.full_like(REFERENCE, np.nan) if kept == ("b.0",) else turned(COSINES[kept])

    found = block_damage(lambda kept: kept, describe, REFERENCE, BLOCKS, SILENT)
    assert [one.block for one in found] == ["a", "c", "b"]
    assert found[-1].damage == pytest.approx(-1.5)


def test_of_a_single_block_the_damage_is_all_that_int8_loses() -> None:
    def make(kept: tuple[str, ...]) -> tuple[str, ...]:
        assert not kept, "a model without INT8 cannot be made"
        return kept

    (found,) = block_damage(make, lambda _: turned(0.75), REFERENCE, BLOCKS[:1], SILENT)
    assert found == BlockDamage("a", ("a.0", "a.1"), pytest.approx(0.25))


@pytest.mark.parametrize("found", [REFERENCE[:3], REFERENCE[:, :3], REFERENCE[:0]])
def test_descriptors_of_other_pictures_are_refused(found: Descriptors) -> None:
    reference = found if not len(found) else REFERENCE
    with pytest.raises(ShapeError, match="the same pictures"):
        block_damage(lambda kept: kept, lambda _: found, reference, BLOCKS, SILENT)


def damages(*sizes: int) -> list[BlockDamage]:
    return [
        BlockDamage(f"b{number}", tuple(f"b{number}.{part}" for part in range(size)), -float(number))
        for number, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=40), st.integers(0, 41), st.integers(0, 170))
def test_the_fewest_of_the_worst_blocks_are_found_in_few_trials(sizes: list[int], needed: int, most: int) -> None:
    damage = damages(*sizes)
    names = [name for block in damage for name in block.convolutions]
    enough = set(names[: sum(sizes[:needed])]) if needed <= len(sizes) else {"never"}
    tried: list[tuple[str, ...]] = []

    def passes(kept: tuple[str, ...]) -> bool:
        tried.append(kept)
        return enough <= set(kept)

    kept = fewest_kept(damage, passes, most=most)
    prefixes = [tuple(names[: sum(sizes[:count])]) for count in range(1, len(sizes) + 1)]
    within = [prefix for prefix in prefixes if len(prefix) <= most]
    assert kept == next((prefix for prefix in within if enough <= set(prefix)), None)
    assert all(len(one) <= most for one in tried)
    assert kept is None or kept in tried
    assert len(tried) == len(set(tried)) <= 2 * math.log2(max(len(within), 1)) + 2


def test_what_is_given_has_passed_even_where_more_is_not_better() -> None:
    good = {3, 5, 6}
    tried: dict[int, bool] = {}

    def passes(kept: tuple[str, ...]) -> bool:
        tried[len(kept)] = len(kept) in good
        return tried[len(kept)]

    kept = fewest_kept(damages(*[1] * 6), passes, most=6)
    assert kept is not None
    assert tried[len(kept)]


@pytest.mark.parametrize(("sizes", "most"), [((), 5), ((4, 1), 3), ((1,), 0)])
def test_nothing_is_tried_where_nothing_may_be_kept(sizes: tuple[int, ...], most: int) -> None:
    def passes(_: tuple[str, ...]) -> bool:
        pytest.fail("there is nothing to try")

    assert fewest_kept(damages(*sizes), passes, most=most) is None


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(OptionError, match="got -1"):
        fewest_kept(damages(1), lambda _: True, most=-1)


CHANNEL, TIMES = 2, 512.0


def with_an_outlier(master: onnx.ModelProto, before: str, after: str) -> onnx.ModelProto:
    """The same function: one channel between two convolutions, with a ReLU between, is so many times as large."""
    planted = onnx.ModelProto()
    planted.CopyFrom(master)
    scales = {(before, "weight"): TIMES, (before, "weight_bias"): TIMES, (after, "weight"): 1 / TIMES}
    for tensor in planted.graph.initializer:
        owner, _, kind = tensor.name.rpartition(".")
        if (owner, kind) in scales:
            values = numpy_helper.to_array(tensor).copy()
            values[CHANNEL if owner == before else (slice(None), CHANNEL)] *= scales[owner, kind]
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return planted


def images(count: int = 32) -> Feeds:
    """Pictures of smooth random patterns, of different strength."""
    generator = np.random.default_rng(0)
    coarse = generator.normal(size=(count, 3, 8, 8)) * generator.uniform(0.3, 2, size=(count, 3, 1, 1))
    return {"images": np.kron(coarse, np.ones((1, 1, 8, 8))).astype(np.float32)}


def test_an_outlier_in_one_layer_is_found_and_fp16_there_alone_passes_the_gate(make_model: MakeModel) -> None:
    master = build_onnx(make_model(dim=6))
    planted = with_an_outlier(master, "stem.0", "middle.0")
    pictures = images()

    def describe(proto: onnx.ModelProto) -> Descriptors:
        found: Descriptors = open_session(proto).run(None, pictures)[0]
        return found

    reference = describe(planted)
    np.testing.assert_allclose(reference, describe(master), atol=1e-4)
    ranges = ranges_by(measure_statistics(planted, place(planted).tensors, lambda: [pictures]), "max")

    def make(kept: tuple[str, ...]) -> onnx.ModelProto:
        proto = quantise(planted, place(planted, keep=kept), ranges)
        keep_half(proto, kept)
        return proto

    def passes(kept: tuple[str, ...]) -> bool:
        return judge(reference, describe(make(kept)), GateLimits()).passed

    assert not passes(())
    damage = block_damage(make, describe, reference, find_blocks(planted), SILENT)
    assert (damage[0].block, damage[0].convolutions) == ("middle.0", ("middle.0",))
    assert damage[0].damage > 10 * max(abs(other.damage) for other in damage[1:])
    assert fewest_kept(damage, passes, most=2) == ("middle.0",)


def test_damage_is_plain_data_for_the_record() -> None:
    (found,) = block_damage(lambda kept: kept, lambda _: turned(0.75), REFERENCE, BLOCKS[:1], SILENT)
    fields = dataclasses.asdict(found)
    assert type(fields["damage"]) is float
    assert fields["convolutions"] == ("a.0", "a.1")
