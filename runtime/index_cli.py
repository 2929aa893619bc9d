"""deepir-index: make an index of labelled pictures, change it, ask it."""

import json
import time
from pathlib import Path
from typing import Any, Literal

import click

from deepir.datasets import LabelledImage
from deepir.errors import InputError, OptionError, reports_errors
from deepir.image import list_images, read_image
from deepir.runtime.backend_cli import backend_options, read_backend_options
from deepir.runtime.cli import threshold_option
from deepir.runtime.enrol import enrol, find_labelled_images
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import DescriptorIndex
from deepir.runtime.index_file import backup_of
from deepir.runtime.index_report import describe_index, index_facts, recognition_facts, recognition_text
from deepir.runtime.index_whitening import MOST_DIM, POWER, POWER_AGAIN, WhitenConfig
from deepir.runtime.near import near_command
from deepir.runtime.progress import progress_bar
from deepir.runtime.recogniser import TOP_LABELS, Recogniser, find_model
from deepir.runtime.run_report import NO_THRESHOLD
from deepir.runtime.threshold import FALSE_ACCEPTS

_ALIKE = 0.9
"""A threshold from stored views above this means that some labels look nearly alike."""

_WITHOUT_PHOTOGRAPHS = (
    "warning: fitted on the references alone, the whitening may do harm: of 100 shop photographs it set up to 6 right "
    "and up to 16 wrong (docs/benchmarks.md); give a dozen photographs from the camera with --whiten-images DIR"
)

_FILE = click.Path(path_type=Path)
_model = click.option("--model", type=_FILE, help="The model, if not where the index expects it.")


@click.group(context_settings={"auto_envvar_prefix": "DEEPIR_INDEX", "show_default": True})
def main() -> None:
    """Make an index of labelled pictures, change it, ask it.

    \b
    Example:
      deepir-index build shop.usearch products/ --model student.onnx
    """  # noqa: D301 click needs the character


@main.command()
@click.argument("out", type=_FILE)
@click.argument("folder", metavar="DIR", type=_FILE)
@click.option("--model", type=_FILE, required=True, help="Written by deepir-export or deepir-calib.")
@click.option("--label-pattern", metavar="REGEX", help="Take the label from the file name: the first group.")
@click.option("--far", type=float, default=FALSE_ACCEPTS, help="Wanted share of unknowns taken for a label.")
@click.option("--unknown", type=_FILE, help="Pictures of things that are not in DIR: they set the threshold.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out pictures that cannot be decoded.")
@click.option("--whiten", is_flag=True, help="Refit a whitening on the pictures below DIR; better with photographs.")
@click.option(
    "--whiten-images", type=_FILE, multiple=True, metavar="DIR", help="The same, and on the camera's photographs."
)
@click.option("--whiten-dim", type=int, help=f"Values to keep. [default: what the pictures carry, at most {MOST_DIM}]")
@click.option("--whiten-power", type=float, help=f"0 to 0.5. [default: {POWER}, {POWER_AGAIN} if the model whitens]")
@backend_options
@reports_errors
def build(out: Path, folder: Path, model: Path, label_pattern: str | None, **options: Any) -> None:
    """Index the pictures below DIR; the label is the sub-folder, or the file's name directly in DIR.

    A whitening fitted on the references and a dozen or more photographs from the camera helps a model that has never
    seen such things.  Without photographs, or where the model's own whitening was fitted on both, it can do harm.

    \b
    Example:
      deepir-index build shop.usearch products/ --model student.onnx
      deepir-index build shop.usearch products/ --model student.onnx --unknown other/ --far 0.05
      deepir-index build shop.usearch products/ --model student.onnx --whiten-images photographs/
      deepir-index build shop.usearch flat/ --model student.onnx --label-pattern '^(.+?)__'
    """  # noqa: D301 click needs the character
    started = time.monotonic()
    _check_target(out)
    images = find_labelled_images(folder, label_pattern)
    whiten = _whiten_config(options)
    with Extractor.open(model, read_backend_options(options)) as extractor:
        index = DescriptorIndex.create(extractor.card, model, far=options["far"])
        _enrol(index, extractor, images, skip_unreadable=options["skip_unreadable"], whiten=whiten)
        if options["unknown"] is not None:
            unknown_nd = extractor.describe_files(list_images(options["unknown"]))
            index.fit_threshold_to_unknown(unknown_nd, options["far"])
    index.save(out)
    _report_written(out, index, started)
    _hint_at_unknown(index)
    click.echo(f"next: deepir-run camera0 --index {out}", err=True)


@main.command()
@click.argument("index_path", metavar="INDEX", type=_FILE)
@click.argument("label")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=_FILE)
@_model
@backend_options
@reports_errors
def add(index_path: Path, label: str, images: tuple[Path, ...], model: Path | None, **options: Any) -> None:
    """Add pictures of LABEL, a new one or one that is there.

    \b
    Example:
      deepir-index add shop.usearch oat-milk-1l front.jpg back.jpg
    """  # noqa: D301 click needs the character
    started = time.monotonic()
    index = DescriptorIndex.open(index_path)
    with Extractor.open(model or find_model(index, index_path), read_backend_options(options)) as extractor:
        index.check_model(extractor.card)
        _enrol(index, extractor, [LabelledImage(path, label) for path in images])
    index.save(index_path)
    _report_written(index_path, index, started)
    click.echo(f"next: deepir-index query {index_path} {images[0]}", err=True)


@main.command()
@click.argument("index_path", metavar="INDEX", type=_FILE)
@click.argument("label")
@reports_errors
def remove(index_path: Path, label: str) -> None:
    """Forget LABEL and all its pictures.

    \b
    Example:
      deepir-index remove shop.usearch oat-milk-1l
    """  # noqa: D301 click needs the character
    started = time.monotonic()
    index = DescriptorIndex.open(index_path)
    removed = index.remove(label)
    index.save(index_path)
    click.echo(f"removed {removed} items of {label}; {backup_of(index_path)} still holds them: delete it", err=True)
    _report_written(index_path, index, started)
    click.echo(f"next: deepir-index info {index_path}", err=True)


@main.command()
@click.argument("index_path", metavar="INDEX", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reports_errors
def info(index_path: Path, *, as_json: bool) -> None:
    """Say what an index holds and which model made it.

    \b
    Example:
      deepir-index info shop.usearch
    """  # noqa: D301 click needs the character
    index = DescriptorIndex.open(index_path)
    facts = index_facts(index, index_path)
    click.echo(json.dumps(facts) if as_json else describe_index(facts))


@main.command()
@click.argument("index_path", metavar="INDEX", type=_FILE)
@click.argument("image", type=_FILE)
@click.option("--topk", type=int, default=TOP_LABELS, help="Labels listed.")
@threshold_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_model
@backend_options
@reports_errors
def query(index_path: Path, image: Path, threshold: float | Literal["auto"], *, as_json: bool, **options: Any) -> None:
    """Name what IMAGE shows.

    \b
    Example:
      deepir-index query shop.usearch photograph.jpg
    """  # noqa: D301 click needs the character
    pixels = read_image(image)
    with Recogniser.open(
        index_path,
        options["model"],
        threshold=threshold,
        options=read_backend_options(options),
        top_labels=options["topk"],
    ) as recogniser:
        if recogniser.threshold is None:
            click.echo(NO_THRESHOLD, err=True)
        facts = recognition_facts(recogniser(pixels), recogniser.threshold, image)
    click.echo(json.dumps(facts) if as_json else recognition_text(facts))


main.add_command(near_command)


def _enrol(
    index: DescriptorIndex,
    extractor: Extractor,
    images: list[LabelledImage],
    *,
    skip_unreadable: bool = False,
    whiten: WhitenConfig | None = None,
) -> None:
    photographs = () if whiten is None else whiten.photographs
    with progress_bar("describing", len(images) + sum(map(len, photographs))) as advance:
        skipped = enrol(index, extractor, images, skip_unreadable=skip_unreadable, whiten=whiten, advance=advance)
    if skipped:
        click.echo(f"warning: left out {len(skipped)} unreadable pictures, the first is {skipped[0]}", err=True)
    if whiten is not None:
        click.echo(f"whitened: {index.whitening}", err=True)
    if whiten is not None and not photographs:
        click.echo(_WITHOUT_PHOTOGRAPHS, err=True)


def _whiten_config(options: dict[str, Any]) -> WhitenConfig | None:
    if options["whiten"] or options["whiten_images"]:
        groups = tuple(tuple(list_images(folder)) for folder in options["whiten_images"])
        return WhitenConfig(photographs=groups, dim=options["whiten_dim"], power=options["whiten_power"])
    if options["whiten_dim"] is not None or options["whiten_power"] is not None:
        message = "--whiten-dim and --whiten-power say how to whiten: give --whiten or --whiten-images DIR with them"
        raise OptionError(message)
    return None


def _report_written(path: Path, index: DescriptorIndex, started: float) -> None:
    threshold = index.threshold
    click.echo(
        f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB): {len(index)} items, {len(index.labels)} labels, "
        f"threshold {'none' if threshold is None else f'{threshold.value:.3f}'}, "
        f"{time.monotonic() - started:.1f} seconds",
        err=True,
    )


def _check_target(out: Path) -> None:
    if out.is_dir() or not out.parent.is_dir():
        message = f"cannot write {out}: it is a folder, or its folder {out.parent} does not exist"
        raise InputError(message)


def _hint_at_unknown(index: DescriptorIndex) -> None:
    threshold = index.threshold
    if threshold is not None and threshold.basis == "views" and threshold.value > _ALIKE:
        click.echo(
            f"warning: the threshold {threshold.value:.3f} is high because some labels look nearly alike, so much will "
            "be unknown: give pictures of other things with --unknown DIR, or a value with deepir-run --threshold",
            err=True,
        )


if __name__ == "__main__":
    main()
