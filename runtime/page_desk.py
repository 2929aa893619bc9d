"""What a person changes from the live page: the threshold, and views that are enrolled or taken back."""

import dataclasses
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deepir.errors import InputError, OptionError
from deepir.label_tree import check_label
from deepir.runtime.index import Index
from deepir.runtime.page_shown import Shown
from deepir.runtime.pictures import SIDE, THUMBNAIL, encode_thumbnail, find_pictures, keep_thumbnail
from deepir.runtime.threshold import Threshold
from deepir.runtime.vitals import Vitals

_WAIT = 2.0
"""Seconds that a person waits for another program that is changing the index."""


class Desk:
    """Changes the index on the disk, which the loop reads again, and the threshold of the loop.

    Args:
        vitals: Of the loop.
        index_path: The file.
    """

    def __init__(self, vitals: Vitals, index_path: Path) -> None:
        self._vitals = vitals
        self._path = index_path
        self._lock = threading.Lock()
        self._enrolled: set[int] = set()

    def closed(self) -> str:
        """Why nothing can be enrolled, a sentence; empty when it can."""
        index = self._vitals.recogniser.index
        if index.foreign:
            return f"This index was not made by deepir ({index.foreign}), so views cannot be added to it here."
        if index.references.fingerprint != index.model.fingerprint:
            return (
                "The pictures of this index are described by another model than the camera's, so views are added with "
                "deepir-index add."
            )
        return ""

    def candidates(self, shown: Shown, number: int) -> list[dict[str, Any]]:
        """The best view of each of the best labels for one answer, with whether its picture is there.

        Of the index as it is now: what was enrolled from a frozen picture shows beside it.
        """
        answer = shown.answers[number]
        judgement, index = self._vitals.recogniser.judgement, self._vitals.recogniser.index
        if answer.query_1d is None or answer.fingerprint != index.model.fingerprint:
            return []
        hits = judgement.search(answer.query_1d, index)[: judgement.top_labels]
        items = index.items([hit.key for hit in hits])
        return [
            {
                "key": hit.key,
                "label": hit.label,
                "view": hit.view,
                "similarity": round(hit.similarity, 4),
                "picture": bool(find_pictures(item, self._path)),
            }
            for hit, item in zip(hits, items, strict=True)
        ]

    def set_threshold(self, value: object, *, keep: bool) -> dict[str, Any]:
        """Judge by another threshold from the next answer on, and by `keep` also every later run.

        Raises:
            OptionError: Neither `auto` nor a similarity, or `auto` is to be kept.
            InputError, IndexFileError: The index cannot be changed; then the running threshold stays as it was too.
        """
        recogniser = self._vitals.recogniser
        number = _number(value)
        if keep and number is None:
            message = "auto is the threshold that the index keeps already: choose a value to keep"
            raise OptionError(message)
        judgement = dataclasses.replace(recogniser.judgement, threshold="auto" if number is None else number)
        if keep and number is not None:
            with self._lock, Index.open(self._path, write=True, wait=_WAIT) as index:
                # what stored views made would be computed again at the next change
                index.set(threshold=Threshold(number, index.footer.far, 0, "chosen"))
        recogniser.judgement = judgement
        return {"threshold": recogniser.threshold, "auto": number is None, "kept": keep}

    def enrol(self, shown: Shown, number: int, label: object) -> dict[str, Any]:
        """Store an answer's descriptor as a view of a label, with a small copy of its picture.

        Raises:
            InputError: No label, a blank picture, or an index that cannot be added to.
            IndexFileError: The index is damaged, made by another model, or another program is changing it.
        """
        label = check_label(label.strip() if isinstance(label, str) else "")
        closed, answer = self.closed(), shown.answers[number]
        if closed:
            raise InputError(closed)
        if answer.query_1d is None:
            message = "a blank picture has nothing that could be recognised again: show the thing first"
            raise InputError(message)
        moment = datetime.fromtimestamp(answer.seen_at, tz=timezone.utc)
        source = f"page-{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z-{shown.number}.jpg"
        with self._lock, Index.open(self._path, write=True, wait=_WAIT) as index:
            if index.model.fingerprint != answer.fingerprint:
                message = "the index belongs to another model by now: enrol a newer picture"
                raise InputError(message)
            encoded = encode_thumbnail(shown.part(number), index.footer.thumbnails or SIDE)
            metadata = {THUMBNAIL: keep_thumbnail(self._path, encoded)}
            (key,) = index.add(label, answer.query_1d[None], [source], metadata=[metadata])
            views = len(index.views_of(label))
        self._enrolled.add(key)
        return {"key": key, "label": label, "view": source, "views": views}

    def undo(self, key: object) -> dict[str, Any]:
        """Take a view back that was enrolled here.

        Raises:
            InputError: It was not, or is gone.
            IndexFileError: As of `enrol`.
        """
        if isinstance(key, bool) or not isinstance(key, int) or key not in self._enrolled:
            message = f"the view {key!r} was not enrolled on this page: take it out with deepir-index remove"
            raise InputError(message)
        with self._lock, Index.open(self._path, write=True, wait=_WAIT) as index:
            index.remove([key])
        self._enrolled.discard(key)
        return {"key": key}


def _number(value: object) -> float | None:
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        message = f"the threshold must be auto or a number between -1 and 1, got {value!r}"
        raise OptionError(message)
    return float(value)
