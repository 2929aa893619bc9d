"""What the services do: a view joins the index, a label leaves it, another program's changes are read."""

from dataclasses import dataclass
from pathlib import Path

from deepir.errors import InputError
from deepir.image import Image
from deepir.label_tree import check_label
from deepir.runtime import Described, Index, Recogniser
from deepir.runtime.pictures import THUMBNAIL, encode_thumbnail, keep_thumbnail

_WAIT = 2.0
"""Seconds that a service waits for another program that is changing the index."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The last picture that was recognised.

    Attributes:
        image: (H, W, 3) RGB.
        query: Its descriptor.
        name: What a view of it is called, made of its stamp.
    """

    image: Image
    query: Described
    name: str


class Items:
    """Changes the index on the disk; the recogniser takes the new one from its next picture on."""

    def __init__(self, recogniser: Recogniser, path: Path) -> None:
        self._recogniser = recogniser
        self._path = path

    def add(self, label: str, seen: Seen | None) -> str:
        """Store the last picture as a view of a label, and say so.

        Raises:
            InputError: No label, no picture, a blank one, or an index that views cannot be added to here.
            IndexFileError: Another program is changing the index, or it is damaged.
        """
        label = check_label(label.strip())
        if seen is None or seen.query.query_1d is None:
            what = "no picture was recognised yet" if seen is None else "the last picture is blank"
            message = f"{what}: activate the node and show it the thing"
            raise InputError(message)
        with Index.open(self._path, write=True, wait=_WAIT) as index:
            index.check_model(self._recogniser.extractor.card)
            if index.foreign or index.references.fingerprint != index.model.fingerprint:
                message = (
                    f"views are added to {self._path} with deepir-index add: another program or model describes them"
                )
                raise InputError(message)
            metadata = {}
            if index.footer.thumbnails:
                metadata[THUMBNAIL] = keep_thumbnail(self._path, encode_thumbnail(seen.image, index.footer.thumbnails))
            index.add(label, seen.query.query_1d[None], [seen.name], metadata=[metadata])
            views = len(index.views_of(label))
        self.reload()
        return f"{seen.name} is view {views} of {label}"

    def remove(self, label: str) -> str:
        """Forget a label, or a branch of labels (`brand/`), and say how many views that were.

        Raises:
            InputError: There is nothing of the kind.
            IndexFileError: As of `add`.
        """
        if not label.strip():
            message = "the parameter item_label is empty: set it to the label that shall be forgotten"
            raise InputError(message)
        with Index.open(self._path, write=True, wait=_WAIT) as index:
            count = index.remove(label.strip())
        self.reload()
        return f"{count} views of {label.strip()} are forgotten"

    def reload(self) -> str:
        """Read the index again, and say what is in it.

        Raises:
            InputError, IndexFileError: It is gone, damaged or of another model; then the one before stays in use.
        """
        index = Index.open(self._path)
        index.check_model(self._recogniser.extractor.card)
        self._recogniser.index = index
        return f"{len(index)} views of {len(index.labels)} labels"
