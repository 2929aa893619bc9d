"""Images per second of describing pictures: decoded by threads ahead of the model, against a plain loop.

    python benchmarks/eval_reading.py --images photos --model student.onnx
    python benchmarks/eval_reading.py --images photos/benchmark.json --set shop --model student.onnx

Both ways describe the same pictures with the same model in one run, in turns, so that what else the machine does
meets both; each turn is printed, the medians at the end.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch

from deepir.datasets import read_retrieval_sets
from deepir.descriptors import Descriptors
from deepir.errors import reports_errors
from deepir.export.subject import Subject, View, describe_views, open_subject
from deepir.image import list_images, read_image
from deepir.reading import default_workers, usable_cores
from deepir.runtime.backend import BackendOptions
from deepir.runtime.extractor import BATCH_SIZE


def describe_plainly(subject: Subject, paths: Sequence[Path]) -> Descriptors:
    """Decode a batch, describe it, decode the next."""
    batches = [paths[start : start + BATCH_SIZE] for start in range(0, len(paths), BATCH_SIZE)]
    return np.concatenate(
        [subject.describe([read_image(path) for path in batch], [None] * len(batch)) for batch in batches]
    )


def describe_ahead(subject: Subject, paths: Sequence[Path], threads: int) -> Descriptors:
    """Decode the next pictures while the model computes."""
    views = [View(path) for path in paths]
    return np.concatenate([rows for _, rows in describe_views(subject.describe, views, threads=threads)])


def measure(describe: Callable[[], Descriptors], count: int) -> tuple[float, float]:
    """Images per second, and how many cores this process kept busy meanwhile."""
    started, busy = time.perf_counter(), time.process_time()
    describe()
    seconds = time.perf_counter() - started
    return count / seconds, (time.process_time() - busy) / seconds


def pictures(source: Path, name: str | None, most: int | None) -> list[Path]:
    """The database of a set, or the pictures of a folder."""
    paths = list(read_retrieval_sets(source)[name].database) if name else list_images(source)
    return paths[:most]


@click.command(context_settings={"show_default": True})
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder, or a data set with --set.")
@click.option("--set", "name", help="Describe the database of this set.")
@click.option("--model", type=click.Path(path_type=Path), required=True, help=".safetensors or .onnx.")
@click.option("--threads", type=int, default=default_workers(), help="Decoding threads.")
@click.option("--rounds", type=int, default=5, help="Turns of each way, after one to warm up.")
@click.option("--most", type=int, help="Not more pictures than these.  [default: all]")
@reports_errors
def main(images: Path, name: str | None, model: Path, threads: int, rounds: int, most: int | None) -> None:
    """Describe pictures in both ways, in turns."""
    paths = pictures(images, name, most)
    subject = open_subject(model, BackendOptions(device="cpu"))
    ways: dict[str, Callable[[], Descriptors]] = {
        "plain loop": lambda: describe_plainly(subject, paths),
        f"{threads} decoding threads": lambda: describe_ahead(subject, paths, threads),
    }
    first, second = (describe() for describe in ways.values())
    click.echo(
        f"{subject.runner}, {subject.card.spec.backbone} at {subject.card.spec.sizes}; {len(paths)} pictures; "
        f"{usable_cores()} usable cores, torch computes with {torch.get_num_threads()} threads, "
        "ONNX Runtime with one for each core; "
        f"largest difference of the two ways {np.abs(first - second).max():.1e}"
    )
    turns: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in list(ways) if turn % 2 else reversed(ways):
            turns[way].append(measure(ways[way], len(paths)))
    for way, measured in turns.items():
        speeds, cores = zip(*measured, strict=True)
        each = " ".join(f"{speed:.1f}" for speed in speeds)
        busy = f"{statistics.median(cores):.2f} cores busy"
        click.echo(f"{way}: median {statistics.median(speeds):.1f} images/s ({each}), {busy}")
    plain, ahead = (statistics.median(speed for speed, _ in measured) for measured in turns.values())
    click.echo(f"{ahead / plain:.2f} times the plain loop")


if __name__ == "__main__":
    main()
