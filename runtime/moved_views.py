"""Views that move to another index: their pictures named from its folder, their small copies kept beside it."""

import functools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePath

from deepir.files import replacing
from deepir.runtime.items import Metadata
from deepir.runtime.pictures import THUMBNAIL, source_text, thumbnails_of


def moved_sources(sources: Iterable[str], old: Path, new: Path) -> list[str]:
    """How the index `new` names the pictures that the index `old` names by these sources.

    A name without a folder stays as it is where no such file is beside `old`: it was never a path.
    """
    here, there = old.resolve().parent, new.resolve().parent
    if here == there:
        return list(sources)

    @functools.cache
    def folder_text(folder: str) -> str:
        return source_text(here / folder / "picture", new)[: -len("picture")]

    def moved(source: str) -> str:
        folder, name = os.path.split(source)
        if not folder and not (here / name).is_file():
            return source
        return folder_text(folder) + name

    return list(map(moved, sources))


def copy_thumbnails(metadata: Iterable[Metadata], old: Path, new: Path) -> int:
    """Copy the small copies that these views name from beside one index to beside another; say how many there are now.

    Raises:
        InputError: The folder cannot be written.
    """
    here, there = thumbnails_of(old), thumbnails_of(new)
    names = {PurePath(name).name for entry in metadata if isinstance(name := entry.get(THUMBNAIL), str)}
    kept = [name for name in sorted(names) if (here / name).is_file()]
    if kept:
        there.mkdir(exist_ok=True)
    for name in kept:
        if not (there / name).exists():
            with replacing(there / name) as temporary:
                shutil.copyfile(here / name, temporary)
    return len(kept)
