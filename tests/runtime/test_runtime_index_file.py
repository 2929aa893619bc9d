"""The file format: what was written comes back, and nothing else is believed."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepir.errors import IndexFileError, InputError
from deepir.runtime import index_file
from deepir.runtime.codes import DTYPES, Codes
from deepir.runtime.index import Index
from deepir.runtime.index_file import NoFooterError, backup_of, read_index, stated_digest, write_index
from deepir.runtime.index_footer import Footer, ModelReference, Recall
from deepir.runtime.index_whitening import IndexWhitening, WhiteningNote
from deepir.runtime.items import ItemTable
from deepir.runtime.store import DescriptorStore
from deepir.runtime.threshold import Threshold
from deepir.whitening import Whitening

MODEL = ModelReference("f" * 16, "0" * 64, "../tiny.onnx", "/models/tiny.onnx")

words = st.text(max_size=20)
shares = st.floats(0.001, 0.5)
footers = st.builds(
    Footer,
    model=st.builds(ModelReference, words, words, words, words),
    references=st.none() | st.builds(ModelReference, words, words, words, words),
    codes=st.builds(Codes, st.sampled_from(DTYPES), st.integers(1, 4096)),
    next_key=st.integers(1, 2**63),
    far=shares,
    margin=shares,
    threshold=st.none() | st.builds(Threshold, st.floats(-1, 1), shares, st.integers(1, 10**6)),
    usearch=words,
    generation=st.integers(0, 10**9),
    previous=words,
    absorbed=words,
    whitening=st.none() | st.just(WhiteningNote(4, 2, 0.25, (81, 20))),
    recall=st.none() | st.builds(Recall, shares, st.integers(1, 200), st.integers(1, 10**6)),
    removed=st.integers(0, 10**6),
    thumbnails=st.none() | st.integers(1, 1000),
)
sections = st.dictionaries(words, st.binary(max_size=50), max_size=4)


def small_footer(generation: int = 1) -> Footer:
    return Footer(model=MODEL, codes=Codes("i8", 2), next_key=2, usearch="2", generation=generation)


def whitened(dim: int, channels: int) -> tuple[IndexWhitening, Footer]:
    weights = np.arange(dim * channels, dtype=np.float32).reshape(dim, channels)
    note = WhiteningNote(channels, dim, 0.25, (81, 20))
    whitening = IndexWhitening(note, Whitening(weights, -np.arange(dim, dtype=np.float32)))
    return whitening, replace(small_footer(), codes=Codes("i8", dim), whitening=note)


def write(path: Path, content: bytes = b"the bytes of usearch", generation: int = 1) -> bytes:
    write_index(path, content, {"labels": b"cup"}, small_footer(generation))
    return path.read_bytes()


@settings(deadline=None)
@given(footer=footers)
def test_a_footer_read_back_is_the_footer_written(footer: Footer) -> None:
    assert Footer.from_json(footer.to_json()) == footer


@settings(max_examples=20, deadline=None)
@given(footer=footers, content=st.binary(max_size=200), sections=sections)
def test_a_file_read_back_is_the_file_written(
    tmp_path_factory: pytest.TempPathFactory, footer: Footer, content: bytes, sections: Mapping[str, bytes]
) -> None:
    path = tmp_path_factory.mktemp("index") / "shop.usearch"
    digest = write_index(path, content, sections, footer)
    read = read_index(path)
    assert (bytes(read.usearch), read.digest) == (content, digest)
    assert {name: bytes(section) for name, section in read.sections.items()} == sections
    assert replace(read.footer, sections={}) == footer
    assert read.identity == (path.stat().st_dev, path.stat().st_ino)
    assert stated_digest(path) == digest


@settings(max_examples=20, deadline=None)
@given(content=st.binary(max_size=200), sections=sections, chunk=st.integers(1, 80))
def test_a_file_of_several_chunks_is_the_file_that_was_written_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, sections: Mapping[str, bytes], chunk: int
) -> None:
    path = tmp_path_factory.mktemp("index") / "shop.usearch"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_file, "_CHUNK", chunk)
        write_index(path, content, sections, small_footer())
        assert bytes(read_index(path).usearch) == content
        good = path.read_bytes()
        for position in range(0, len(good), 37):
            path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            with pytest.raises(IndexFileError):
                read_index(path)


@settings(max_examples=20, deadline=None)
@given(dim=st.integers(1, 4), channels=st.integers(4, 6))
def test_a_whitening_read_back_is_the_one_written(dim: int, channels: int) -> None:
    whitening, footer = whitened(dim, channels)
    note = Footer.from_json(footer.to_json()).whitening
    assert note == whitening.note
    read = IndexWhitening.from_bytes(note, memoryview(whitening.to_bytes()))
    np.testing.assert_array_equal(read.map.weight_dc, whitening.map.weight_dc)
    np.testing.assert_array_equal(read.map.bias_d, whitening.map.bias_d)


def write_empty(path: Path, footer: Footer, whitening: bytes | None) -> Path:
    """An index without items."""
    parts = ItemTable().to_sections()
    if whitening is not None:
        parts["whitening"] = whitening
    write_index(path, DescriptorStore.empty(footer.codes).to_bytes(), parts, footer)
    return path


def test_a_whitening_that_does_not_fit_the_footer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    whitening, footer = whitened(2, 4)
    assert Index.open(write_empty(path, footer, whitening.to_bytes())).whitening == whitening.note
    write_empty(path, footer, None)
    with pytest.raises(IndexFileError, match="its whitening gives 2 values"):
        Index.open(path)
    write_empty(path, footer, whitening.to_bytes()[:-4])
    with pytest.raises(IndexFileError, match=r"has 36 bytes, expected 40"):
        Index.open(path)
    write_empty(path, replace(footer, codes=Codes("i8", 3)), whitening.to_bytes())
    with pytest.raises(IndexFileError, match="it holds descriptors of 3"):
        Index.open(path)
    whitening.map.bias_d[1] = np.nan
    write_empty(path, footer, whitening.to_bytes())
    with pytest.raises(IndexFileError, match="NaN or infinity"):
        Index.open(path)


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
    fields = json.loads(whitened(2, 4)[1].to_json())
    fields["whitening"] |= change
    with pytest.raises(IndexFileError):
        Footer.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    "change",
    [
        {"codes": None},
        {"model": None},
        {"codes": {"dtype": "i4", "dim": 8}},
        {"codes": {"dtype": "i8", "dim": 0}},
        {"codes": {"dtype": "i8", "dim": 8, "scale": 1}},
        {"codes": {"dtype": "i8", "dim": "8"}},
        {"model": "tiny.onnx"},
        {"model": {"fingerprint": "f"}},
        {"recall": {"value": 1}},
        {"threshold": [0.5]},
        {"more": 1},
    ],
)
def test_a_footer_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    fields = json.loads(small_footer().to_json()) | change
    with pytest.raises(IndexFileError, match="its footer cannot be read"):
        Footer.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", '"deepir.index/3"'])
def test_what_is_no_footer_is_refused(text: str) -> None:
    with pytest.raises(IndexFileError, match="its footer cannot be read"):
        Footer.from_json(text)


def test_the_form_of_the_footer_is_what_the_documents_say() -> None:
    assert set(json.loads(small_footer().to_json())) == {
        "schema",
        "model",
        "references",
        "codes",
        "next_key",
        "far",
        "margin",
        "threshold",
        "usearch",
        "generation",
        "previous",
        "absorbed",
        "whitening",
        "recall",
        "removed",
        "thumbnails",
        "sections",
    }
    assert json.loads(small_footer().to_json())["schema"] == "deepir.index/3"
    assert json.loads(small_footer().to_json())["codes"] == {"dtype": "i8", "dim": 2}


def test_each_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    good = write(path)
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        # with another end it may be of another program, and is looked at as such
        reason = "not a usable index" if position < len(good) - len(b"DEEPIRX3") else "no deepir footer"
        with pytest.raises(IndexFileError, match=reason):
            read_index(path)


def test_each_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    good = write(path)
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(NoFooterError, match="cut short"):
            read_index(path)


def test_a_truncated_index_is_refused_with_its_size_and_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    footer = small_footer()
    good = write_empty(path, footer, None).read_bytes()
    for length in (0, 1, 63, len(DescriptorStore.empty(footer.codes).to_bytes()), len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(IndexFileError, match=rf"\({length} bytes\).*deepir-index build"):
            Index.open(path)


@pytest.mark.parametrize("schema", ["deepir.index/1", "deepir.index/2", "deepir.index/9"])
def test_a_file_of_another_schema_is_refused_with_both_schemas(schema: str) -> None:
    text = small_footer().to_json().replace("deepir.index/3", schema)
    with pytest.raises(IndexFileError, match=rf"{schema}.*deepir\.index/3"):
        Footer.from_json(text)


def test_a_file_of_an_earlier_version_is_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    path.write_bytes(write(path)[:-8] + b"DEEPIRX1")
    with pytest.raises(IndexFileError, match=r"an earlier version of deepir wrote it.*make it again"):
        read_index(path)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the index .*nothing\.usearch"):
        read_index(tmp_path / "nothing.usearch")
    with pytest.raises(InputError, match="cannot read the index"):
        read_index(tmp_path)
    assert stated_digest(tmp_path / "nothing.usearch") == ""


def test_the_generation_before_stays_as_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    write(path, b"first", 1)
    write(path, b"second", 2)
    assert bytes(read_index(path).usearch) == b"second"
    assert bytes(read_index(backup_of(path)).usearch) == b"first"


def test_where_a_file_cannot_have_two_names_the_backup_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_from: Path, _to: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    test_the_generation_before_stays_as_a_backup(tmp_path)


def test_a_damaged_index_names_its_backup(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    write(path, b"first", 1)
    content = bytearray(write(path, b"second", 2))
    content[0] ^= 1
    path.write_bytes(content)
    with pytest.raises(IndexFileError, match=r"repair .*shop\.usearch goes back to shop\.usearch\.bak"):
        read_index(path)


def test_who_has_the_file_mapped_keeps_it_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "shop.usearch"
    write(path, b"first", 1)
    opened = read_index(path)
    write(path, b"second", 2)
    assert bytes(opened.usearch) == b"first"


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.usearch"
    write(path, b"first", 1)

    def disk_full(*_names: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", disk_full)
    with pytest.raises((OSError, InputError), match="No space left"):
        write(path, b"second", 2)
    assert bytes(read_index(path).usearch) == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["shop.usearch"]
