"""Images per second of describing a folder: pictures decoded by threads ahead of the model, against a plain loop.

    python benchmarks/eval_reading.py --images photos --model student.onnx

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

from deepir.descriptors import Descriptors
from deepir.errors import reports_errors
from deepir.export.subject import Subject, View, describe_views, open_subject
from deepir.image import list_images, read_image
from deepir.reading import default_workers, usable_cores
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


def images_per_second(describe: Callable[[], Descriptors], count: int) -> float:
    started = time.perf_counter()
    describe()
    return count / (time.perf_counter() - started)


@click.command(context_settings={"show_default": True})
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder of pictures.")
@click.option("--model", type=click.Path(path_type=Path), required=True, help=".safetensors or .onnx.")
@click.option("--threads", type=int, default=default_workers(), help="Decoding threads.")
@click.option("--rounds", type=int, default=5, help="Turns of each way, after one to warm up.")
@click.option("--most", type=int, default=200, help="Pictures of the folder.")
@reports_errors
def main(images: Path, model: Path, threads: int, rounds: int, most: int) -> None:
    """Describe the pictures of a folder in both ways, in turns."""
    paths = list_images(images)[:most]
    subject = open_subject(model, device="cpu")
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
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways) if turn % 2 else reversed(ways):
            speeds[name].append(images_per_second(ways[name], len(paths)))
    for name, values in speeds.items():
        turns = " ".join(f"{value:.1f}" for value in values)
        click.echo(f"{name}: median {statistics.median(values):.1f} images/s ({turns})")
    plain, ahead = (statistics.median(values) for values in speeds.values())
    click.echo(f"{ahead / plain:.2f} times the plain loop")


if __name__ == "__main__":
    main()
