"""Where an index lives: in memory alone, read from a file, or bound to a file and its journal, which it may change."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from deepir.errors import IndexFileError, InputError, OptionError
from deepir.files import flush_folder
from deepir.runtime.changes import Change, count_views, to_record
from deepir.runtime.index_contents import Contents
from deepir.runtime.index_file import backup_of, stated_digest, write_index
from deepir.runtime.index_footer import ModelReference
from deepir.runtime.index_load import Loaded, load_index
from deepir.runtime.index_lock import IndexLock
from deepir.runtime.journal import NEW, Journal, Place, journal_of, read_journal


class Home:
    """A file and what may be done to it. Make one with `nowhere` or `open`."""

    def __init__(self, path: Path | None, digest: str = "", foreign: str = "") -> None:
        self.path = path
        self.foreign = foreign
        self.pending = 0
        self._digest = digest
        self._reading = path is not None
        self._lock: IndexLock | None = None
        self._journal: Journal | None = None

    @classmethod
    def nowhere(cls) -> "Home":
        """Of an index that was never saved."""
        return cls(None)

    @classmethod
    def open(cls, path: Path, *, write: bool, wait: float) -> tuple["Home", Contents]:
        """Read a file and its journal; the errors are those of `Index.open`."""
        path = _real(path)
        with ExitStack() as stack:
            lock = stack.enter_context(IndexLock(path, wait)) if write else None
            loaded = load_index(path, write=write)
            home = cls(path, loaded.digest, loaded.foreign)
            contents = Contents(loaded.footer, loaded.items, loaded.store, loaded.whitening)
            for change in loaded.changes:
                contents.apply(change)
            home.pending = sum(map(count_views, loaded.changes))
            if lock is not None:
                home._bind(lock, loaded)
                stack.pop_all()
        return home, contents

    def check_writable(self) -> None:
        """Refuse to change what was opened only for reading.

        Raises:
            OptionError: It was.
        """
        if self._reading and self._journal is None:
            message = f"{self.path} was opened for reading: open it with write=True to change it"
            raise OptionError(message)

    def record(self, changes: Sequence[Change], contents: Contents) -> None:
        """Put changes on the disk, all or none, before they happen; nothing of the kind for an index in memory.

        Raises:
            OptionError: The index was opened only for reading.
            InputError: The disk is full; then nothing changed.
        """
        self.check_writable()
        if self._journal is not None:
            self._journal.append(to_record(changes, contents.footer.codes))
            self.pending += sum(map(count_views, changes))

    def save(self, contents: Contents, path: Path | None) -> None:
        """Write the contents to a file; the errors are those of `Index.save`."""
        target = path or self.path
        if target is None:
            message = "this index was never saved: say where to"
            raise OptionError(message)
        target = _real(target)
        own = self.path is not None and target.resolve() == self.path.resolve()
        if own:
            self.check_writable()
        with ExitStack() as stack:
            if self._lock is None or not own:
                stack.enter_context(IndexLock(target))
            absorbed = self._journal.place if own and self._journal is not None else _place_of(target)
            changed = stated_digest(target) != self._digest or (self._journal is None and str(absorbed))
            if own and target.exists() and changed:
                message = (
                    f"{target} was changed by another program since this index was read or saved: open it again with "
                    "write=True and repeat the change"
                )
                raise IndexFileError(message)
            self._write(contents, target, absorbed, own=own or self.path is None)

    def forget_past(self) -> None:
        """Delete the generation before, and its journal."""
        if self.path is not None:
            backup = backup_of(self.path)
            for past in (backup, journal_of(backup)):
                past.unlink(missing_ok=True)
            flush_folder(self.path.parent)

    def close(self) -> None:
        """Give the lock back; an index in memory or for reading has none."""
        if self._journal is not None:
            self._journal.close()
        if self._lock is not None:
            self._lock.close()
            # closed, it must not write any more: another program may
            self._lock, self._journal, self._reading = None, None, True

    def _bind(self, lock: IndexLock, loaded: Loaded) -> None:
        path = lock.index
        self._lock = lock
        if loaded.stale:
            put_journal_aside(path)
        self._journal = Journal(journal_of(path), loaded.digest, loaded.place)

    def _write(self, contents: Contents, target: Path, absorbed: Place, *, own: bool) -> None:
        usearch, sections, footer = contents.parts()
        footer = replace(
            footer,
            model=_beside(footer.model, target),
            references=None if footer.references is None else _beside(footer.references, target),
            generation=footer.generation + 1,
            previous=stated_digest(target),
            absorbed=str(absorbed),
        )
        digest = write_index(target, usearch, sections, footer)
        if own:
            contents.footer = footer
            self.path, self._digest, self.pending = target, digest, 0
            if self._journal is not None:
                self._journal.close()
                self._journal = Journal(journal_of(target), digest)
        put_journal_aside(target)


def _real(path: Path) -> Path:
    """Where a link leads: the journal, the lock and the generation before lie beside the file itself."""
    return path.resolve() if path.is_symlink() else path


def _place_of(path: Path) -> Place:
    """The end of the journal of an index; NEW where none can be read."""
    try:
        return read_journal(journal_of(path)).place
    except (InputError, IndexFileError):
        return NEW


def put_journal_aside(path: Path) -> None:
    """Let the journal of an index that was just replaced be that of the generation before."""
    journal, aside = journal_of(path), journal_of(backup_of(path))
    try:
        os.replace(journal, aside)
    except FileNotFoundError:
        aside.unlink(missing_ok=True)
    except OSError as error:
        message = f"wrote {path}, but cannot rename {journal} to {aside.name}: {error.strerror}; rename it"
        raise InputError(message) from error


def _beside(model: ModelReference, target: Path) -> ModelReference:
    """The same model, seen from the folder of an index."""
    if not model.absolute:
        return model
    return replace(model, relative=Path(os.path.relpath(model.absolute, target.resolve().parent)).as_posix())
