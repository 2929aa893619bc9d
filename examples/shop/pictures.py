"""Pictures: writes the studio views and the photographs of a package as JPEG files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from camera import encode_jpeg
from colours import Image, rng_for
from scenes import photograph, studio_view
from shapes import Package

STUDIO_QUALITY = 92
PHONE_QUALITIES = (40, 91)  # from, up to but not including


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureWriter:
    """Writes pictures that depend on the seed, the label and the number of the picture alone."""

    seed: int
    size: int
    clutter: Sequence[Package]

    def write_views(self, folder: Path, package: Package, count: int) -> None:
        """Write studio views of the package, the frontal one first."""
        for view in range(count):
            rng = rng_for(self.seed, "view", package.label, str(view))
            picture = studio_view(package, rng, view=view, size=self.size)
            _write_jpeg(folder / f"view_{view}.jpg", picture, STUDIO_QUALITY)

    def write_photos(self, folder: Path, package: Package, count: int, *, first: int = 0) -> None:
        """Write photographs of the package, their names numbered from first."""
        for number in range(first, first + count):
            rng = rng_for(self.seed, "photo", package.label, str(number))
            picture = photograph(package, rng, size=self.size, others=self.clutter)
            _write_jpeg(folder / f"photo_{number:02d}.jpg", picture, int(rng.integers(*PHONE_QUALITIES)))


def _write_jpeg(path: Path, picture: Image, quality: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(picture, quality))
