"""Several pictures in one word: patterns such as "shelf/*.jpg", and lists of paths in a .txt file."""

import glob
from pathlib import Path

from deepir.errors import InputError
from deepir.image import SUFFIXES


def is_pattern(word: str) -> bool:
    """Whether the shell's *, ? or [] is in it."""
    return glob.has_magic(word)


def matching_images(pattern: str) -> list[Path]:
    """The images that a pattern matches, sorted; ** stands for any folders.

    Raises:
        InputError: There is none.
    """
    found = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.suffix.lower() in SUFFIXES)
    if not found:
        message = f"no image matches {pattern}: expected files ending in {', '.join(sorted(SUFFIXES))}"
        raise InputError(message)
    return found


def listed_images(path: Path) -> list[Path]:
    """The images that a text file lists, one a line, in its order; relative ones lie beside it, # begins a remark.

    Raises:
        InputError: The file cannot be read, or lists nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read the list {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        raise InputError(message) from error
    words = [word for line in lines if (word := line.strip()) and not word.startswith("#")]
    if not words:
        message = f"the list {path} is empty: write one path of an image a line"
        raise InputError(message)
    return [path.parent / word for word in words]
