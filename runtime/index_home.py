"""Where an index lives: in memory alone, read from a file, or bound to a file and its journal, which it may change."""

import os
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from deepir.errors import IndexFileError, OptionError
from deepir.runtime.changes import Change, count_views, to_record
from deepir.runtime.index_contents import Contents
from deepir.runtime.index_file import backup_of, stated_digest, write_index
from deepir.runtime.index_footer import ModelReference
from deepir.runtime.index_load import Loaded, load_index
from deepir.runtime.index_lock import IndexLock
from deepir.runtime.journal import Journal, journal_of


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
        with ExitStack() as stack:
            lock = stack.enter_context(IndexLock(path, wait)) if write else None
            loaded = load_index(path, write=write)
            home = cls(path, loaded.digest, loaded.foreign)
            if lock is not None:
                home._bind(lock, loaded)
                stack.pop_all()
        contents = Contents(loaded.footer, loaded.items, loaded.store, loaded.whitening)
        for change in loaded.changes:
            contents.apply(change)
        home.pending = sum(map(count_views, loaded.changes))
        return home, contents

    def record(self, change: Change, contents: Contents) -> None:
        """Put a change on the disk before it happens; nothing of the kind for an index in memory.

        Raises:
            OptionError: The index was opened only for reading.
            InputError: The disk is full; then nothing changed.
        """
        if self._reading and self._journal is None:
            message = f"{self.path} was opened for reading: open it with write=True to change it"
            raise OptionError(message)
        if self._journal is not None:
            self._journal.append(to_record(change, contents.footer.codes))
            self.pending += count_views(change)

    def save(self, contents: Contents, path: Path | None) -> None:
        """Write the contents to a file; the errors are those of `Index.save`."""
        target = path or self.path
        if target is None:
            message = "this index was never saved: say where to"
            raise OptionError(message)
        own = self.path is not None and target.resolve() == self.path.resolve()
        if own and self._reading and self._journal is None:
            message = f"{target} was opened for reading: open it with write=True to change it"
            raise OptionError(message)
        with ExitStack() as stack:
            if self._lock is None or not own:
                stack.enter_context(IndexLock(target))
            before = stated_digest(target)
            if own and self._journal is None and target.exists() and before != self._digest:
                message = (
                    f"{target} was written by another program since this index was saved there: open it again with "
                    "write=True and repeat the change"
                )
                raise IndexFileError(message)
            digest = self._write(contents, target, before)
        if own or self.path is None:
            self.path, self._digest, self.pending = target, digest, 0

    def forget_past(self) -> None:
        """Delete the generation before, and its journal."""
        if self.path is not None:
            backup = backup_of(self.path)
            for past in (backup, journal_of(backup)):
                past.unlink(missing_ok=True)

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
        self._journal = Journal(journal_of(path), loaded.digest, loaded.journal_end)

    def _write(self, contents: Contents, target: Path, before: str) -> str:
        usearch, sections, footer = contents.parts()
        footer = replace(
            footer,
            model=_beside(footer.model, target),
            references=None if footer.references is None else _beside(footer.references, target),
            generation=footer.generation + 1,
            previous=before,
        )
        digest = write_index(target, usearch, sections, footer)
        contents.footer = footer
        put_journal_aside(target)
        if self._journal is not None and self.path is not None and target.resolve() == self.path.resolve():
            self._journal.close()
            self._journal = Journal(journal_of(target), digest, 0)
        return digest


def put_journal_aside(path: Path) -> None:
    """Let the journal of an index that was just replaced be that of the generation before."""
    journal, aside = journal_of(path), journal_of(backup_of(path))
    if journal.exists():
        os.replace(journal, aside)
    else:
        with suppress(FileNotFoundError):
            aside.unlink()


def _beside(model: ModelReference, target: Path) -> ModelReference:
    """The same model, seen from the folder of an index."""
    if not model.absolute:
        return model
    return replace(model, relative=Path(os.path.relpath(model.absolute, target.resolve().parent)).as_posix())
