"""The file format: what was written comes back, and nothing else is believed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepir.errors import IndexFileError, InputError
from deepir.runtime.index_file import Footer, ModelReference, backup_of, read_index, write_index
from deepir.runtime.index_whitening import IndexWhitening, WhiteningNote
from deepir.runtime.threshold import Threshold
from deepir.whitening import Whitening

MODEL = ModelReference("f" * 16, "0" * 64, "../tiny.onnx", "/models/tiny.onnx")

words = st.text(min_size=1, max_size=20)
footers = st.builds(
    Footer,
    model=st.just(MODEL),
    dim=st.integers(1, 4096),
    views=st.dictionaries(st.integers(1, 2**63), st.tuples(words, words), max_size=8),
    next_key=st.integers(1, 2**63),
    far=st.floats(0.001, 0.5),
    threshold=st.none() | st.builds(Threshold, st.floats(-1, 1), st.floats(0.001, 0.5), st.integers(1, 10**6)),
    generation=st.integers(0, 10**9),
)


def small_footer(generation: int = 1) -> Footer:
    return Footer(
        model=MODEL, dim=2, views={1: ("cup", "a.jpg")}, next_key=2, far=0.01, usearch="2", generation=generation
    )


def whitened_footer(dim: int, channels: int) -> tuple[IndexWhitening, Footer]:
    weights = np.arange(dim * channels, dtype=np.float32).reshape(dim, channels)
    note = WhiteningNote(channels, dim, 0.25, (81, 20))
    whitening = IndexWhitening(note, Whitening(weights, -np.arange(dim, dtype=np.float32)))
    return whitening, replace(small_footer(), dim=dim, whitening=note)


@given(footer=footers)
def test_a_footer_read_back_is_the_footer_written(footer: Footer) -> None:
    assert Footer.from_json(footer.to_json()) == footer


@settings(max_examples=20)
@given(footer=footers, content=st.binary(max_size=200))
def test_a_file_read_back_is_the_file_written(
    tmp_path_factory: pytest.TempPathFactory, footer: Footer, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("index") / "shop.usearch"
    write_index(path, content, footer)
    read, read_footer, whitening = read_index(path)
    assert (bytes(read), read_footer, whitening) == (content, footer, None)


@settings(max_examples=20)
@given(content=st.binary(max_size=200), dim=st.integers(1, 4), channels=st.integers(4, 6))
def test_a_whitening_read_back_is_the_one_written(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, dim: int, channels: int
) -> None:
    path = tmp_path_factory.mktemp("index") / "shop.usearch"
    whitening, footer = whitened_footer(dim, channels)
    write_index(path, content, footer, whitening)
    read, read_footer, read_whitening = read_index(path)
    assert (bytes(read), read_footer) == (content, footer)
    assert read_whitening is not None
    np.testing.assert_array_equal(read_whitening.map.weight_dc, whitening.map.weight_dc)
    np.testing.assert_array_equal(read_whitening.map.bias_d, whitening.map.bias_d)


def test_a_whitening_that_does_not_fit_the_footer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    whitening, footer = whitened_footer(2, 4)
    write_index(path, b"", footer)
    with pytest.raises(IndexFileError, match=r"2 values in 40 bytes"):
        read_index(path)
    write_index(path, b"", replace(footer, dim=3), whitening)
    with pytest.raises(IndexFileError, match="it holds descriptors of 3"):
        read_index(path)
    whitening.map.bias_d[1] = np.nan
    write_index(path, b"", footer, whitening)
    with pytest.raises(IndexFileError, match="NaN or infinity"):
        read_index(path)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 1},
        {"channels": 1 << 17, "dim": 2},
        {"dim": 0},
        {"dim": -2},
        {"dim": 2.0},
        {"dim": "2"},
        {"power": 0.7},
        {"power": None},
        {"pictures": []},
        {"pictures": [0]},
        {"pictures": 3},
        {"more": 1},
    ],
)
def test_a_note_of_a_whitening_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    fields = json.loads(whitened_footer(2, 4)[1].to_json())
    fields["whitening"] |= change
    with pytest.raises(IndexFileError):
        Footer.from_json(json.dumps(fields))
    del fields["whitening"]
    with pytest.raises(IndexFileError):
        Footer.from_json(json.dumps(fields))


def test_an_index_without_a_whitening_is_written_as_ever_and_one_with_it_under_another_schema() -> None:
    plain, whitened = json.loads(small_footer().to_json()), json.loads(whitened_footer(2, 4)[1].to_json())
    names = {
        "schema",
        "dim",
        "next_key",
        "far",
        "dtype",
        "usearch",
        "generation",
        "model",
        "threshold",
        "labels",
        "views",
    }
    assert (plain["schema"], set(plain)) == ("deepir.index/1", names)
    assert (whitened["schema"], set(whitened)) == ("deepir.index/2", names | {"whitening"})


def test_each_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    write_index(path, b"the bytes of usearch", small_footer())
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(IndexFileError, match="not a usable index"):
            read_index(path)


def test_each_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    write_index(path, b"the bytes of usearch", small_footer())
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(IndexFileError, match=rf"\({length} bytes\).*deepir-index build"):
            read_index(path)


def test_a_file_of_another_schema_is_refused_with_both_schemas() -> None:
    text = small_footer().to_json().replace("deepir.index/1", "deepir.index/9")
    with pytest.raises(IndexFileError, match=r"deepir\.index/9.*deepir\.index/1 and deepir\.index/2"):
        Footer.from_json(text)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the index .*nothing\.usearch"):
        read_index(tmp_path / "nothing.usearch")


def test_the_generation_before_stays_as_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    write_index(path, b"first", small_footer(1))
    write_index(path, b"second", small_footer(2))
    assert bytes(read_index(path)[0]) == b"second"
    assert bytes(read_index(backup_of(path))[0]) == b"first"


def test_a_damaged_index_names_its_backup(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    write_index(path, b"first", small_footer(1))
    write_index(path, b"second", small_footer(2))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(IndexFileError, match=r"shop\.usearch\.bak: copy that over it"):
        read_index(path)


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.usearch"
    write_index(path, b"first", small_footer(1))

    def disk_full(_from: Path, _to: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_index(path, b"second", small_footer(2))
    assert bytes(read_index(path)[0]) == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["shop.usearch"]
