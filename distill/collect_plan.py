"""Which files each picture of a collection becomes, and whether an earlier run has written them."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepir.datasets import LabelledImage
from deepir.distill.collect_log import Entry


@dataclass(frozen=True, slots=True)
class Job:
    """A picture and the files it becomes.

    Attributes:
        picture: Where it lies and what it shows.
        source: Its path as the manifest has it, seen from the source folder where it lies below that.
        outputs: Itself, then its crops, seen from the output folder.
    """

    picture: LabelledImage
    source: str
    outputs: tuple[str, ...]

    @property
    def label(self) -> str:
        """What it shows."""
        return self.picture.label

    @property
    def key(self) -> str:
        """The file that it becomes itself; no other picture has it."""
        return self.outputs[0]

    @property
    def number(self) -> int:
        """A number of 64 bits made from the source: the same on every machine and in any order."""
        return int.from_bytes(hashlib.sha256(os.fsencode(self.source)).digest()[:8], "big")


def plan_jobs(pictures: Sequence[LabelledImage], root: Path, crops: int) -> list[Job]:
    """Each picture is named by its stem; where two of a label would share a name, by stem and a hash of the path."""
    jobs = [_job(picture, root, crops) for picture in pictures]
    # some file systems take A.jpg and a.jpg for one
    owners = Counter(output.casefold() for job in jobs for output in job.outputs)
    return [
        _job(job.picture, root, crops, f"-{job.number:016x}")
        if any(owners[name.casefold()] > 1 for name in job.outputs)
        else job
        for job in jobs
    ]


def is_done(entry: Entry | None, job: Job, out: Path) -> bool:
    """Whether the log's entry is of this picture, as large as it was, and what was written of it is all there."""
    if entry is None or (entry.get("source"), entry.get("bytes")) != (job.source, job.picture.path.stat().st_size):
        return False
    if "left_out" in entry:
        return True
    return set(entry.get("written", ())) == set(job.outputs) and all((out / name).is_file() for name in job.outputs)


def _job(picture: LabelledImage, root: Path, crops: int, suffix: str = "") -> Job:
    path = picture.path
    source = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    # a name that begins with a dot would be hidden from `list_images`
    name = f"{picture.label}/{path.stem.lstrip('.') or 'picture'}{suffix}"
    return Job(picture, source, (f"{name}.jpg", *(f"{name}~{number}.jpg" for number in range(1, crops + 1))))
