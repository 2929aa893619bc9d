"""deepir-index calibrate: where an index's answers begin to count, and what that rests on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deepir.descriptors import Descriptors
from deepir.errors import reports_errors
from deepir.image import list_images
from deepir.runtime.backend_cli import backend_options, read_backend_options
from deepir.runtime.calibration import Calibration, calibrate
from deepir.runtime.extractor import Extractor
from deepir.runtime.index import Index
from deepir.runtime.index_options import FILE, json_option, wait_option
from deepir.runtime.index_saving import finish
from deepir.runtime.progress import progress_bar
from deepir.runtime.query_pictures import describe_together
from deepir.runtime.recogniser import Judgement, find_model
from deepir.runtime.threshold import check_far

_DIGITS = 6


_OF_A_TEACHER = (
    "warning: a teacher described the stored views, which resemble each other more than queries resemble them, so this "
    "threshold lets little pass: give pictures of other things with --unknown DIR"
)


@click.command("calibrate", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.option("--far", type=float, help="Wanted share of unknowns taken for a label. [default: as in INDEX]")
@click.option("--unknown", type=FILE, metavar="DIR", help="Pictures of things that are not in INDEX.")
@click.option("--margin", type=float, help="A second label nearer than this makes an answer ambiguous.")
@click.option("--curve", is_flag=True, help="Show for each threshold what it lets pass.")
@click.option("--model", type=FILE, help="The model, if not where the index expects it.")
@wait_option
@json_option
@backend_options
@reports_errors
def calibrate_command(
    index_path: Path, far: float | None, margin: float | None, *, curve: bool, as_json: bool, **options: Any
) -> None:
    """Compute the threshold below which a picture is unknown, and keep it in INDEX.

    Without --unknown each stored view stands for an unknown thing: it is compared with the views of the other labels.
    Pictures of things that the camera will meet and that are not in INDEX make a better threshold.

    \b
    Example:
      deepir-index calibrate shop.usearch --unknown other/ --far 0.01 --curve
    """  # noqa: D301 click needs the character
    backend = read_backend_options(options)
    with Index.open(index_path, write=True, wait=options["wait"]) as index:
        wanted = index.footer.far if far is None else far
        check_far(wanted)
        Judgement(margin="auto" if margin is None else margin)
        unknown_nd = None
        if options["unknown"] is not None:
            with Extractor.open(options["model"] or find_model(index, index_path), backend) as extractor:
                index.check_model(extractor.card)
                unknown_nd = _describe(extractor, options["unknown"])
        calibration = calibrate(index, wanted, unknown_nd)
        if margin is not None:
            index.set(margin=margin)
        outcome, kept_margin, asymmetric = finish(index), index.margin, index.footer.references is not None
    _report(calibration, kept_margin)
    if asymmetric and unknown_nd is None:
        click.echo(_OF_A_TEACHER, err=True)
    if as_json:
        click.echo(json.dumps(_facts(index_path, calibration, kept_margin, curve=curve)))
    elif curve:
        _draw(calibration)
    click.echo(outcome, err=True)
    click.echo(f"next: deepir-index eval {index_path} QUERIES", err=True)


def _describe(extractor: Extractor, folder: Path) -> Descriptors:
    paths = list_images(folder)
    with progress_bar("describing", len(paths)) as advance:
        described = describe_together(extractor, paths, advance)
    if described.blank:
        click.echo(f"left out {len(described.blank)} blank pictures, the first is {described.blank[0]}", err=True)
    return described.descriptors_nd


def _report(calibration: Calibration, margin: float) -> None:
    threshold = calibration.threshold
    what = "stored views, each compared with the other labels"
    if threshold.basis == "unknown":
        what = "pictures of unknown things"
    reached = calibration.at(threshold.value)
    click.echo(
        f"threshold {threshold.value:.4f} for {threshold.far:g} false accepts, from {threshold.impostors} {what}; "
        f"{reached.impostors:.2%} of {len(calibration.impostors_n)} reach it; margin {margin:g}",
        err=True,
    )
    if reached.own is not None:
        click.echo(
            f"{reached.own:.1%} of {len(calibration.nearest.own_m)} stored views reach it by another view of their "
            "label",
            err=True,
        )
    for sentence in calibration.warnings():
        click.echo(f"warning: {sentence}", err=True)


def _draw(calibration: Calibration) -> None:
    click.echo("threshold  impostors  own views")
    for point in calibration.curve():
        own = "" if point.own is None else f"{point.own:9.2%}"
        click.echo(f"{point.threshold:9.4f}  {point.impostors:9.2%}  {own}".rstrip())


def _facts(path: Path, calibration: Calibration, margin: float, *, curve: bool) -> dict[str, Any]:
    threshold, nearest = calibration.threshold, calibration.nearest
    reached = calibration.at(threshold.value)
    return {
        "path": str(path),
        "threshold": threshold.value,
        "far": threshold.far,
        "basis": threshold.basis,
        "impostors": threshold.impostors,
        "impostors_above": round(reached.impostors, _DIGITS),
        "own_views": len(nearest.own_m),
        "own_above": None if reached.own is None else round(reached.own, _DIGITS),
        "margin": margin,
        "warnings": list(calibration.warnings()),
        **({"curve": [asdict(point) for point in calibration.curve()]} if curve else {}),
    }
