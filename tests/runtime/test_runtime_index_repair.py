"""deepir-index repair: damaged files and journals go back to the last state that can be trusted; nothing is deleted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from deepir.card import ModelCard
from deepir.errors import IndexFileError
from deepir.runtime.index import Index
from deepir.runtime.index_file import backup_of
from deepir.runtime.index_file_cli import repair_command, verify_command
from deepir.runtime.index_repair import repair_index
from deepir.runtime.journal import journal_of, scan_journal, write_journal
from deepir.runtime.store import load_usearch

UnitRows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]
State = tuple[list[tuple[int, str, str]], bytes]

TRAILER = 40
"""SHA-256 and magic at the end of an index file."""


def repair(*words: object) -> Result:
    return CliRunner().invoke(repair_command, [str(word) for word in words])


def state_of(path: Path) -> State:
    index = Index.open(path)
    return [(item.key, item.label, item.source) for item in index.items()], index.descriptors().tobytes()


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".lock"}


def flip(path: Path, position: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)


@pytest.fixture
def new(tmp_path: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator) -> Path:
    """In its first generation."""
    path = tmp_path / "shop" / "shop.usearch"
    path.parent.mkdir()
    index = Index.create(make_card(), model)
    for label in ("soap", "tea"):
        index.add(label, unit_rows(rng, 4), [f"{label}/{number}.png" for number in range(4)])
    index.save(path)
    return path


@pytest.fixture
def shop(new: Path, unit_rows: UnitRows, rng: np.random.Generator) -> Path:
    """In its second generation; changes lead to it and away from it."""
    with Index.open(new, write=True) as index:
        index.add("salt", unit_rows(rng, 3), ["s0.png", "s1.png", "s2.png"])
        index.remove([2])
        index.save()
        index.add("oil", unit_rows(rng, 2), ["o0.png", "o1.png"])
        index.relabel("tea", "tea/green")
        index.remove([9])
        index.set(margin=0.07)
    return new


@pytest.fixture
def prefixes(shop: Path) -> list[State]:
    """The states of the file with none, the first, the first two, ... of the records in its journal."""
    journal, states = journal_of(shop), []
    content, recorded = journal.read_bytes(), scan_journal(journal)
    for count in range(len(recorded.records) + 1):
        write_journal(journal, recorded.continues, recorded.records[:count])
        states.append(state_of(shop))
    journal.write_bytes(content)
    return states


def test_an_index_in_order_stays_as_it_is(shop: Path) -> None:
    before = files_in(shop.parent)
    result = repair(shop)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "found: nothing to repair" in result.stderr
    assert f"{shop} holds 11 views of 4 labels" in result.stderr
    assert f"next: deepir-index verify {shop} --deep" in result.stderr
    assert files_in(shop.parent) == before


def test_a_torn_record_is_dropped_after_a_copy_was_kept(shop: Path) -> None:
    before, journal = state_of(shop), journal_of(shop)
    whole = journal.read_bytes()
    journal.write_bytes(whole + b"\x69\7\0")
    result = repair(shop)
    assert "ends in 3 bytes of a change that was cut off" in result.stderr
    assert "lost: a change of which 3 bytes were written when the writer was stopped" in result.stderr
    assert (journal.read_bytes(), state_of(shop)) == (whole, before)
    assert journal.with_name("shop.usearch.journal.damaged").read_bytes() == whole + b"\x69\7\0"


def test_a_damaged_record_takes_those_behind_it_along_and_they_are_named(shop: Path, prefixes: list[State]) -> None:
    journal = journal_of(shop)
    spoilt = journal.read_bytes()
    flip(journal, spoilt.index(b'"tea/green"') + 2)
    spoilt = journal.read_bytes()
    facts = json.loads(repair(shop, "--json").stdout)
    assert state_of(shop) == prefixes[1]
    assert journal.with_name("shop.usearch.journal.damaged").read_bytes() == spoilt
    assert facts["lost"] == [
        f"what stood at byte {spoilt.index(b'relabel') - 8 - 17} of shop.usearch.journal, which is damaged",
        "1 views removed (keys 9)",
        "threshold, far or margin set",
    ]
    assert facts["items"] == len(prefixes[1][0])
    with Index.open(shop, write=True) as index:
        index.remove("soap")
    assert len(Index.open(shop)) == len(prefixes[1][0]) - 3


def test_a_flipped_bit_of_a_journal_leaves_a_state_that_once_was(
    shop: Path, prefixes: list[State], rng: np.random.Generator
) -> None:
    journal = journal_of(shop)
    whole = journal.read_bytes()
    for position in range(0, len(whole), 5):
        flip(journal, position, 1 << int(rng.integers(8)))
        repair_index(shop)
        assert state_of(shop) in prefixes, position
        journal.write_bytes(whole)


@pytest.mark.parametrize("position", [3, 20])
def test_a_journal_whose_head_is_damaged_keeps_its_changes(shop: Path, position: int) -> None:
    before, journal = state_of(shop), journal_of(shop)
    flip(journal, position)
    with pytest.raises(IndexFileError):
        Index.open(shop)
    result = repair(shop)
    assert "found: the head of shop.usearch.journal is damaged" in result.stderr
    assert "lost: " not in result.stderr
    assert state_of(shop) == before
    flip(shop, 30)
    flip(journal, position)
    repair_index(shop)
    assert state_of(shop) == before


def test_a_journal_of_another_state_is_put_aside(shop: Path) -> None:
    journal = journal_of(shop)
    write_journal(journal, "ab" * 32, scan_journal(journal).records)
    foreign = journal.read_bytes()
    with pytest.raises(IndexFileError):
        Index.open(shop)
    result = repair(shop)
    assert "found: shop.usearch.journal holds 4 changes of another state of it" in result.stderr
    assert "did: put shop.usearch.journal aside as shop.usearch.journal.aside" in result.stderr
    assert journal.with_name("shop.usearch.journal.aside").read_bytes() == foreign
    assert (len(Index.open(shop)), journal.exists()) == (10, False)


def test_a_damaged_file_comes_back_as_it_was(shop: Path) -> None:
    before, files = state_of(shop), files_in(shop.parent)
    flip(shop, 30)
    spoilt = shop.read_bytes()
    with pytest.raises(IndexFileError, match="deepir-index repair"):
        Index.open(shop)
    result = repair(shop)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "found: its checksum is wrong" in result.stderr
    assert "did: go back to shop.usearch.bak (generation 1)" in result.stderr
    assert "lost: " not in result.stderr
    assert f"{shop} holds 11 views of 4 labels" in result.stderr
    assert state_of(shop) == before
    assert Index.open(shop).margin == 0.07
    assert shop.with_name("shop.usearch.damaged").read_bytes() == spoilt
    kept = files_in(shop.parent)
    assert all(kept[name] == files[name] for name in ("shop.usearch.bak", "shop.usearch.bak.journal"))
    assert CliRunner().invoke(verify_command, [str(shop), "--deep"]).exit_code == 0


def test_any_damage_to_the_file_gives_back_the_state_before_it(shop: Path, rng: np.random.Generator) -> None:
    before, whole = state_of(shop), shop.read_bytes()
    files = files_in(shop.parent)
    positions = rng.integers(0, len(whole) - TRAILER, 20).tolist()
    spoilt = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in positions]
    spoilt += [whole[:size] for size in [0, 1, 7, 8, *rng.integers(0, len(whole), 20).tolist()]]
    spoilt += [bytes(len(whole)), whole + b"more", whole[100:] + whole[:100], whole[:-4] + b"\0\0\0\0"]
    for content in spoilt:
        shop.write_bytes(content)
        repair_index(shop)
        assert state_of(shop) == before
        for path in shop.parent.iterdir():
            path.unlink()
        for name, kept in files.items():
            (shop.parent / name).write_bytes(kept)


def test_a_missing_file_comes_back_from_the_generation_before(shop: Path) -> None:
    before = state_of(shop)
    shop.unlink()
    result = repair(shop)
    assert "found: it is missing" in result.stderr
    assert "were taken because they fit" in result.stderr
    assert state_of(shop) == before
    assert shop.with_name("shop.usearch.journal.damaged").exists()


def test_a_journal_that_does_not_continue_the_damaged_file_is_put_aside(shop: Path) -> None:
    journal = journal_of(shop)
    flip(shop, 30)
    write_journal(journal, "ab" * 32, scan_journal(journal).records)
    foreign = journal.read_bytes()
    result = repair(shop)
    assert "lost: 4 changes in shop.usearch.journal, which continue another state" in result.stderr
    assert shop.with_name("shop.usearch.journal.aside").read_bytes() == foreign
    assert len(Index.open(shop)) == 10


@pytest.fixture
def twice(new: Path, model: Path, make_card: MakeCard, unit_rows: UnitRows, rng: np.random.Generator) -> Path:
    """Saved twice from memory: the generation before lacks what was added since, and there is no journal of that."""
    path = new.with_name("twice.usearch")
    index = Index.create(make_card(), model)
    index.add("soap", unit_rows(rng, 3), ["a.png"] * 3)
    index.save(path)
    index.add("tea", unit_rows(rng, 2), ["b.png"] * 2)
    index.save(path)
    return path


def test_an_addition_that_does_not_fit_what_is_left_is_named(
    twice: Path, unit_rows: UnitRows, rng: np.random.Generator
) -> None:
    with Index.open(twice, write=True) as index:
        index.remove([1])
        index.add("salt", unit_rows(rng, 1), ["c.png"])
    flip(twice, 20)
    facts = json.loads(repair(twice, "--json").stdout)
    assert facts["lost"] == ["1 views of salt added (c.png)"]
    assert facts["notes"][0] == "it adds the key 6 where 4 comes next"
    assert Index.open(twice).labels == {"soap": 2}
    assert twice.with_name("twice.usearch.journal.damaged").exists()


def test_a_change_of_views_that_are_not_left_is_named(twice: Path) -> None:
    with Index.open(twice, write=True) as index:
        index.relabel([3, 4], "brush")
        index.remove([1])
    flip(twice, 20)
    facts = json.loads(repair(twice, "--json").stdout)
    assert facts["lost"] == ["2 views relabelled as brush (keys 3, 4)", "1 views removed (keys 1)"]
    assert facts["notes"][0] == "it is about the key 4, which is not there"
    assert Index.open(twice).labels == {"soap": 3}


def test_a_writer_killed_before_it_put_the_journal_aside_costs_nothing(new: Path) -> None:
    with Index.open(new, write=True) as index:
        index.remove([1, 2])
        trail = journal_of(new).read_bytes()
        index.save()
    before = state_of(new)
    journal_of(backup_of(new)).unlink()
    journal_of(new).write_bytes(trail)
    assert state_of(new) == before
    assert not repair_index(new).steps
    flip(new, 30)
    repair_index(new)
    assert state_of(new) == before


@pytest.mark.parametrize("spoil", ["flip", "cut", "miss"])
def test_a_repair_that_was_killed_is_done_by_the_next(shop: Path, spoil: str) -> None:
    before, files = state_of(shop), files_in(shop.parent)
    number, steps = 0, 1
    while number < steps:
        for path in shop.parent.iterdir():
            path.unlink()
        for name, content in files.items():
            (shop.parent / name).write_bytes(content)
        if spoil == "miss":
            shop.unlink()
        elif spoil == "flip":
            flip(shop, 30)
        else:
            shop.write_bytes(files[shop.name][:500])
        plan = repair_index(shop, dry_run=True)
        steps = len(plan.steps)
        for step in plan.steps[:number]:
            step.act()
        repair_index(shop)
        assert state_of(shop) == before, (spoil, number)
        number += 1
    assert steps > 1


def test_a_second_repair_keeps_what_the_first_one_kept(shop: Path) -> None:
    for number in range(3):
        flip(shop, 30 + number)
        repair_index(shop)
    names = [path.name for path in sorted(shop.parent.glob("*.damaged*"))]
    assert names == ["shop.usearch.damaged", "shop.usearch.damaged.2", "shop.usearch.damaged.3"]


def test_after_a_repair_the_index_is_changed_and_repaired_as_any_other(shop: Path) -> None:
    flip(shop, 30)
    repair_index(shop)
    with Index.open(shop, write=True) as index:
        index.remove("soap")
        index.save()
        index.relabel("oil", "olive oil")
    before = state_of(shop)
    flip(shop, 30)
    repair_index(shop)
    assert state_of(shop) == before


def test_a_dry_run_says_the_same_and_changes_nothing(shop: Path) -> None:
    flip(shop, 30)
    before = files_in(shop.parent)
    dry = repair(shop, "--dry-run", "--json")
    assert files_in(shop.parent) == before
    assert "would: go back to shop.usearch.bak" in dry.stderr
    assert f"{shop} would hold 11 views of 4 labels" in dry.stderr
    assert f"next: deepir-index repair {shop}" in dry.stderr
    done = repair(shop, "--json")
    facts, really = json.loads(dry.stdout), json.loads(done.stdout)
    assert (facts.pop("dry_run"), really.pop("dry_run")) == (True, False)
    assert facts == really


def test_where_nothing_can_be_done_one_sentence_says_so(
    new: Path, shop: Path, model: Path, unit_rows: UnitRows, rng: np.random.Generator, tmp_path: Path
) -> None:
    names = ("lonely", "torn", "older", "newer", "theirs")
    lonely, torn, older, newer, theirs = (tmp_path / f"{name}.usearch" for name in names)
    lonely.write_bytes(shop.read_bytes()[:-100])
    torn.write_bytes(shop.read_bytes()[:-100])
    backup_of(torn).write_bytes(backup_of(shop).read_bytes()[:-100])
    older.write_bytes(shop.read_bytes()[:-1] + b"1")
    newer.write_bytes(shop.read_bytes()[:-1] + b"4")
    backup_of(newer).write_bytes(backup_of(shop).read_bytes())
    backup_of(older).write_bytes(backup_of(shop).read_bytes())
    index = load_usearch().Index(ndim=8, metric="cos", dtype="f32")
    index.add(np.arange(1, 6, dtype=np.uint64), unit_rows(rng, 5))
    index.save(str(theirs))
    before = files_in(tmp_path)
    for path, exit_code, part in (
        (lonely, 8, f"there is no {backup_of(lonely)} to go back to"),
        (torn, 8, f"{backup_of(torn)} is damaged too"),
        (older, 8, "version of deepir wrote it"),
        (newer, 8, "another version of deepir wrote"),
        (theirs, 8, "deepir-index import"),
        (model, 8, "nothing can be repaired"),
        (tmp_path / "no.usearch", 3, "cannot read the index"),
    ):
        result = repair(path)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (exit_code, "", 1), result.output
        assert part in result.stderr
    assert files_in(tmp_path) == before


def test_a_writer_is_not_disturbed(shop: Path) -> None:
    with Index.open(shop, write=True):
        result = repair(shop, "--wait", 0)
    assert (result.exit_code, result.stderr.count("\n")) == (8, 1)


def test_a_link_to_an_index_is_followed(shop: Path, tmp_path: Path) -> None:
    before, link = state_of(shop), tmp_path / "link.usearch"
    link.symlink_to(shop)
    flip(shop, 30)
    repair_index(link)
    assert (state_of(link), link.is_symlink()) == (before, True)
