"""Distractors of an evaluation: descriptors on disk, or pictures that are described into a file beside their folder."""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepir.descriptors import Descriptors, similarities
from deepir.distractors import open_distractors
from deepir.errors import InputError
from deepir.export.descriptor_files import SUFFIX, read_descriptor_file
from deepir.export.eval_stamp import check_same_model
from deepir.export.subject import Describe, Progress, Subject, View, describe_views, silent
from deepir.image import list_images

_CHUNK = 8192
_LITTLE_ENDIAN = "<f4"
_VALUE_BYTES = 4
_HASH_LENGTH = 8


@dataclass(frozen=True, slots=True)
class DistractorSet:
    """Descriptors of pictures that answer no query.

    Attributes:
        source: Where they come from.
        chunks: All of them in their order, (M, D) at a time; iterated as often as needed.
        count: How many.
        names: What reports call them; None where only their number is known.
    """

    source: Path
    chunks: Iterable[Descriptors]
    count: int
    names: Sequence[str] | None = None

    def name(self, row: int) -> str:
        """What reports call the distractor of a row."""
        return f"{self.source}, row {row}" if self.names is None else self.names[row]


@dataclass(frozen=True, slots=True)
class _Chunks:
    """The rows of an array on disk, a few at a time."""

    descriptors_md: Descriptors

    def __iter__(self) -> Iterator[Descriptors]:
        for start in range(0, len(self.descriptors_md), _CHUNK):
            yield np.asarray(self.descriptors_md[start : start + _CHUNK])


def open_distractor_set(
    source: Path, subject: Subject, *, threads: int | None = None, progress: Progress = silent
) -> DistractorSet:
    """Distractors for a subject.

    Args:
        source: A descriptors file (.npz), an .npy file or a folder of such files with rows of length 1, or a folder of
            pictures. Pictures are described by the subject into `<folder>.<model>.npy` beside the folder, where an
            interrupted run goes on and the next run finds them.
        subject: Its model made, or makes, the descriptors.
        threads: That decode pictures.
        progress: Is told how far the describing is.

    Raises:
        InputError: Nothing there, descriptors of another model or dimension, or pictures and nothing to describe with.
    """
    if source.suffix == SUFFIX:
        file = read_descriptor_file(source)
        check_same_model(file.card, subject.card, str(source), "describe the distractors with the same model")
        return DistractorSet(source, _Chunks(file.descriptors_nd), len(file.rows), [str(view) for view in file.rows])
    names = None
    stored = source
    if source.is_dir() and not any(source.glob("*.npy")):
        images = list_images(source)
        names = [str(image) for image in images]
        stored = _describe_folder(source, images, subject, threads, progress)
    distractors = open_distractors(stored, subject.card.spec.dim)
    return DistractorSet(source, distractors, len(distractors), names)


def nearest_distractors(
    queries_qd: Descriptors, distractors: DistractorSet, count: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Rows and similarities of the `count` most similar distractors of each query, best first: (Q, K) each."""
    rows_qk = np.zeros((len(queries_qd), 0), dtype=np.intp)
    similarity_qk = np.zeros((len(queries_qd), 0), dtype=np.float32)
    start = 0
    for chunk in distractors.chunks:
        fresh_qm = similarities(queries_qd, chunk)
        places = np.broadcast_to(np.arange(start, start + len(chunk)), fresh_qm.shape)
        start += len(chunk)
        similarity_qk, rows_qk = np.hstack([similarity_qk, fresh_qm]), np.hstack([rows_qk, places])
        best = np.argsort(-similarity_qk, axis=1, kind="stable")[:, :count]
        similarity_qk, rows_qk = np.take_along_axis(similarity_qk, best, 1), np.take_along_axis(rows_qk, best, 1)
    return rows_qk, similarity_qk


def take_distractors(distractors: DistractorSet, rows: NDArray[np.intp]) -> Descriptors:
    """The descriptors of some rows, given in rising order: (R, D)."""
    kept = []
    start = 0
    for chunk in distractors.chunks:
        kept.append(chunk[rows[(rows >= start) & (rows < start + len(chunk))] - start])
        start += len(chunk)
    return np.concatenate(kept)


def _describe_folder(
    folder: Path, images: Sequence[Path], subject: Subject, threads: int | None, progress: Progress
) -> Path:
    spec = subject.card.spec
    listing = "".join(f"{image.relative_to(folder)} {image.stat().st_size}\n" for image in images)
    digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()[:_HASH_LENGTH]
    place = folder.resolve()
    path = place.with_name(f"{place.name}.{spec.fingerprint}.{subject.card.numerics.value}.{digest}.npy")
    if path.is_file():
        return path
    if subject.describe is None:
        message = f"{folder} holds pictures, and {subject.path} cannot describe them: give the model, or descriptors"
        raise InputError(message)
    part = path.with_name(f"{path.name}.part")
    _append_rest(part, subject.describe, spec.dim, images, threads=threads, progress=progress)
    os.replace(part, path)
    return path


def _append_rest(
    part: Path, describe: Describe, dim: int, images: Sequence[Path], *, threads: int | None, progress: Progress
) -> None:
    """Describe the pictures whose rows an earlier run did not write."""
    header, row_bytes = _npy_header(len(images), dim), _VALUE_BYTES * dim
    with part.open("ab") as stream:
        done = max(0, stream.tell() - len(header)) // row_bytes
        if stream.tell() < len(header):
            stream.truncate(0)
            stream.write(header)
        else:
            stream.truncate(len(header) + done * row_bytes)
        views = [View(image) for image in images[done:]]
        with progress("describing distractors", len(views)) as advance:
            for batch, rows_nd in describe_views(describe, views, threads=threads):
                stream.write(rows_nd.astype(_LITTLE_ENDIAN).tobytes())
                advance(len(batch))
        stream.flush()
        os.fsync(stream.fileno())
    if part.stat().st_size != len(header) + len(images) * row_bytes:
        message = f"{part} has not a row for each of {len(images)} pictures: did two runs write it? Delete it"
        raise InputError(message)


def _npy_header(count: int, dim: int) -> bytes:
    stream = io.BytesIO()
    description = {"descr": _LITTLE_ENDIAN, "fortran_order": False, "shape": (count, dim)}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()
