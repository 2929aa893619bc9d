"""Where --export writes descriptors, and what an earlier run left there: .npz, the HDF5 of hloc, folders of kapture."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.errors import InputError, ModelError, OptionError
from deepir.export.descriptor_files import SUFFIX, Descriptor, ViewName, read_descriptor_file, write_descriptor_file
from deepir.export.eval_stamp import Stamp, check_same_model, read_stamp
from deepir.files import write_text
from deepir.optional import need

Form = Literal["kapture", "hloc", "npz"]

FORMS: tuple[Form, ...] = ("kapture", "hloc", "npz")

STAMP_FILE = "deepir.json"
"""The stamp in a folder of kapture, which reads only .gfeat files and the table beside it."""

STAMP_ATTRIBUTE = "deepir"
HLOC_DATASET = "global_descriptor"
KAPTURE_TABLE = "global_features.txt"
KAPTURE_SUFFIX = ".gfeat"

_CURE = "give another place with -o, or delete it"
_KAPTURE_HEAD = "# kapture format: 1.1\n# name, dtype, dsize, metric_type\n"
_LITTLE_ENDIAN = "<f4"


class Target(Protocol):
    """A place for descriptors.

    Attributes:
        whole_only: It has room for one descriptor of each picture, the whole one; others are passed over.
    """

    whole_only: bool

    def find(self, view: ViewName) -> Descriptor | None:
        """What an earlier run of the same model left for a view, None when there is nothing."""

    def add(self, views: Sequence[ViewName], descriptors_nd: Descriptors) -> None:
        """Keep a descriptor for each view."""


@contextmanager
def open_target(form: Form, out: Path, stamp: Stamp, card: ModelCard) -> Iterator[Target]:
    """A place to write to, with what is there already.

    What was added before an error or Ctrl-C is kept, so that the next run goes on from there; an .npz is written when
    the context ends, kapture and hloc all the while.

    Args:
        form: What to write.
        out: The .npz file, the .h5 file, or the root folder of kapture.
        stamp: Goes beside the descriptors; the stem of its `file` names the kind of descriptor in kapture.
        card: The model's: descriptors of another are refused.

    Raises:
        InputError: Something else, or descriptors of another model, lie there.
        OptionError: An .npz file with another suffix.
        MissingDependency: hloc without h5py.
    """
    if form == "npz":
        npz = _NpzTarget(out, card)
        try:
            yield npz
        except BaseException:
            npz.keep({**stamp, "scoring": None})
            raise
        npz.write(stamp)
    elif form == "kapture":
        yield _open_kapture(out, {**stamp, "scoring": None}, card)
    else:
        file = _open_hdf5(out)
        with file:
            yield _open_hloc(file, out, {**stamp, "scoring": None}, card)


class _NpzTarget:
    """An .npz file, written at the end or when the work is interrupted."""

    whole_only = False

    def __init__(self, path: Path, card: ModelCard) -> None:
        if path.suffix != SUFFIX:
            message = f"--export npz writes a file ending in {SUFFIX}, got -o {path}"
            raise OptionError(message)
        if not path.parent.is_dir():
            message = f"cannot write {path}: no such folder as {path.parent}; create it"
            raise InputError(message)
        self._path = path
        self._descriptors: dict[ViewName, Descriptor] = {}
        if path.exists():
            file = read_descriptor_file(path)
            check_same_model(file.card, card, str(path), _CURE)
            self._descriptors = {view: file.descriptors_nd[row] for view, row in file.rows.items()}

    def find(self, view: ViewName) -> Descriptor | None:
        return self._descriptors.get(view)

    def add(self, views: Sequence[ViewName], descriptors_nd: Descriptors) -> None:
        self._descriptors.update(zip(views, descriptors_nd, strict=True))

    def keep(self, stamp: Stamp) -> None:
        """Write what there is, if anything."""
        if self._descriptors:
            self.write(stamp)

    def write(self, stamp: Stamp) -> None:
        write_descriptor_file(self._path, self._descriptors, stamp)


class _KaptureTarget:
    """A folder of kapture 1.1 for one kind of global descriptor: a raw little-endian float32 file for each picture."""

    whole_only = True

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder = folder
        self._dim = dim

    def find(self, view: ViewName) -> Descriptor | None:
        path = self._path(view)
        if view.box is not None or not path.is_file():
            return None
        descriptor = np.fromfile(path, dtype=_LITTLE_ENDIAN).astype(np.float32)
        return descriptor if _is_whole(descriptor, self._dim) else None

    def add(self, views: Sequence[ViewName], descriptors_nd: Descriptors) -> None:
        for view, descriptor in zip(views, descriptors_nd, strict=True):
            if view.box is None:
                path = self._path(view)
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}.part")
                descriptor.astype(_LITTLE_ENDIAN).tofile(part)
                os.replace(part, path)

    def _path(self, view: ViewName) -> Path:
        _check_below(view, forbidden=",")
        return self._folder / f"{view.name}{KAPTURE_SUFFIX}"


class _HlocTarget:
    """An HDF5 file as hloc reads it: a group for each picture, which holds its `global_descriptor`."""

    whole_only = True

    def __init__(self, file: Any, dim: int) -> None:
        self._file = file
        self._dim = dim

    def find(self, view: ViewName) -> Descriptor | None:
        place = self._place(view)
        if view.box is not None or place not in self._file:
            return None
        descriptor = np.asarray(self._file[place], dtype=np.float32)
        return descriptor if _is_whole(descriptor, self._dim) else None

    def add(self, views: Sequence[ViewName], descriptors_nd: Descriptors) -> None:
        for view, descriptor in zip(views, descriptors_nd, strict=True):
            if view.box is None:
                place = self._place(view)
                if place in self._file:
                    del self._file[place]
                self._file.create_dataset(place, data=descriptor.astype(np.float32, copy=False))
        # what is on the disk now survives a later crash
        self._file.flush()

    def _place(self, view: ViewName) -> str:
        _check_below(view)
        return f"{view.name}/{HLOC_DATASET}"


def _open_kapture(root: Path, stamp: Stamp, card: ModelCard) -> _KaptureTarget:
    kind = Path(stamp["file"]).stem
    _check_below(ViewName(kind), forbidden=",/")
    folder = root / "reconstruction" / "global_features" / kind
    _check_stamp(folder / STAMP_FILE, card, foreign=(folder / KAPTURE_TABLE).exists())
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / STAMP_FILE, json.dumps(stamp, sort_keys=True))
    write_text(folder / KAPTURE_TABLE, f"{_KAPTURE_HEAD}deepir, float32, {card.spec.dim}, L2\n")
    return _KaptureTarget(folder, card.spec.dim)


def _check_stamp(path: Path, card: ModelCard, *, foreign: bool) -> None:
    if path.exists():
        _, found = read_stamp(path.read_text(encoding="utf-8"), path)
        check_same_model(found, card, str(path.parent), _CURE)
    elif foreign:
        message = f"{path.parent} was made by another program: {_CURE}"
        raise InputError(message)


def _open_hdf5(path: Path) -> Any:
    try:
        return need("h5py").File(path, "a")
    except OSError as error:
        message = f"cannot open {path} as HDF5 ({error}): {_CURE}"
        raise ModelError(message) from error


def _open_hloc(file: Any, path: Path, stamp: Stamp, card: ModelCard) -> _HlocTarget:
    text = file.attrs.get(STAMP_ATTRIBUTE)
    if text is not None:
        check_same_model(read_stamp(str(text), path)[1], card, str(path), _CURE)
    elif len(file):
        message = f"{path} was made by another program: {_CURE}"
        raise InputError(message)
    file.attrs[STAMP_ATTRIBUTE] = json.dumps(stamp, sort_keys=True)
    return _HlocTarget(file, card.spec.dim)


def _check_below(view: ViewName, *, forbidden: str = "") -> None:
    """Names become places in a folder or a file: none may lead out of it."""
    name = PurePosixPath(view.name)
    if name.is_absolute() or ".." in name.parts or not name.parts or any(sign in view.name for sign in forbidden):
        message = (
            f"{view.name!r} cannot be a name in this form: it needs a path below the dataset's folder"
            f"{' without a comma' if ',' in forbidden else ''}; use --export npz"
        )
        raise InputError(message)


def _is_whole(descriptor: Descriptor, dim: int) -> bool:
    return descriptor.shape == (dim,) and bool(np.isfinite(descriptor).all())
