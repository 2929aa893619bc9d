"""Pictures of any size become a folder of label folders of one size, with a manifest; a second run goes on."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepir.distill.collect_log import Entry, appending, read_log
from deepir.distill.collect_pictures import Fit, fit_picture, is_smaller, random_crops, write_jpeg
from deepir.distill.collect_plan import Job, is_done, plan_jobs
from deepir.distill.collect_source import OUTSIDE, TOO_SMALL, UNREADABLE, ClassLimits, Listing
from deepir.errors import InputError, OptionError
from deepir.files import write_text
from deepir.image import read_image
from deepir.spec import Size

SCHEMA = "deepir.collection/1"
MANIFEST = "manifest.json"
LOG = "collect.log.jsonl"

_REPORT_EVERY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectConfig:
    """How pictures are brought to one size.

    Attributes:
        size: (height, width); the published sets have 384x512 and 288x384 (method.md 4.3).
        fit: See `fit_picture`.
        crops: Random crops of each picture, written beside it (see `random_crops`).
        seed: Of the crops; each picture has its own sequence, whatever the order.
        keep_small: Enlarge pictures that are smaller than the size instead of leaving them out.
        limits: Labels outside are left out; the lower limit counts the pictures that are really written.

    Raises:
        OptionError: A value out of range.
    """

    size: Size = (384, 512)
    fit: Fit = "crop"
    crops: int = 0
    seed: int = 0
    keep_small: bool = False
    limits: ClassLimits = field(default_factory=ClassLimits)

    def __post_init__(self) -> None:
        if self.fit not in {"crop", "stretch"} or self.crops < 0 or self.seed < 0:
            message = (
                f"a collection needs fit crop or stretch, and crops and seed of 0 or more; "
                f"got {self.fit!r}, {self.crops} and {self.seed}"
            )
            raise OptionError(message)

    def settings(self) -> Entry:
        """What decides how a picture comes out, for the log and the manifest."""
        return {"size": list(self.size)} | {
            name: getattr(self, name) for name in ("fit", "crops", "seed", "keep_small")
        }


def collect(
    listing: Listing, out: Path, config: CollectConfig, report: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write the pictures as OUT/<label>/<name>.jpg and give the manifest, which is OUT/manifest.json too.

    Pictures that an earlier run wrote are not written again; its files that are not wanted any more go away.

    Raises:
        InputError: Nothing is left to collect, or the folder cannot be written.
        OptionError: OUT lies in the source, or holds other files, another source's pictures or ones made otherwise.
    """
    _check_apart(listing, out)
    head = {"source": str(listing.root.resolve()), "settings": config.settings()}
    earlier = _earlier(out, head)
    pictures, _ = config.limits.split(listing.images)
    jobs = plan_jobs(pictures, listing.root, config.crops)
    done = {job.key: earlier[job.key] for job in jobs if is_done(earlier.get(job.key), job, out)}
    possible, _ = config.limits.lower.split([job for job in jobs if "left_out" not in done.get(job.key, {})])
    out.mkdir(parents=True, exist_ok=True)
    with appending(out / LOG) as append:
        if not earlier:
            append(head)
        for number, job in enumerate(possible, 1):
            if job.key not in done:
                done[job.key] = _write(job, out, config)
                append(done[job.key])
            if number % _REPORT_EVERY == 0:
                report(f"{number} of {len(possible)} pictures")
    kept, _ = config.limits.lower.split([job for job in jobs if "written" in done.get(job.key, {})])
    manifest = {"schema": SCHEMA, **head, **_contents(listing, kept, done)}
    _clear(out, [*earlier.values(), *done.values()], {picture["image"] for picture in manifest["pictures"]})
    write_text(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _check_apart(listing: Listing, out: Path) -> None:
    inside = out.resolve()
    in_walk = listing.walked and listing.root.resolve() in inside.parents
    if in_walk or any(inside in image.path.resolve().parents for image in listing.images):
        message = f"the output {out} and the pictures in {listing.root} lie in one another: collect into another folder"
        raise OptionError(message)


def _earlier(out: Path, head: Entry) -> dict[str, Entry]:
    """What the log of an earlier run says of each picture, by the first file it became."""
    entries = read_log(out / LOG)
    if not entries and out.exists() and any(out.iterdir()):
        message = f"{out} is not empty and holds no collection: give the name of a new folder"
        raise OptionError(message)
    heads = [entry for entry in entries if "settings" in entry]
    if any(other != head for other in heads):
        message = (
            f"{out} was collected as {json.dumps(heads[0])}, now it would be {json.dumps(head)}: use another folder"
        )
        raise OptionError(message)
    return {str(entry["image"]): entry for entry in entries if "image" in entry} if heads else {}


def _write(job: Job, out: Path, config: CollectConfig) -> Entry:
    path = job.picture.path
    entry: Entry = {"image": job.key, "source": job.source, "bytes": path.stat().st_size}
    try:
        image = read_image(path)
    except InputError:
        return {**entry, "left_out": UNREADABLE}
    if is_smaller(image, config.size) and not config.keep_small:
        return {**entry, "left_out": TOO_SMALL}
    rng = np.random.default_rng([config.seed, job.number])
    views = [image, *random_crops(image, config.size, config.crops, rng)]
    written = {}
    for name, view in zip(job.outputs, views, strict=True):
        content = write_jpeg(out / name, fit_picture(view, config.size, config.fit))
        written[name] = hashlib.sha256(content).hexdigest()
    return {**entry, "written": written}


def _contents(listing: Listing, kept: Sequence[Job], done: dict[str, Entry]) -> dict[str, Any]:
    """The manifest's counts, reasons and pictures.

    Raises:
        InputError: No picture is kept.
    """
    labels = {job.label for job in kept}
    outside = {image.label for image in listing.images} - labels | set(listing.left_out.get(OUTSIDE, ()))
    left_out = {
        **listing.left_out,
        **{reason: _sources(done.values(), reason) for reason in (UNREADABLE, TOO_SMALL)},
        OUTSIDE: sorted(outside),
    }
    counts = {reason: len(names) for reason, names in left_out.items() if names}
    if not kept:
        message = f"nothing is left of the {len(listing.images)} pictures in {listing.root}: {json.dumps(counts)}"
        raise InputError(message)
    pictures = [
        {"image": name, "label": job.label, "source": job.source, "sha256": done[job.key]["written"][name]}
        for job in kept
        for name in job.outputs
    ]
    totals = {"pictures": len(kept), "files": len(pictures), "labels": len(labels)}
    return {"counts": totals | counts, "left_out": left_out, "pictures": pictures}


def _sources(entries: Iterable[Entry], reason: str) -> list[str]:
    return sorted(entry["source"] for entry in entries if entry.get("left_out") == reason)


def _clear(out: Path, entries: Iterable[Entry], wanted: set[str]) -> None:
    """Remove what this or an earlier run wrote and nobody wants any more, and folders that are empty then."""
    inside = out.resolve()
    for name in {name for entry in entries for name in entry.get("written", ())} - wanted:
        path = out / name
        if inside in path.resolve().parents and path.is_file():
            path.unlink()
            _remove_empty(path.parent, inside)


def _remove_empty(folder: Path, top: Path) -> None:
    while folder.resolve() != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
