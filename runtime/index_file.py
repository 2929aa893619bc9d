"""The bytes of an index: a usearch file, then what deepir knows of it, then a checksum.

    usearch's own bytes | whitening, if any | footer, JSON | its length, u64 | SHA-256 of all before it | magic

usearch ignores what follows its own bytes, so the file opens in any program that reads usearch files.
"""

import hashlib
import json
import shutil
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepir.errors import IndexFileError, InputError
from deepir.files import replacing
from deepir.runtime.index_whitening import IndexWhitening, WhiteningNote
from deepir.runtime.threshold import Threshold

SCHEMA = "deepir.index/1"
WHITENED_SCHEMA = "deepir.index/2"
"""Of an index with a whitening of its own, which versions that know only the first schema must not read without it."""

_MAGIC = b"DEEPIRX1"
_LENGTH = struct.Struct("<Q")
_DIGEST_SIZE = hashlib.sha256().digest_size
_TRAILER_SIZE = _LENGTH.size + _DIGEST_SIZE + len(_MAGIC)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """The model that made the descriptors.

    Attributes:
        fingerprint: Names the model; its FP32, FP16 and INT8 forms share it.
        sha256: Of the model file.
        relative: Its path from the folder of the index.
        absolute: Its path on the machine that wrote the index.
    """

    fingerprint: str
    sha256: str
    relative: str
    absolute: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What deepir knows of the descriptors in the file.

    Attributes:
        dim: Values of a stored descriptor.
        views: For each key its label and the name of the image.
        next_key: Keys are never used twice.
        generation: Grows by one with each save.
        whitening: What the model's descriptors went through before they were stored; None for nothing.
    """

    model: ModelReference
    dim: int
    views: dict[int, tuple[str, str]]
    next_key: int
    far: float
    threshold: Threshold | None = None
    dtype: str = "f16"
    usearch: str = ""
    generation: int = 0
    whitening: WhiteningNote | None = None

    def to_json(self) -> str:
        """Each label written once; a view is [key, number of its label, image name]."""
        labels = sorted({label for label, _ in self.views.values()})
        numbers = {label: number for number, label in enumerate(labels)}
        fields = {name: getattr(self, name) for name in ("dim", "next_key", "far", "dtype", "usearch", "generation")}
        note = {} if self.whitening is None else {"whitening": asdict(self.whitening)}
        return json.dumps(
            {
                "schema": SCHEMA if self.whitening is None else WHITENED_SCHEMA,
                **fields,
                **note,
                "model": asdict(self.model),
                "threshold": None if self.threshold is None else asdict(self.threshold),
                "labels": labels,
                "views": [[key, numbers[label], name] for key, (label, name) in sorted(self.views.items())],
            },
        )

    @classmethod
    def from_json(cls, text: str) -> "Footer":
        """Read what `to_json` wrote.

        Raises:
            IndexFileError: Another schema, or fields that are not as expected.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            schema = fields.pop("schema")
            if schema not in {SCHEMA, WHITENED_SCHEMA}:
                message = f"it has the schema {schema!r}, this version reads {SCHEMA} and {WHITENED_SCHEMA}"
                raise IndexFileError(message)
            note = _read_note(fields.pop("whitening")) if schema == WHITENED_SCHEMA else None
            labels, views, threshold = fields.pop("labels"), fields.pop("views"), fields.pop("threshold")
            return cls(
                model=ModelReference(**fields.pop("model")),
                views={key: (labels[number], name) for key, number, name in views},
                threshold=None if threshold is None else Threshold(**threshold),
                whitening=note,
                **fields,
            )
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            message = f"its footer cannot be read ({error!r})"
            raise IndexFileError(message) from error


def backup_of(path: Path) -> Path:
    """Where the generation before the newest is kept."""
    return path.with_name(f"{path.name}.bak")


def write_index(
    path: Path, usearch_bytes: bytes | bytearray, footer: Footer, whitening: IndexWhitening | None = None
) -> None:
    """Replace the file, whole or not at all; the generation before it becomes `<name>.bak`.

    The footer's note must be that of the whitening.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    text = footer.to_json().encode()
    parts = (usearch_bytes, b"" if whitening is None else whitening.to_bytes(), text, _LENGTH.pack(len(text)))
    digest = hashlib.sha256()
    with replacing(path) as temporary:
        with temporary.open("wb") as stream:
            for part in parts:
                digest.update(part)
                stream.write(part)
            stream.write(digest.digest() + _MAGIC)
        if path.exists():
            with replacing(backup_of(path)) as older:
                shutil.copyfile(path, older)


def read_index(path: Path) -> tuple[memoryview, Footer, IndexWhitening | None]:
    """The bytes for usearch, the footer and the whitening; nothing is believed before the checksum is right.

    Raises:
        InputError: The file is missing or unreadable.
        IndexFileError: Truncated, damaged, or not written by deepir.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        message = f"cannot read the index {path}: {error.strerror}"
        raise InputError(message) from error
    try:
        return _split(content)
    except IndexFileError as error:
        raise unusable(path, error) from error


def check_generation(path: Path, generation: int) -> None:
    """Refuse to replace a file, if it is there, that is not of the generation that was read from it.

    Raises:
        IndexFileError: Somebody else wrote it meanwhile.
    """
    newest = read_index(path)[1].generation if path.exists() else generation
    if newest != generation:
        message = (
            f"{path} was written by another program since it was opened (generation {generation}, "
            f"now {newest}): open it again and repeat the change"
        )
        raise IndexFileError(message)


def unusable(path: Path, reason: IndexFileError) -> IndexFileError:
    """The reason as a whole sentence: the file, its size, and the cure."""
    backup = backup_of(path)
    restore = f"the generation before it is in {backup}: copy that over it, or " if backup.exists() else ""
    return IndexFileError(
        f"{path} ({path.stat().st_size} bytes) is not a usable index: {reason}; "
        f"{restore}make it again with deepir-index build {path} FOLDER --model MODEL.onnx"
    )


def _read_note(fields: dict[str, Any]) -> WhiteningNote:
    return WhiteningNote(**{**fields, "pictures": tuple(fields["pictures"])})


def _split(content: memoryview) -> tuple[memoryview, Footer, IndexWhitening | None]:
    if len(content) < _TRAILER_SIZE or content[-len(_MAGIC) :] != _MAGIC:
        message = "it has no deepir footer (truncated, or written by another program)"
        raise IndexFileError(message)
    hashed = len(content) - len(_MAGIC) - _DIGEST_SIZE
    if hashlib.sha256(content[:hashed]).digest() != content[hashed : hashed + _DIGEST_SIZE]:
        message = "its checksum is wrong (damaged on the disk or on the way)"
        raise IndexFileError(message)
    end = hashed - _LENGTH.size
    (length,) = _LENGTH.unpack(content[end:hashed])
    if length > end:
        message = f"its footer claims {length} bytes"
        raise IndexFileError(message)
    end -= length
    footer = Footer.from_json(str(content[end : end + length], "utf-8"))
    note = footer.whitening
    if note is None:
        return content[:end], footer, None
    if note.size > end or note.dim != footer.dim:
        message = (
            f"its whitening gives {note.dim} values in {note.size} bytes, and it holds descriptors of {footer.dim}"
        )
        raise IndexFileError(message)
    return content[: end - note.size], footer, IndexWhitening.from_bytes(note, content[end - note.size : end])
