"""How a command that changed an index ends: the file is written anew, or the change stays in the journal."""

from pathlib import Path

from deepir.errors import OptionError
from deepir.runtime.index import Index
from deepir.runtime.index_file import backup_of
from deepir.runtime.journal import journal_of
from deepir.runtime.pictures import THUMBNAIL, thumbnails_of

_SMALL = 32 << 20
"""Bytes; a smaller file is written anew in two tenths of a second, and its threshold computed in some seconds."""

_MOST_PENDING = 2000
"""Views whose changes stand in the journal; with more each opening of the index takes longer than need be."""


def finish(index: Index) -> str:
    """Write the file anew where that is cheap, or leave the changes in the journal, and say which.

    Either way they are on the disk.

    Args:
        index: Opened with `write=True`.

    Raises:
        OptionError: The index has no file.
        InputError: The file cannot be written; the changes are in the journal.
    """
    path = index.path
    if path is None:
        message = "an index in memory has no journal to leave changes in: save it to a file"
        raise OptionError(message)
    if not index.pending:
        return f"{path} stays as it is"
    if path.stat().st_size < _SMALL or index.pending > _MOST_PENDING:
        index.save()
        return f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB), generation {index.generation}"
    return (
        f"changes of {index.pending} views stand in {journal_of(path)}: they are written into the large file when they "
        f"are more than {_MOST_PENDING}, or by deepir-index compact {path}"
    )


def still_holding(index: Index) -> list[Path]:
    """The files in which values or pictures of removed views may still stand, until `Index.compact`."""
    path = index.path
    if path is None:
        return []
    backup = backup_of(path)
    held = [journal_of(path)] if index.pending else []
    past = [file for file in (backup, journal_of(backup)) if file.exists()]
    own = [path] if index.pending or index.footer.removed else []
    return [*own, *held, *past, *([thumbnails_of(path)] if _unused_thumbnails(index, path) else [])]


def _unused_thumbnails(index: Index, path: Path) -> bool:
    folder = thumbnails_of(path)
    if not folder.is_dir():
        return False
    used = {item.metadata.get(THUMBNAIL) for item in index.items()}
    return any(file.name not in used for file in folder.glob("*.jpg"))
