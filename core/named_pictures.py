"""The pictures of a dataset whose ground truth calls them by name, without folder or suffix."""

from pathlib import Path

from deepir.errors import InputError
from deepir.image import list_images


class NamedPictures:
    """Pictures at any depth of `jpg/` or `images/` of a dataset's folder, or of that folder itself, by name.

    Raises:
        InputError: No pictures there, or two of one name.
    """

    def __init__(self, source: Path) -> None:
        self._folder = picture_folder(source)
        self._paths: dict[str, Path] = {}
        for path in list_images(self._folder):
            if self._paths.setdefault(path.stem, path) != path:
                message = f"{path} and {self._paths[path.stem]} have one name: the ground truth could mean either"
                raise InputError(message)

    @property
    def names(self) -> list[str]:
        """Every name, in the order of the paths."""
        return list(self._paths)

    def path(self, name: str) -> Path:
        """Where a picture lies, or would lie if it were there."""
        return self._paths.get(name, self._folder / f"{name}.jpg")


def picture_folder(source: Path) -> Path:
    """`jpg/` or `images/` below the folder, else the folder itself."""
    return next((folder for name in ("jpg", "images") if (folder := source / name).is_dir()), source)
