"""Pictures of distillation.py: the scored sets, and an unlabelled pool to train on that holds nothing of them."""

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from shop_photos import Photos

from deepir.distill.collect_pictures import write_jpeg
from deepir.errors import InputError
from deepir.files import file_sha256, write_text
from deepir.image import Image, list_images
from deepir.reading import read_images
from deepir.runtime.source import open_source

SHOP = Path(__file__).parents[1] / "examples" / "shop"
VIDEOS = frozenset({".mp4", ".webm", ".avi", ".mkv"})
FRAMES_PER_SECOND = 2.0
"""One a second of a walk: ie_tower_floor12 was filmed at one a second and is stored at two."""
GOODS = {"seed": 7, "train_products": 60, "views": 3, "train_photos": 3}
"""Of the rendered shop: 180 pictures on white and 180 photographs."""
THUMBNAIL = (16, 16)
ALIKE = 0.97
"""From this correlation of two thumbnails on, pictures count as the same sight."""

Thumbnails = NDArray[np.float32]
"""(N, 256), each of mean 0 and length 1."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Unlabelled pictures to train on, and where they come from, in words."""

    pictures: list[Path]
    words: str

    @property
    def digest(self) -> str:
        """The start of the SHA-256 over the names and sizes of the pictures."""
        lines = "\n".join(f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in self.pictures)
        return hashlib.sha256(lines.encode()).hexdigest()[:12]


def scored_pictures(photos: Photos) -> list[Path]:
    """Every picture of a database or a query, once, in a fixed order."""
    return sorted(
        {path for one in photos.sets.values() for path in (*one.database, *(query.image for query in one.queries))}
    )


def read_pool(photos: Photos, videos: Path | None, out: Path) -> Pool:
    """`train`, frames of the videos and rendered goods; the last two are written to `out` once.

    Raises:
        InputError: No video in the folder, a video or a picture that does not decode, or a picture of the pool that is
            scored.
    """
    listing = out / "pool.json"
    if not listing.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text(listing, json.dumps(_fill(photos, videos, out), indent=1))
    found = json.loads(listing.read_text(encoding="utf-8"))
    pictures = [*photos.train, *(out / name for name in found["pictures"])]
    check_apart(pictures, scored_pictures(photos))
    return Pool(pictures, found["words"])


def check_apart(pool: Sequence[Path], scored: Sequence[Path]) -> None:
    """Refuse a pool with a scored picture in it.

    Raises:
        InputError: Says how many, and names the first.
    """
    hashes = {file_sha256(path): path for path in scored}
    both = [(path, hashes[digest]) for path in pool if (digest := file_sha256(path)) in hashes]
    if both:
        message = (
            f"{len(both)} pictures to train on are scored too, the first is {both[0][0]}, the same file as "
            f"{both[0][1]}: take them out"
        )
        raise InputError(message)


def thumbnail(image: Image) -> NDArray[np.float32]:
    """A small grey picture as a vector (256,) of mean 0 and length 1; their product is a correlation."""
    grey = cv2.cvtColor(cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    values = grey.astype(np.float32).ravel()
    values -= values.mean()
    values /= max(float(np.linalg.norm(values)), 1e-6)
    return values


def _fill(photos: Photos, videos: Path | None, out: Path) -> dict[str, object]:
    scored = _thumbnails(scored_pictures(photos))
    train = _thumbnails(photos.train)
    frames = list(_write_frames(_videos(videos), scored, out)) if videos else []
    goods = _render(out)
    near = int(((train @ scored.T).max(axis=1) > ALIKE).sum())
    words = (
        f"{len(photos.train)} of train ({near} look like a scored picture), {len(frames)} video frames, "
        f"{len(goods)} rendered pictures"
    )
    click.echo(f"pool: {words}", err=True)
    return {"words": words, "pictures": [path.relative_to(out).as_posix() for path in (*frames, *goods)]}


def _thumbnails(paths: Sequence[Path]) -> Thumbnails:
    return np.stack([thumbnail(image) for image in read_images(paths)])


def _videos(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEOS) if folder.is_dir() else []
    if not found:
        message = f"no videos in {folder}: expected files ending in {', '.join(sorted(VIDEOS))}"
        raise InputError(message)
    return found


def _write_frames(videos: Sequence[Path], scored: Thumbnails, out: Path) -> Iterator[Path]:
    """Frames that look like no scored picture and like no frame before them."""
    for video in videos:
        kept = scored
        with open_source(video) as source:
            step = max(1, round((source.fps or FRAMES_PER_SECOND) / FRAMES_PER_SECOND))
            for frame in source:
                if frame.number % step:
                    continue
                small = thumbnail(frame.image)
                if (kept @ small).max() > ALIKE:
                    continue
                kept = np.vstack([kept, small])
                path = out / "videos" / f"{video.stem}_{frame.number:05d}.jpg"
                write_jpeg(path, frame.image)
                yield path


def _render(out: Path) -> list[Path]:
    """Goods of the demonstration's shop, those that it trains on; the rest of a shop is drawn as small as it can be."""
    folder = out / "shop"
    if not folder.exists():
        least = dict.fromkeys(("test_products", "distractor_products", "unknown_products", "walk_products"), 1)
        # the shop's modules import each other by bare names, as they do when a script of theirs is run
        sys.path.insert(0, str(SHOP))
        try:
            render = importlib.import_module("render")
            render.render_shop(folder, render.ShopConfig(**GOODS, **least, query_photos=1, frames=12))
        finally:
            sys.path.remove(str(SHOP))
    return list_images(folder / "train")
