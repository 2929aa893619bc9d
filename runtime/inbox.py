"""An inbox of pictures that nobody has named yet: alike ones in clusters, each with the label that it resembles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepir.errors import InputError, OptionError
from deepir.image import list_images
from deepir.runtime.clusters import MOST_ROWS, find_clusters
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.progress import Advance
from deepir.runtime.query_pictures import describe_together
from deepir.runtime.recogniser import Judgement, Recognition

DONE = "done"
"""The folder inside an inbox where pictures go that were named; what lies there waits no more."""


@dataclass(frozen=True, slots=True)
class InboxCluster:
    """Pictures that are alike.

    Attributes:
        number: From 1, the largest cluster first.
        pictures: The most typical first.
        similarities: Of each picture to the first.
        answer: What the index says of the first.
    """

    number: int
    pictures: tuple[Path, ...]
    similarities: tuple[float, ...]
    answer: Recognition

    @property
    def suggestion(self) -> str:
        """The most similar label, known or not; empty where the index has none."""
        return self.answer.top[0][0] if self.answer.top else ""


@dataclass(frozen=True, slots=True)
class Inbox:
    """What an inbox holds.

    Attributes:
        clusters: The largest first.
        similarity: By which they were made.
        blank: Pictures without any direction.
        unreadable: Files that are no pictures, or whose names are not UTF-8.
        waiting: Pictures beyond the most that are looked at in one go.
    """

    clusters: list[InboxCluster]
    similarity: float
    blank: list[Path]
    unreadable: list[Path]
    waiting: int


def inbox_pictures(folder: Path) -> list[Path]:
    """The pictures of an inbox, sorted; those below its folder `done` are left out.

    Raises:
        InputError: The folder is missing or holds no such picture.
    """
    done = folder / DONE
    found = [path for path in list_images(folder) if done not in path.parents]
    if not found:
        message = f"nothing waits in {folder}: all of its pictures are in {done}"
        raise InputError(message)
    return found


def cluster_similarity(index: Index, given: float | None) -> float:
    """The similarity that holds a cluster together: as given, else the index's threshold.

    Raises:
        OptionError: None given, and the index has no threshold.
    """
    if given is not None:
        return given
    threshold = index.threshold
    if threshold is None:
        message = f"the index has {len(index.labels)} labels and no threshold: say how alike with --similarity 0.7"
        raise OptionError(message)
    return threshold.value


def cluster_inbox(
    index: Index,
    extractor: Extractor,
    pictures: Sequence[Path],
    similarity: float,
    advance: Advance = lambda _done: None,
) -> Inbox:
    """Describe pictures, put alike ones together, and ask the index about each cluster.

    Args:
        index: Of the extractor's model.
        extractor: Describes queries.
        pictures: The first 5,000 are looked at.
        similarity: -1..1, mean within a cluster; see `find_clusters`.
        advance: Told how many pictures were done.

    Raises:
        IndexModelError: The index was made by another model.
    """
    index.check_model(extractor.card)
    chosen = pictures[:MOST_ROWS]
    named = [path for path in chosen if _is_text(path)]
    described = describe_together(extractor, named, advance, skip_unreadable=True)
    stored_nd = index.mapped(described.descriptors_nd)
    judgement = Judgement()
    clusters = []
    for number, cluster in enumerate(find_clusters(stored_nd, similarity), 1):
        rows = list(cluster.rows)
        hits = judgement.search(described.descriptors_nd[cluster.medoid], index)
        clusters.append(
            InboxCluster(
                number,
                tuple(described.paths[row] for row in rows),
                tuple(np.clip(stored_nd[rows] @ stored_nd[cluster.medoid], -1, 1).tolist()),
                judgement.judge(hits, index, {}),
            )
        )
    unreadable = [path for path in chosen if not _is_text(path)] + described.unreadable
    return Inbox(clusters, similarity, described.blank, unreadable, len(pictures) - len(chosen))


def _is_text(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
