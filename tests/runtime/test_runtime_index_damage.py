"""Damaged index files and journals: each is refused in one sentence, and none of them kills the process."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.errors import IndexFileError
from deepir.runtime.index import Index
from deepir.runtime.index_file import backup_of, read_index
from deepir.runtime.index_items_cli import ls_command
from deepir.runtime.journal import journal_of

Rows = Callable[..., NDArray[np.float32]]

DRIVER = Path(__file__).with_name("damage_index.py")


def drive(folder: Path, what: str) -> dict[str, int]:
    """Run the driver, which checks every damage, and give how many it tried of each kind."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), what, "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


@pytest.fixture
def path(tmp_path: Path, make_card: Callable[..., ModelCard], rng: np.random.Generator, unit_rows: Rows) -> Path:
    """An index of six views, and a journal that adds two and removes one."""
    (tmp_path / "model.onnx").write_bytes(b"only its hash matters")
    index = Index.create(make_card(), tmp_path / "model.onnx")
    for label in ("cup", "plate"):
        index.add(label, unit_rows(rng, 3), ["1.jpg", "2.jpg", "3.jpg"])
    index.save(tmp_path / "shop.usearch")
    with Index.open(tmp_path / "shop.usearch", write=True) as writer:
        writer.add("fork", unit_rows(rng, 2), ["1.jpg", "2.jpg"])
        writer.remove([1])
    return tmp_path / "shop.usearch"


def test_thousands_of_damaged_files_are_refused(tmp_path: Path) -> None:
    counts = drive(tmp_path, "files")
    assert set(counts) == {"flip", "run", "zeroed block", "cut", "lengthened", "splice"}
    assert sum(counts.values()) >= 3000
    assert min(counts.values()) >= 50


def test_thousands_of_damaged_journals_are_refused_and_none_of_their_records_is_left_out(tmp_path: Path) -> None:
    counts = drive(tmp_path, "journals")
    assert sum(counts.values()) >= 3000


def listed(path: Path) -> Result:
    return CliRunner().invoke(ls_command, [str(path)])


def flipped(content: bytes, place: float) -> bytes:
    position = int(place * (len(content) - 1))
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]


@pytest.mark.parametrize("place", np.linspace(0, 1, 13))
def test_the_command_refuses_a_flipped_bit_with_exit_code_8(place: float, path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes(), place))
    result = listed(path)
    assert result.exit_code == 8, result.output
    assert "is not a usable index" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.3, 0.5, 0.8, 0.95, 0.9999])
def test_the_command_refuses_a_file_that_is_cut_off_with_exit_code_8(share: float, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    result = listed(path)
    assert result.exit_code == 8, result.output
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("place", np.linspace(0, 1, 9))
def test_the_command_refuses_a_flipped_bit_in_the_journal_with_exit_code_8(place: float, path: Path) -> None:
    journal_of(path).write_bytes(flipped(journal_of(path).read_bytes(), place))
    result = listed(path)
    assert result.exit_code == 8, result.output
    assert result.stderr.count("\n") == 1


def test_a_file_cut_right_behind_the_bytes_of_usearch_is_not_taken_for_one_of_another_program(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(read_index(path).usearch)])
    with pytest.raises(IndexFileError, match="what deepir wrote behind the descriptors is cut short"):
        Index.open(path)


def test_a_file_with_the_journal_of_a_copy_of_it_is_refused(
    path: Path, tmp_path: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    copy = tmp_path / "copy.usearch"
    copy.write_bytes(path.read_bytes())
    with Index.open(copy, write=True) as index:
        index.add("knife", unit_rows(rng, 1), ["1.jpg"])
        index.save()
    # it is the generation after this one, but what stands in this journal is not in it
    path.write_bytes(copy.read_bytes())
    with pytest.raises(IndexFileError, match="holds 2 changes of another state"):
        Index.open(path)


def test_a_file_put_back_with_its_journal_from_the_generation_before_holds_what_it_held(path: Path) -> None:
    with Index.open(path, write=True) as index:
        labels = index.labels
        index.save()
        index.remove("cup")
        index.save()
        index.remove("plate")
    Path(journal_of(path)).unlink()
    path.write_bytes(backup_of(path).read_bytes())
    journal_of(path).write_bytes(journal_of(backup_of(path)).read_bytes())
    before = Index.open(path).labels
    assert before == {label: count for label, count in labels.items() if label != "cup"}


@pytest.mark.parametrize(
    "footer",
    [b"{", b"[]", b"\xff\xfe", b'{"schema": "deepir.index/3"}', b'{"schema": "deepir.index/4"}', b"null", b"1"],
)
def test_a_footer_that_cannot_be_is_refused_even_with_the_right_checksum(
    footer: bytes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.open(path)
    monkeypatch.setattr("deepir.runtime.index_footer.Footer.to_json", lambda self: footer.decode("latin-1"))
    index.save(path.with_name("other.usearch"))
    with pytest.raises(IndexFileError, match="is not a usable index"):
        Index.open(path.with_name("other.usearch"))


@pytest.mark.parametrize(
    "sizes", [{"keys": -1}, {"keys": 1 << 60}, {"keys": "1"}, {"keys": 1.5}, [1], None, {"keys": None}]
)
def test_sections_that_cannot_be_are_refused_even_with_the_right_checksum(
    sizes: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.open(path)
    text = index.footer.to_json()
    facts = {**json.loads(text), "sections": sizes}
    monkeypatch.setattr("deepir.runtime.index_footer.Footer.to_json", lambda self: json.dumps(facts))
    index.save(path.with_name("other.usearch"))
    with pytest.raises(IndexFileError, match="is not a usable index"):
        Index.open(path.with_name("other.usearch"))
