"""An index file and its journal, read together into what can be searched."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deepir.errors import IndexFileError, InputError
from deepir.runtime.changes import Change, from_record
from deepir.runtime.index_file import NoFooterError, Opened, file_bytes, read_index, unusable
from deepir.runtime.index_footer import Footer
from deepir.runtime.index_foreign import open_foreign
from deepir.runtime.index_whitening import IndexWhitening
from deepir.runtime.items import ItemTable
from deepir.runtime.journal import NEW, Place, Recorded, journal_of, read_journal
from deepir.runtime.store import DescriptorStore, is_marked

_TRIES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What an index file holds, and what its journal says happened since.

    Attributes:
        changes: Of the journal, in order; they are not in `items` and `store` yet.
        digest: Of the file; the journal continues it.
        place: Where the next record of the journal goes; NEW where a new journal begins.
        stale: Whether the journal is that of the generation before, so that its changes are in the file.
        foreign: Why nothing is known of the descriptors; empty for an index of deepir.
    """

    footer: Footer
    items: ItemTable
    store: DescriptorStore
    whitening: IndexWhitening | None
    changes: list[Change]
    digest: str
    place: Place = NEW
    stale: bool = False
    foreign: str = ""


def load_index(path: Path, *, write: bool) -> Loaded:
    """Read an index; `write` for changing it, then it is read into memory whatever its size.

    Raises:
        InputError: The file is missing or unreadable.
        IndexFileError: It or its journal is damaged, or they do not belong together.
    """
    for _ in range(_TRIES):
        try:
            opened = read_index(path)
        except NoFooterError as error:
            return _load_foreign(path, error, write=write)
        recorded = read_journal(journal_of(path))
        if _identity(path) != opened.identity:
            # a writer replaced the file meanwhile, and the journal may be of the new one
            continue
        # then a writer was killed after it had replaced the index and before it had put the journal aside
        absorbed = opened.footer.previous, opened.footer.absorbed
        stale = bool(recorded.continues) and (recorded.continues, str(recorded.place)) == absorbed
        if recorded.records and recorded.continues != opened.digest and not stale:
            message = (
                f"{journal_of(path)} holds {len(recorded.records)} changes of another state of {path}: was one of the "
                f"two files copied without the other? deepir-index repair {path} puts the journal aside"
            )
            raise IndexFileError(message)
        if recorded.continues != opened.digest:
            recorded = Recorded()
        return replace(_assemble(path, opened, recorded, write=write), stale=stale)
    message = f"{path} was replaced {_TRIES} times while it was read: stop the program that writes it all the time"
    raise IndexFileError(message)


def read_contents(opened: Opened, *, mapped: bool) -> tuple[ItemTable, DescriptorStore, IndexWhitening | None]:
    """The items, the codes and the whitening of a file.

    Raises:
        IndexFileError: They do not fit together.
    """
    sections, footer = opened.sections, opened.footer
    items = ItemTable.from_sections(sections)
    exact = sections.get("exact_codes")
    if exact is not None and not mapped:
        exact = memoryview(bytes(exact))
    store = DescriptorStore.restore(opened.usearch, footer.codes, mapped=mapped, exact_codes=exact)
    if len(store) != len(items):
        message = f"it holds {len(store)} descriptors and a list of {len(items)}"
        raise IndexFileError(message)
    return items, store, _whitening(footer, sections)


def _assemble(path: Path, opened: Opened, recorded: Recorded, *, write: bool) -> Loaded:
    try:
        changes = [change for record in recorded.records for change in from_record(record, opened.footer.codes)]
        mapped = not write and not changes and opened.mapped
        items, store, whitening = read_contents(opened, mapped=mapped)
    except IndexFileError as error:
        raise unusable(path, error) from error
    return Loaded(opened.footer, items, store, whitening, changes, opened.digest, recorded.place)


def _whitening(footer: Footer, sections: Mapping[str, memoryview]) -> IndexWhitening | None:
    note = footer.whitening
    if note is None:
        return None
    if "whitening" not in sections or note.dim != footer.codes.dim:
        message = f"its whitening gives {note.dim} values, and it holds descriptors of {footer.codes.dim}"
        raise IndexFileError(message)
    return IndexWhitening.from_bytes(note, sections["whitening"])


def _load_foreign(path: Path, error: NoFooterError, *, write: bool) -> Loaded:
    if write:
        message = f"{error}; what other programs wrote is only read: make an index of your own with deepir-index import"
        raise unusable(path, message) from error
    content, _ = file_bytes(path)
    if is_marked(content):
        raise unusable(path, "what deepir wrote behind the descriptors is cut short or damaged") from error
    footer, items, store = open_foreign(path, content)
    return Loaded(footer, items, store, None, [], "", foreign=str(error))


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        message = f"cannot read the index {path}: {error.strerror}"
        raise InputError(message) from error
    return status.st_dev, status.st_ino
