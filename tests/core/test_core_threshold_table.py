"""The table of same-origin and unrelated pairs against counts by hand, and the file that it is read from."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepir.errors import InputError, OptionError, ShapeError
from deepir.threshold_table import (
    ThresholdTable,
    count_by_label,
    count_mapped,
    count_pairs,
    read_mapped,
    read_names,
)

similarities = arrays(np.float64, st.integers(0, 20), elements=st.floats(-1, 1))

MAPPED = "a\ta:1.0 b:0.82 c:0.805\nd\te:0.81 f:0.7\ng\th:0.80 i:0.799 j:-0.25\n"


def of(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def write(folder: Path, text: str | bytes, name: str = "mapped.txt") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def test_the_table_of_a_mapped_file_agrees_with_counts_by_hand(tmp_path: Path) -> None:
    table = count_mapped(read_mapped(write(tmp_path, MAPPED)), ["a"], low=79, high=83)
    assert table == ThresholdTable((79, 80, 81, 82, 83), (3, 3, 2, 2, 1), (3, 2, 1, 0, 0))
    assert list(table.rows())[1] == (0.8, 3, 2)


def test_thresholds_are_exact_decimals() -> None:
    table = count_pairs(of(), of(), low=-100, high=100)
    assert [threshold for threshold, _, _ in table.rows()] == [float(f"{step / 100:.2f}") for step in range(-100, 101)]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_every_hundredth_counts_at_its_own_threshold_and_not_at_the_next(kind: type) -> None:
    for hundredths in range(-100, 101):
        table = count_pairs(np.array([hundredths / 100], kind), of(), low=-100, high=100)
        assert sum(table.same_origin) == hundredths + 101, hundredths


def test_a_similarity_is_rounded_to_millionths() -> None:
    assert count_pairs(np.array([0.6999995001, 0.6999994]), of(), low=70, high=70).same_origin == (1,)


@given(similarities, similarities, st.integers(-100, 100), st.integers(0, 60))
def test_counts_agree_with_a_loop_and_never_rise(same: np.ndarray, unrelated: np.ndarray, low: int, width: int) -> None:
    table = count_pairs(same, unrelated, low=low, high=min(100, low + width))
    for values, counts in ((same, table.same_origin), (unrelated, table.unrelated)):
        assert list(counts) == [
            sum(round(value * 1e6) >= step * 10_000 for value in values) for step in table.hundredths
        ]
        assert list(counts) == sorted(counts, reverse=True)


def test_pairs_of_one_label_are_of_the_same_origin() -> None:
    similarity_qn = of([0.9, 0.6, 0.8], [0.7, 0.95, 0.1])
    table = count_by_label(similarity_qn, ["tea", "milk"], ["tea", "milk", "tea"], low=60, high=80)
    assert (table.same_origin[0], table.same_origin[-1]) == (3, 3)
    assert (table.unrelated[0], table.unrelated[10], table.unrelated[11]) == (2, 1, 0)


def test_labels_are_not_cut_to_one_length() -> None:
    assert count_by_label(of([0.9]), ["te"], ["tea"], low=50, high=50).unrelated == (1,)


def test_a_pair_of_minus_infinity_counts_nowhere() -> None:
    own = of([-np.inf, 0.5], [0.5, -np.inf])
    assert count_by_label(own, ["a", "a"], ["a", "a"], low=-100, high=-100).same_origin == (2,)


def test_tables_of_blocks_add_up(rng: np.random.Generator) -> None:
    similarity_qn = rng.uniform(-1, 1, (9, 7))
    queries, items = [f"{number % 3}" for number in range(9)], [f"{number % 3}" for number in range(7)]
    blocks = [
        count_by_label(similarity_qn[part], queries[part], items) for part in (slice(0, 4), slice(4, 4), slice(4, 9))
    ]
    assert blocks[0] + blocks[1] + blocks[2] == count_by_label(similarity_qn, queries, items)
    with pytest.raises(OptionError, match=r"50\.\.100 and 50\.\.60"):
        blocks[0] + count_pairs(of(), of(), low=50, high=60)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize(("low", "high"), [(80, 79), (-101, 0), (0, 101), (0.5, 1)])
def test_thresholds_out_of_range_are_refused(low: int, high: int) -> None:
    with pytest.raises(OptionError, match="hundredths within"):
        count_pairs(of(), of(), low=low, high=high)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5])
def test_damaged_similarities_are_refused(value: float) -> None:
    with pytest.raises(ShapeError, match=f"at most 1, got {value}"):
        count_pairs(of(0.5), of(0.5, value))


def test_a_row_and_a_column_need_a_label_each() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 2\)"):
        count_by_label(of([0.5, 0.5], [0.5, 0.5]), ["a"], ["a", "b"])


def test_an_item_is_named_up_to_its_last_colon(tmp_path: Path) -> None:
    assert read_mapped(write(tmp_path, "x y\thttp://b:0.5 c:1e-1\n")) == {"x y": {"http://b": 0.5, "c": 0.1}}


@pytest.mark.parametrize(
    "text",
    ["\ufeffa\tb:0.5\r\n\r\nc\t\r\n", "a\tb:0.5\n\n   \nc\t", "a\t b:0.5  \nc\t\n"],
    ids=["Windows", "blank", "spaces"],
)
def test_forms_that_programs_write_are_read(text: str, tmp_path: Path) -> None:
    assert read_mapped(write(tmp_path, text)) == {"a": {"b": 0.5}, "c": {}}


def test_lines_of_one_anchor_are_merged_and_a_pair_counts_once(tmp_path: Path) -> None:
    mapped = read_mapped(write(tmp_path, "a\tb:0.9\na\tb:0.9 c:0.8\nd\tb:0.9\na\tb:0.90000001\n"))
    assert mapped == {"a": {"b": 0.9, "c": 0.8}, "d": {"b": 0.9}}


def test_a_pair_with_two_similarities_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: b has similarity 0\.8 to a, 0\.9 before"):
        read_mapped(write(tmp_path, "a\tb:0.9\na\tc:0.1 b:0.8\n"))


@pytest.mark.parametrize(
    "line",
    [
        "a b:0.5",
        "\tb:0.5",
        "a\tb",
        "a\tb:",
        "a\t:0.5",
        "a\tb:x",
        "a\tb:nan",
        "a\tb:inf",
        "a\tb:1.5",
        "a\tb:-1.5",
        "a\tb:85",
    ],
)
def test_a_line_that_says_something_else_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mapped\.txt line 3: expected"):
        read_mapped(write(tmp_path, f"x\ty:0.5\n\n{line}\n"))


def test_a_file_without_anchors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no anchor"):
        read_mapped(write(tmp_path, "\n \n"))
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_mapped(write(tmp_path, b"a\tb\xff:0.5\n"))
    with pytest.raises(InputError, match="cannot read"):
        read_mapped(tmp_path / "absent.txt")


def test_the_list_has_a_name_a_line(tmp_path: Path) -> None:
    assert read_names(write(tmp_path, "a \r\n\nx y\na\n")) == {"a", "x y"}
    with pytest.raises(InputError, match="holds no name"):
        read_names(write(tmp_path, ""))


def test_the_list_of_another_file_is_refused(tmp_path: Path) -> None:
    mapped = read_mapped(write(tmp_path, MAPPED))
    with pytest.raises(InputError, match="none of the 2 names of the list, such as 'x'"):
        count_mapped(mapped, ["x", "y"])
    assert sum(count_mapped(mapped, ["a", "x"], low=50, high=50).same_origin) == 3
