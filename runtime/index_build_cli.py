"""deepir-index build and add: pictures become views of an index."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from deepir.datasets import LabelledImage
from deepir.errors import InputError, OptionError, ShapeError, reports_errors
from deepir.image import list_images
from deepir.runtime.asymmetric import check_compatible, fit_threshold_to_student
from deepir.runtime.backend_cli import backend_options, read_backend_options
from deepir.runtime.codes import DTYPES
from deepir.runtime.enrol import Enrolled, Enrolment, enrol, find_labelled_images
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index, reference_to
from deepir.runtime.index_footer import MARGIN
from deepir.runtime.index_lock import WAIT
from deepir.runtime.index_saving import finish
from deepir.runtime.items import Metadata
from deepir.runtime.pictures import SIDE
from deepir.runtime.pose import read_pose, read_time
from deepir.runtime.progress import progress_bar
from deepir.runtime.recogniser import find_model
from deepir.runtime.threshold import FALSE_ACCEPTS
from deepir.runtime.whiten_cli import read_whitening, whitening_options

_ALIKE = 0.9
"""A threshold from stored views above this means that some labels look nearly alike."""

_FEW_VIEWS = 1.5
"""Of each label, in the mean: most have one."""

_WITHOUT_PHOTOGRAPHS = (
    "warning: fitted on the references alone, the whitening may do harm: of 100 shop photographs it set up to 6 right "
    "and up to 16 wrong (docs/benchmarks.md); give a dozen photographs from the camera with --whiten-images DIR"
)

_FILE = click.Path(path_type=Path)
_enrolling = [
    click.option("--keep-all", is_flag=True, help="Also pictures that repeat another of their label, or are blurred."),
    click.option("--skip-unreadable", is_flag=True, help="Leave out pictures that cannot be decoded."),
    click.option(
        "--thumbnails",
        type=int,
        is_flag=False,
        flag_value=SIDE,
        metavar="[PIXELS]",
        help=f"Keep small copies beside the index, for rebuild and for looking at. [{SIDE} when no size is given]",
    ),
    click.option("--metadata", metavar="JSON", help="Stored with every view, given back with a hit."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
]


def _enrolling_options(command: Any) -> Any:
    for option in reversed(_enrolling):
        command = option(command)
    return command


@click.command()
@click.argument("out", type=_FILE)
@click.argument("folder", metavar="DIR", type=_FILE)
@click.option("--model", type=_FILE, required=True, help="Written by deepir-export or -calib; describes queries.")
@click.option("--with", "teacher", type=_FILE, help="Describes DIR: the teacher that MODEL was distilled from.")
@click.option("--label-pattern", metavar="REGEX", help="Take the label from the file name: the first group.")
@click.option("--dtype", type=click.Choice(DTYPES), default="i8", help="How descriptors are stored.")
@click.option("--far", type=float, default=FALSE_ACCEPTS, help="Wanted share of unknowns taken for a label.")
@click.option("--margin", type=float, default=MARGIN, help="A second label nearer than this makes an answer ambiguous.")
@click.option("--unknown", type=_FILE, help="Pictures of things that are not in DIR: they set the threshold.")
@whitening_options
@_enrolling_options
@backend_options
@reports_errors
def build(out: Path, folder: Path, model: Path, teacher: Path | None, **options: Any) -> None:
    """Index the pictures below DIR; the label is the sub-folder, or the file's name directly in DIR.

    A whitening fitted on the references and a dozen or more photographs from the camera helps a model that has never
    seen such things.  Without photographs, or where the model's own whitening was fitted on both, it can do harm.

    \b
    Example:
      deepir-index build shop.usearch products/ --model student.onnx
      deepir-index build shop.usearch products/ --model student.onnx --unknown other/ --far 0.05
      deepir-index build shop.usearch products/ --model student.onnx --with teacher.onnx
      deepir-index build shop.usearch products/ --model student.onnx --whiten-images photographs/
      deepir-index build shop.usearch flat/ --model student.onnx --label-pattern '^(.+?)__'
    """  # noqa: D301 click needs the character
    started = time.monotonic()
    if out.is_dir() or not out.parent.is_dir():
        message = f"cannot write {out}: it is a folder, or its folder {out.parent} does not exist"
        raise InputError(message)
    images = find_labelled_images(folder, options["label_pattern"])
    enrolment = replace(_enrolment(out, options), whiten=read_whitening(options))
    backend = read_backend_options(options)
    with contextlib.ExitStack() as stack:
        student = stack.enter_context(Extractor.open(model, backend))
        index = Index.create(student.card, model, far=options["far"], dtype=options["dtype"])
        index.set(margin=options["margin"])
        describer, references = student, None
        if teacher is not None:
            describer = stack.enter_context(Extractor.open(teacher, backend))
            paths = [image.path for image in images]
            fit = check_compatible(student, describer, paths, skip_unreadable=enrolment.skip_unreadable)
            references = reference_to(describer.card, teacher)
            click.echo(f"with {teacher}: {fit}", err=True)
        index.setup(references=references, thumbnails=enrolment.thumbnails)
        done = _enrol(index, describer, images, enrolment)
        if options["unknown"] is not None:
            index.fit_threshold_to_unknown(student.describe_files(list_images(options["unknown"])), options["far"])
        elif teacher is not None:
            fit_threshold_to_student(index, student, out, options["far"])
    index.save(out)
    click.echo(f"wrote {out}", err=True)
    _report(out, index, done, started, as_json=options["as_json"])
    _hint_at_unknown(index, out)
    click.echo(f"next: deepir-run camera0 --index {out}", err=True)


@click.command()
@click.argument("index_path", metavar="INDEX", type=_FILE)
@click.argument("label")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=_FILE)
@click.option("--model", type=_FILE, help="The model, if not where the index expects it.")
@click.option("--wait", type=float, default=WAIT, help="Seconds to wait for another program that changes INDEX.")
@_enrolling_options
@backend_options
@reports_errors
def add(index_path: Path, label: str, images: tuple[Path, ...], model: Path | None, **options: Any) -> None:
    """Add pictures of LABEL, a new one or one that is there; folders stand for the pictures below them.

    \b
    Example:
      deepir-index add shop.usearch oat-milk-1l front.jpg back.jpg
      deepir-index add shop.usearch tea/green/100g photos/ --metadata '{"price": 2.49}'
    """  # noqa: D301 click needs the character
    started = time.monotonic()
    backend = read_backend_options(options)
    paths = [path for given in images for path in (list_images(given) if given.is_dir() else [given])]
    with Index.open(index_path, write=True, wait=options["wait"]) as index:
        enrolment = _enrolment(index_path, options, index.footer.thumbnails)
        with Extractor.open(model or find_model(index, index_path, references=True), backend) as extractor:
            index.check_model(extractor.card, references=True)
            done = _enrol(index, extractor, [LabelledImage(path, label) for path in paths], enrolment)
        click.echo(finish(index), err=True)
        _report(index_path, index, done, started, as_json=options["as_json"])
    click.echo(f"next: deepir-index query {index_path} {paths[0]}", err=True)


def _enrolment(index_path: Path, options: dict[str, Any], side: int | None = None) -> Enrolment:
    return Enrolment(
        index_path=index_path,
        keep_all=options["keep_all"],
        skip_unreadable=options["skip_unreadable"],
        thumbnails=side if options["thumbnails"] is None else options["thumbnails"],
        metadata=read_metadata(options["metadata"]),
    )


def read_metadata(text: str | None) -> Metadata:
    """The text of --metadata.

    Raises:
        OptionError: Not a JSON object, or its pose or time is none, so that no place could be looked for in the index.
    """
    try:
        metadata = {} if text is None else json.loads(text)
    except ValueError as error:
        message = f"--metadata takes a JSON object such as '{{\"price\": 2.49}}', got {text!r} ({error})"
        raise OptionError(message) from error
    if not isinstance(metadata, dict):
        message = f"--metadata takes a JSON object such as '{{\"price\": 2.49}}', got {text!r}"
        raise OptionError(message)
    try:
        read_pose(metadata), read_time(metadata)
    except ShapeError as error:
        message = f"--metadata {text!r}: {error}"
        raise OptionError(message) from error
    return metadata


def _enrol(index: Index, extractor: Extractor, images: list[LabelledImage], enrolment: Enrolment) -> Enrolled:
    photographs = () if enrolment.whiten is None else enrolment.whiten.photographs
    with progress_bar("describing", len(images) + sum(map(len, photographs))) as advance:
        done = enrol(index, extractor, images, enrolment, advance)
    for line in _left_out(done):
        click.echo(line, err=True)
    if enrolment.whiten is not None:
        click.echo(f"{enrolment.whiten.kind}: {index.whitening}", err=True)
        if enrolment.whiten.kind == "whitening" and not photographs:
            click.echo(_WITHOUT_PHOTOGRAPHS, err=True)
    return done


def _left_out(done: Enrolled) -> Iterator[str]:
    reasons = {
        "unreadable": done.unreadable,
        "repeated (the same as another picture of their label; --keep-all keeps them)": done.repeated,
        "blurred (far less sharp than the others of their label; --keep-all keeps them)": done.blurred,
    }
    for reason, paths in reasons.items():
        if paths:
            yield f"left out {len(paths)} pictures as {reason}, the first is {paths[0]}"


def _report(path: Path, index: Index, done: Enrolled, started: float, *, as_json: bool) -> None:
    threshold, recall = index.threshold, index.recall
    measured = "" if recall is None else f", recall@10 {recall.value:.3f} against exact search"
    click.echo(
        f"{path} ({path.stat().st_size / 1e6:.2f} MB): {len(done.keys)} new, {len(index)} items, "
        f"{len(index.labels)} labels, threshold {'none' if threshold is None else f'{threshold.value:.3f}'}{measured}, "
        f"{time.monotonic() - started:.1f} seconds",
        err=True,
    )
    if as_json:
        facts = {
            "path": str(path),
            "keys": done.keys,
            "items": len(index),
            "labels": len(index.labels),
            "threshold": None if threshold is None else threshold.value,
            "recall": None if recall is None else recall.value,
            **{name: [str(one) for one in getattr(done, name)] for name in ("unreadable", "repeated", "blurred")},
        }
        click.echo(json.dumps(facts))


def _hint_at_unknown(index: Index, path: Path) -> None:
    threshold = index.threshold
    if threshold is None or threshold.basis != "views":
        return
    if threshold.value > _ALIKE:
        why = "is high because some labels look nearly alike"
    elif len(index) < _FEW_VIEWS * len(index.labels):
        why = "was computed from the stored views, and most labels have one, so that nothing tells how alike two are"
    else:
        return
    click.echo(
        f"warning: the threshold {threshold.value:.3f} {why}, so much may be unknown: give pictures of other "
        f"things with deepir-index calibrate {path} --unknown DIR, or a value with deepir-run --threshold",
        err=True,
    )
