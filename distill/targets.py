"""The teacher's descriptors of training views: computed once, kept on disk, resumed where they stopped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepir.descriptors import Descriptors
from deepir.distill.checkpoint import Model
from deepir.distill.describe import describe, in_batches
from deepir.files import file_sha256
from deepir.image import Image, read_image

_BATCH = 16
_REPORT_EVERY = 20
_CROP_SHARE = (0.35, 1.0)
_CROP_ASPECT = (0.8, 1.25)


@dataclass(frozen=True, slots=True)
class View:
    """A picture, or a crop of it: number 0 is the whole, each other number a crop that never changes."""

    path: Path
    number: int

    def read(self) -> Image:
        """The view's pixels; teacher and student see the same crop."""
        image = read_image(self.path)
        if self.number == 0:
            return image
        return _crop(image, np.random.default_rng([self.number, int(file_sha256(self.path)[:16], 16)]))


class TargetStore:
    """A folder with the descriptors of one teacher; rows are only ever appended.

    `descriptors.f32` holds the rows, `keys.txt` a line for each; a row without a whole line is not counted, so
    a training that was killed at any moment goes on from the last whole row.
    """

    def __init__(self, folder: Path, model: Model) -> None:
        self._folder = folder / model.spec.fingerprint
        self._folder.mkdir(parents=True, exist_ok=True)
        self._dim = model.spec.dim
        self._rows = self._read_rows()

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def append(self, keys: Sequence[str], descriptors_nd: Descriptors) -> None:
        """Add rows; they are on disk when this returns."""
        with self._values.open("ab") as values, self._keys.open("a") as lines:
            values.write(descriptors_nd.astype("<f4").tobytes())
            values.flush()
            lines.writelines(f"{key}\n" for key in keys)
        for key in keys:
            self._rows[key] = len(self._rows)

    def gather(self, keys: Sequence[str]) -> Descriptors:
        """The descriptors of these keys, in order."""
        stored = np.memmap(self._values, dtype="<f4", mode="r").reshape(-1, self._dim)
        return np.asarray(stored[[self._rows[key] for key in keys]], dtype=np.float32)

    @property
    def _values(self) -> Path:
        return self._folder / "descriptors.f32"

    @property
    def _keys(self) -> Path:
        return self._folder / "keys.txt"

    def _read_rows(self) -> dict[str, int]:
        self._values.touch()
        self._keys.touch()
        row_bytes = 4 * self._dim
        lines = self._keys.read_text().splitlines(keepends=True)
        whole = [line.strip() for line in lines if line.endswith("\n")][: self._values.stat().st_size // row_bytes]
        with self._values.open("r+b") as values, self._keys.open("r+b") as keys:
            values.truncate(len(whole) * row_bytes)
            keys.truncate(sum(len(key) + 1 for key in whole))
        return {key: row for row, key in enumerate(whole)}


def teacher_targets(
    teacher: Model, views: Sequence[View], cache: Path, report: Callable[[str], None] = lambda _: None
) -> Descriptors:
    """The teacher's descriptor of each view, (N, D); those on disk already are not computed again.

    Raises:
        InputError: A picture that cannot be read.
    """
    store = TargetStore(cache, teacher)
    hashes = {path: file_sha256(path) for path in {view.path for view in views}}
    keys = [f"{hashes[view.path]}#{view.number}" for view in views]
    missing = list({key: view for key, view in zip(keys, views, strict=True) if key not in store}.items())
    done = len(views) - len(missing)
    for number, batch in enumerate(in_batches(missing, _BATCH)):
        store.append([key for key, _ in batch], describe(teacher, [view.read() for _, view in batch]))
        done += len(batch)
        if number % _REPORT_EVERY == 0 or done == len(views):
            report(f"teacher descriptors {done}/{len(views)} (kept in {cache}, safe to stop)")
    return store.gather(keys)


def _crop(image: Image, generator: np.random.Generator) -> Image:
    """A crop of random area, aspect and place."""
    height, width = image.shape[:2]
    share, aspect = generator.uniform(*_CROP_SHARE), np.exp(generator.uniform(*np.log(_CROP_ASPECT)))
    crop_height = min(height, max(1, round(height * np.sqrt(share / aspect))))
    crop_width = min(width, max(1, round(width * np.sqrt(share * aspect))))
    top, left = generator.integers(height - crop_height + 1), generator.integers(width - crop_width + 1)
    return np.ascontiguousarray(image[top : top + crop_height, left : left + crop_width])
