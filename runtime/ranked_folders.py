"""What each query finds, copied into a folder: pictures named `<rank>_<name>_<similarity>_good.jpg` (method.md 4.7)."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from deepir.descriptors import Descriptors
from deepir.errors import InputError
from deepir.runtime.index import Index
from deepir.runtime.items import Item
from deepir.runtime.label_search import Hit
from deepir.runtime.pictures import find_pictures

_MOST_BYTES = 120
"""Of the part of a file's name that comes from a label and a picture; with rank and similarity 255 are allowed."""


@dataclass(slots=True)
class RankedFolders:
    """Writes a folder for each query.

    Attributes:
        folder: Where to; new or empty.
        index: What is searched.
        index_path: Where it lies.
        count: Views for each query.
        written: Folders so far.
        missing: Views so far whose pictures are gone.

    Raises:
        InputError: The folder holds something, or is none.
    """

    folder: Path
    index: Index
    index_path: Path
    count: int
    written: int = 0
    missing: int = 0

    def __post_init__(self) -> None:
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            message = f"{self.folder} is not an empty folder: name a new one for the ranked pictures"
            raise InputError(message)

    def write(self, picture: Path, label: str | None, query_1d: Descriptors) -> None:
        """Copy a query and the views that resemble it most, best first; good and bad where its label is known.

        Raises:
            InputError: Something cannot be written.
        """
        self.written += 1
        named = _name(f"{label}-{picture.stem}" if label else picture.stem)
        folder = self.folder / f"{self.written:05}_{named}"
        hits = self.index.search(query_1d, self.count)
        items = self.index.items([hit.key for hit in hits])
        try:
            folder.mkdir(parents=True)
            shutil.copyfile(picture, folder / f"00000_{_name(picture.stem)}_query{picture.suffix}")
            for rank, (hit, item) in enumerate(zip(hits, items, strict=True), 1):
                self._copy(folder, rank, hit, item, "" if label is None else "_good" if hit.label == label else "_bad")
        except OSError as error:
            message = f"cannot write {error.filename or folder}: {error.strerror}"
            raise InputError(message) from error

    def _copy(self, folder: Path, rank: int, hit: Hit, item: Item, suffix: str) -> None:
        found = next(iter(find_pictures(item, self.index_path)), None)
        if found is None:
            self.missing += 1
            return
        name = _name(f"{hit.label}-{Path(hit.view).stem}")
        shutil.copyfile(found, folder / f"{rank:05}_{name}_{hit.similarity:.4f}{suffix}{found.suffix}")


def _name(text: str) -> str:
    """A text as a part of a file's name, without strokes and the underscore that parts names."""
    plain = re.sub(r"[\x00-\x1f/\\_:*?\"<>|]+", "-", text)
    return plain.encode("utf-8", "replace")[:_MOST_BYTES].decode("utf-8", "ignore")
