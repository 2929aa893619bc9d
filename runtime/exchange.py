"""An index becomes a file of another program, and such a file an index."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from deepir.card import ModelCard
from deepir.errors import IndexModelError, InputError, OptionError
from deepir.runtime.codes import Codes, Dtype
from deepir.runtime.exchange_faiss import labels_beside, read_faiss, write_faiss
from deepir.runtime.exchange_jsonl import read_jsonl, read_labels, write_jsonl
from deepir.runtime.exchange_npz import read_npz, write_npz
from deepir.runtime.exchanged import Exchanged, checked_views, exchanged_from_index, with_labels
from deepir.runtime.index import Index, reference_to
from deepir.runtime.index_footer import Footer
from deepir.runtime.moved_views import moved_sources
from deepir.runtime.views import index_of

Format = Literal["npz", "jsonl", "faiss"]

FORMATS: tuple[Format, ...] = get_args(Format)

_WRITERS: dict[Format, Callable[[Exchanged, Path], None]] = {
    "npz": write_npz,
    "jsonl": write_jsonl,
    "faiss": write_faiss,
}
_DTYPE: Dtype = "i8"


def format_of(path: Path) -> Format:
    """The format that a file's suffix names.

    Raises:
        OptionError: Another suffix.
    """
    for form in FORMATS:
        if path.suffix.lower() == f".{form}":
            return form
    message = f"{path} does not say its format: end its name in .{', .'.join(FORMATS)}, or give --format"
    raise OptionError(message)


def export_index(index_path: Path, out: Path, form: Format | None = None) -> Exchanged:
    """Write the views of an index for other programs, and give what was written.

    Args:
        index_path: The index.
        out: The file.
        form: None for the one that its suffix names.

    Raises:
        InputError: The index is missing, or the file cannot be written.
        IndexFileError: The index is damaged.
        MissingDependency: faiss is not installed.
        OptionError: The suffix names no format.
    """
    form = form or format_of(out)
    exchanged = exchanged_from_index(index_path, out)
    if exchanged.sources is None:
        message = f"{index_path} is not an index of deepir: make one of it with deepir-index import"
        raise IndexModelError(message)
    _WRITERS[form](exchanged, out)
    return exchanged


def import_index(
    file: Path,
    card: ModelCard,
    model_path: Path,
    target: Path,
    labels: Path | None = None,
    dtype: Dtype | None = None,
) -> tuple[Index, list[str]]:
    """An index in memory of the views in a file, and what had to be mended in them, in words.

    Args:
        file: Ends in .npz, .jsonl, .faiss, or is a file of usearch.
        card: Of the model that made the descriptors.
        model_path: Its file.
        target: Where the index will lie: pictures are named from there.
        labels: JSON lines that give each key a label.
        dtype: How descriptors are stored; None for as the file says, or else i8.

    Raises:
        InputError: A file is missing or cannot be read, or it lacks labels.
        ShapeError: Not descriptors of the model.
        IndexModelError: They were made by another model, or whitened by a map that the file lacks.
        MissingDependency: faiss is not installed.
    """
    given = _read(file, labels)
    if given.model not in {"", card.spec.fingerprint}:
        message = (
            f"the descriptors in {file} were made by the model {given.model}, and {model_path} is "
            f"{card.spec.fingerprint}: give that model"
        )
        raise IndexModelError(message)
    if given.whitened and given.whitening is None:
        message = f"the descriptors in {file} went through the map of an index: export it as .npz, which holds the map"
        raise IndexModelError(message)
    dim = card.spec.dim if given.whitening is None else given.whitening.note.dim
    views, mended = checked_views(given, dim, file)
    views = replace(views, sources=moved_sources(views.sources, file, target))
    reference = reference_to(card, model_path)
    known = given.footer
    codes = Codes(dtype or (_DTYPE if known is None else known.codes.dtype), dim)
    footer = Footer(model=reference, codes=codes)
    if known is not None:
        footer = replace(known, model=reference, codes=codes, thumbnails=None)
    return index_of(views, footer, given.whitening), mended


def _read(file: Path, labels: Path | None) -> Exchanged:
    readers: dict[str, Callable[[Path], Exchanged]] = {
        ".npz": read_npz,
        ".jsonl": read_jsonl,
        ".faiss": read_faiss,
    }
    given = readers.get(file.suffix.lower(), _read_usearch)(file)
    if labels is None and file.suffix.lower() == ".faiss" and labels_beside(file).is_file():
        labels = labels_beside(file)
    if labels is None:
        return given
    named, model, whitened = read_labels(labels)
    return replace(with_labels(given, named, labels), model=given.model or model, whitened=given.whitened or whitened)


def _read_usearch(file: Path) -> Exchanged:
    given = exchanged_from_index(file, file)
    if given.footer is not None:
        message = f"{file} is an index of deepir already: copy it, or join it to another with deepir-index merge"
        raise InputError(message)
    return given
