"""deepir-index verify: what is right and wrong with an index and what belongs to it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.runtime import index_verify
from deepir.runtime.index import Index
from deepir.runtime.index_file import backup_of, read_index, write_index
from deepir.runtime.index_file_cli import verify_command
from deepir.runtime.index_verify import verify_index
from deepir.runtime.journal import journal_of
from deepir.runtime.pictures import keep_thumbnail, thumbnails_of
from deepir.runtime.store import load_usearch

UnitRows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]

SHALLOW = ["checksum", "footer", "items", "journal", "previous", "model"]
DEEP = [*SHALLOW, "load", "keys", "values", "search", "pictures"]


def verify(*words: object) -> Result:
    return CliRunner().invoke(verify_command, [str(word) for word in words])


def statuses(path: Path, *, deep: bool = False) -> dict[str, str]:
    return {check.name: check.status for check in verify_index(path, deep=deep)}


def text_of(path: Path, name: str, *, deep: bool = False) -> str:
    return " | ".join(check.text for check in verify_index(path, deep=deep) if check.name == name)


@pytest.fixture
def shop(tmp_path: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator) -> Path:
    """In its second generation, with changes in the journal and its pictures in place."""
    path = tmp_path / "shop.usearch"
    index = Index.create(make_card(), model)
    for label in ("soap", "tea", "salt"):
        for number in range(5):
            picture = tmp_path / label / f"{number}.png"
            picture.parent.mkdir(exist_ok=True)
            picture.write_bytes(b"a picture")
        index.add(label, unit_rows(rng, 5), [f"{label}/{number}.png" for number in range(5)])
    index.save(path)
    with Index.open(path, write=True) as opened:
        opened.remove([2])
        opened.save()
        opened.relabel([3], "brush")
        opened.remove([7, 8])
    return path


@pytest.mark.parametrize(("words", "names"), [((), SHALLOW), (("--deep",), DEEP)])
def test_an_index_in_order_passes_every_check(shop: Path, words: tuple[str, ...], names: list[str]) -> None:
    result = verify(shop, *words)
    assert result.exit_code == 0, result.output
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["ok", name] for name in names]
    assert result.stderr == f"next: deepir-index {'info' if words else 'verify --deep'} {shop}\n"


def test_programs_get_one_object(shop: Path) -> None:
    facts = json.loads(verify(shop, "--json").stdout)
    assert (facts["path"], facts["ok"]) == (str(shop), True)
    assert [check["name"] for check in facts["checks"]] == SHALLOW
    assert "14 views of 3 labels, 0 removed, 14 vectors" in facts["checks"][2]["text"]
    assert "2 records with 2 changes" in facts["checks"][3]["text"]
    assert "generation 1 in shop.usearch.bak and 1 records" in facts["checks"][4]["text"]


def test_a_failed_check_is_listed_and_ends_with_status_8(shop: Path) -> None:
    content = bytearray(shop.read_bytes())
    content[30] ^= 1
    shop.write_bytes(content)
    result = verify(shop)
    assert result.exit_code == 8
    assert result.stdout.startswith("fail  checksum")
    assert result.stderr == (
        f"error: 1 of 1 checks of {shop} failed, first checksum: deepir-index repair {shop} --dry-run says what can be "
        "done\n"
    )
    facts = json.loads(verify(shop, "--json").stdout)
    assert (facts["ok"], facts["checks"][0]["status"]) == (False, "fail")


def test_every_truncation_fails(shop: Path, rng: np.random.Generator) -> None:
    content = shop.read_bytes()
    for size in rng.integers(0, len(content), 40).tolist():
        shop.write_bytes(content[:size])
        assert "fail" in statuses(shop).values(), size


def test_counts_that_do_not_add_up_fail(shop: Path) -> None:
    opened = read_index(shop)
    sections = {name: bytes(content) for name, content in opened.sections.items()}
    write_index(shop, bytes(opened.usearch), sections, replace(opened.footer, next_key=3))
    assert statuses(shop)["items"] == "fail"
    fewer = load_usearch().Index(ndim=8, metric="cos", dtype="i8")
    fewer.add(np.arange(3, 6, dtype=np.uint64), np.ones((3, 8), np.int8))
    write_index(shop, bytes(fewer.save()), sections, opened.footer)
    assert "14 views of 3 labels, 0 removed, 3 vectors, which does not add up" in text_of(shop, "items")


def test_a_torn_journal_is_a_warning_and_a_damaged_one_a_failure(shop: Path) -> None:
    journal = journal_of(shop)
    content = journal.read_bytes()
    # 0x69 marks a record that is being written
    journal.write_bytes(content + b"\x69\1\2")
    assert "3 bytes of a change that was cut off" in text_of(shop, "journal")
    assert verify(shop).exit_code == 0
    journal.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "damaged at byte" in text_of(shop, "journal")
    assert verify(shop).exit_code == 8


def test_a_journal_of_another_state_fails(shop: Path) -> None:
    journal_of(shop).write_bytes(journal_of(backup_of(shop)).read_bytes())
    # as a writer that was killed before it put its journal aside leaves it
    assert statuses(shop)["journal"] == "ok"
    content = bytearray(journal_of(shop).read_bytes())
    content[10] ^= 1
    journal_of(shop).write_bytes(content)
    assert statuses(shop)["journal"] == "fail"


def test_without_a_journal_nothing_changed(shop: Path) -> None:
    journal_of(shop).unlink()
    assert text_of(shop, "journal") == "no change since the last save"


def test_the_generation_before_is_looked_at_too(shop: Path) -> None:
    backup = backup_of(shop)
    content, trail = backup.read_bytes(), journal_of(backup).read_bytes()
    for spoil, part in (
        (lambda: backup.write_bytes(content[:-100]), "is damaged"),
        (lambda: backup.write_bytes(shop.read_bytes()), "the same state"),
        (lambda: journal_of(backup).unlink(), "does not lead to this file"),
        (lambda: journal_of(backup).write_bytes(trail[:-1] + b"\0"), "does not lead to this file"),
        (backup.unlink, "no generation before"),
    ):
        spoil()
        assert part in text_of(shop, "previous")
        assert verify(shop).exit_code == 0
        backup.write_bytes(content)
        journal_of(backup).write_bytes(trail)
    assert statuses(shop)["previous"] == "ok"


def test_another_index_as_the_generation_before_is_a_warning(
    shop: Path, model: Path, make_card: MakeCard, tmp_path: Path
) -> None:
    Index.create(make_card(), model).save(tmp_path / "other.usearch")
    backup_of(shop).write_bytes((tmp_path / "other.usearch").read_bytes())
    assert "is not the state that this file was made from" in text_of(shop, "previous")


def test_a_model_that_is_gone_or_another_is_a_warning(shop: Path, model: Path) -> None:
    model.write_bytes(model.read_bytes() + b"\0")
    assert "another file than the one that was noted" in text_of(shop, "model")
    model.unlink()
    assert "is neither at" in text_of(shop, "model")
    assert verify(shop).exit_code == 0


def test_missing_pictures_are_counted(shop: Path, tmp_path: Path) -> None:
    for name in ("soap/0.png", "tea/4.png"):
        (tmp_path / name).unlink()
    assert text_of(shop, "pictures", deep=True) == "10 of 12 pictures are where the index says, not soap/0.png"
    assert verify(shop, "--deep").exit_code == 0


def test_missing_kept_pictures_are_counted(shop: Path, unit_rows: UnitRows, rng: np.random.Generator) -> None:
    names = [keep_thumbnail(shop, content) for content in (b"one", b"two")]
    with Index.open(shop, write=True) as index:
        index.add("new", unit_rows(rng, 2), ["a.png", "b.png"], metadata=[{"thumbnail": name} for name in names])
    assert statuses(shop, deep=True)["thumbnails"] == "ok"
    (thumbnails_of(shop) / names[1]).unlink()
    assert "1 of 2 small copies" in text_of(shop, "thumbnails", deep=True)


def test_a_descriptor_without_direction_fails_the_deep_check(shop: Path) -> None:
    opened = read_index(shop)
    usearch = load_usearch().Index.restore(bytes(opened.usearch))
    usearch.remove(5)
    usearch.add(np.array([5], np.uint64), np.zeros((1, 8), np.int8))
    sections = {name: bytes(content) for name, content in opened.sections.items()}
    write_index(shop, bytes(usearch.save()), sections, opened.footer)
    journal_of(shop).unlink()
    assert "fail" not in statuses(shop).values()
    deep = statuses(shop, deep=True)
    assert (deep["keys"], deep["values"]) == ("ok", "fail")
    assert "first the key 5" in text_of(shop, "values", deep=True)
    assert verify(shop, "--deep").exit_code == 8


def test_keys_that_are_not_those_of_the_list_fail_the_deep_check(shop: Path) -> None:
    opened = read_index(shop)
    usearch = load_usearch().Index.restore(bytes(opened.usearch))
    usearch.rename(5, 99)
    sections = {name: bytes(content) for name, content in opened.sections.items()}
    write_index(shop, bytes(usearch.save()), sections, opened.footer)
    journal_of(shop).unlink()
    assert statuses(shop, deep=True)["keys"] == "fail"


def test_a_process_that_dies_of_the_file_fails_the_deep_check(
    shop: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dies.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(index_verify, "_DEEP", "dies")
    assert text_of(shop, "load", deep=True) == "usearch dies of it (SIGSEGV)"


def test_the_deep_check_is_not_tried_on_what_failed_before(shop: Path) -> None:
    content = bytearray(journal_of(shop).read_bytes())
    content[-1] ^= 1
    journal_of(shop).write_bytes(content)
    assert statuses(shop, deep=True)["load"] == "warn"


def test_a_plain_usearch_file_is_read_in_another_process(
    tmp_path: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    theirs = load_usearch().Index(ndim=8, metric="cos", dtype="f32")
    theirs.add(np.arange(1, 6, dtype=np.uint64), unit_rows(rng, 5))
    path = tmp_path / "theirs.usearch"
    theirs.save(str(path))
    assert statuses(path) == {"footer": "warn", "usearch": "ok"}
    path.write_bytes(path.read_bytes()[:100])
    assert statuses(path) == {"footer": "fail"}


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    result = verify(tmp_path / "no.usearch")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (3, "", 1)
