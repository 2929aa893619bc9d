"""Renders a synthetic shop: training pictures, a benchmark of unseen products and a walk along the shelves."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from benchmark import write_benchmark
from catalogue import invent_catalogue
from colours import rng_for
from pictures import PictureWriter
from products import draw_packages
from shapes import Package
from walk import render_walk

CLUTTER_PRODUCTS = 48
FOLDERS = ("train", "references", "queries", "distractors", "unknown")
FILES = ("benchmark.json", "walk.webm", "walk.mp4", "walk.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopConfig:
    """How much to render; the same config gives the same pictures, byte by byte."""

    seed: int = 0
    train_products: int = 100
    test_products: int = 60
    distractor_products: int = 60
    unknown_products: int = 40
    walk_products: int = 14
    views: int = 3
    train_photos: int = 10
    query_photos: int = 6
    frames: int = 288
    image_size: int = 320

    def __post_init__(self) -> None:
        for name in self.__slots__:
            least = 0 if name == "seed" else 1
            if getattr(self, name) < least:
                message = f"{name} must be at least {least}, got {getattr(self, name)}"
                raise ValueError(message)
        if self.walk_products > self.test_products:
            message = f"the walk passes {self.walk_products} test products, but there are only {self.test_products}"
            raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopFiles:
    """Where everything was written; the folders hold one folder per label, `unknown` holds pictures."""

    train: Path
    references: Path
    queries: Path
    distractors: Path
    unknown: Path
    benchmark: Path
    video: Path
    truth: Path


def render_shop(out: Path, config: ShopConfig) -> ShopFiles:
    """Render the shop into out, which must be empty or not there yet."""
    if out.exists() and any(out.iterdir()):
        message = f"{out} is not empty: choose another folder, or pass --overwrite"
        raise FileExistsError(message)
    out.mkdir(parents=True, exist_ok=True)
    shop = _draw_shop(config)
    with ThreadPoolExecutor() as pool:
        walk = pool.submit(_render_walk, out, shop, config)
        for done in [pool.submit(job) for job in _plan_pictures(out, shop, config)]:
            done.result()
        video, truth = walk.result()
    folders = {name: out / name for name in FOLDERS}
    return ShopFiles(**folders, benchmark=write_benchmark(out), video=video, truth=truth)


def clear_shop(out: Path) -> None:
    """Remove what an earlier run wrote into out, and nothing else."""
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in FILES:
        (out / name).unlink(missing_ok=True)


def _draw_shop(config: ShopConfig) -> dict[str, tuple[Package, ...]]:
    counts = {
        "train": config.train_products,
        "test": config.test_products,
        "distractors": config.distractor_products,
        "unknown": config.unknown_products,
        "clutter": CLUTTER_PRODUCTS,
    }
    catalogue = invent_catalogue(counts, seed=config.seed)
    return {name: draw_packages(products, seed=config.seed) for name, products in catalogue.items()}


def _plan_pictures(
    out: Path, shop: Mapping[str, Sequence[Package]], config: ShopConfig
) -> Iterator[Callable[[], None]]:
    writer = PictureWriter(seed=config.seed, size=config.image_size, clutter=shop["clutter"])
    for package in shop["train"]:
        yield partial(writer.write_views, out / "train" / package.label, package, config.views)
        yield partial(writer.write_photos, out / "train" / package.label, package, config.train_photos)
    for package in shop["test"]:
        yield partial(writer.write_views, out / "references" / package.label, package, config.views)
        yield partial(writer.write_photos, out / "queries" / package.label, package, config.query_photos)
    for package in shop["distractors"]:
        yield partial(writer.write_views, out / "distractors" / package.label, package, 1)
    for number, package in enumerate(shop["unknown"]):
        yield partial(writer.write_photos, out / "unknown", package, 1, first=number)


def _render_walk(out: Path, shop: Mapping[str, Sequence[Package]], config: ShopConfig) -> tuple[Path, Path]:
    rng = rng_for(config.seed, "walk")
    passed = [shop["test"][place] for place in rng.permutation(config.test_products)[: config.walk_products]]
    return render_walk(out, passed, shop["unknown"], rng, frames=config.frames)


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=ShopConfig().seed, show_default=True, help="Another seed is another shop.")
@click.option("--overwrite", is_flag=True, help="Remove what an earlier run wrote into OUT.")
def main(out: Path, *, seed: int, overwrite: bool) -> None:
    """Render a synthetic shop into OUT.  Example: python examples/shop/render.py shop --seed 1"""
    try:
        if overwrite:
            clear_shop(out)
        files = render_shop(out, ShopConfig(seed=seed))
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{files.benchmark}\n{files.video}\n{files.truth}")


if __name__ == "__main__":
    main()
