"""deepir-index export and import: an index for other programs, and theirs as an index."""

import json
import time
from pathlib import Path

import click

from deepir.card import ModelCard
from deepir.errors import reports_errors
from deepir.runtime.backend import BackendOptions
from deepir.runtime.codes import DTYPES, Dtype
from deepir.runtime.exchange import FORMATS, Format, export_index, import_index
from deepir.runtime.exchange_faiss import labels_beside
from deepir.runtime.extractor import Extractor
from deepir.runtime.index_options import FILE, check_target, json_option

_ONNX = ".onnx"


@click.command("export", context_settings={"show_default": True})
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="The file to write.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="[default: what the suffix of the file says]")
@json_option
@reports_errors
def export_command(index_path: Path, out: Path, form: Format | None, *, as_json: bool) -> None:
    """Write the descriptors, labels, pictures' names and metadata of INDEX for other programs.

    .npz holds all of it for numpy and for deepir-index import, .jsonl one object for each view, .faiss an
    IndexIDMap2 of faiss whose ids are the keys, with the labels beside it.

    \b
    Example:
      deepir-index export shop.usearch -o shop.npz
      deepir-index export shop.usearch -o shop.faiss
    """  # noqa: D301 click needs the character
    started = time.monotonic()
    check_target(out, index_path)
    exchanged = export_index(index_path, out, form)
    count, dim = exchanged.descriptors_nd.shape
    if exchanged.whitened:
        click.echo("warning: these descriptors went through the map of the index, as queries must then too", err=True)
    beside = f" and {labels_beside(out)}" if labels_beside(out).exists() and (form or out.suffix[1:]) == "faiss" else ""
    click.echo(
        f"wrote {out}{beside} ({out.stat().st_size / 1e6:.2f} MB): {count} descriptors of {dim} values, "
        f"{time.monotonic() - started:.1f} seconds",
        err=True,
    )
    if as_json:
        facts = {"path": str(out), "items": count, "dim": dim, "model": exchanged.model, "whitened": exchanged.whitened}
        click.echo(json.dumps(facts))
    click.echo(f"next: deepir-index import {out} NEW.usearch --model MODEL.onnx", err=True)


@click.command("import", context_settings={"show_default": True})
@click.argument("file", type=FILE)
@click.argument("index_path", metavar="INDEX", type=FILE)
@click.option("--model", type=FILE, required=True, help="The model that made the descriptors.")
@click.option("--labels", type=FILE, help="JSON lines with key and label, for files that hold no labels.")
@click.option("--dtype", type=click.Choice(DTYPES), help="How descriptors are stored. [default: as FILE says, else i8]")
@json_option
@reports_errors
def import_command(
    file: Path, index_path: Path, model: Path, labels: Path | None, dtype: Dtype | None, *, as_json: bool
) -> None:
    """Make INDEX of the descriptors in FILE: .npz, .jsonl, .faiss, or an index that another program made with usearch.

    \b
    Example:
      deepir-index import shop.npz shop.usearch --model student.onnx
      deepir-index import theirs.usearch ours.usearch --model student.onnx --labels theirs.jsonl
    """  # noqa: D301 click needs the character
    started = time.monotonic()
    check_target(index_path)
    index, mended = import_index(file, _card_of(model), model, index_path, labels, dtype)
    for line in mended:
        click.echo(f"warning: {line}", err=True)
    index.save(index_path)
    threshold = None if index.threshold is None else index.threshold.value
    click.echo(
        f"wrote {index_path} ({index_path.stat().st_size / 1e6:.2f} MB): {len(index)} items, {len(index.labels)} "
        f"labels, threshold {'none' if threshold is None else f'{threshold:.3f}'}, "
        f"{time.monotonic() - started:.1f} seconds",
        err=True,
    )
    if as_json:
        facts = {"path": str(index_path), "items": len(index), "labels": len(index.labels), "threshold": threshold}
        click.echo(json.dumps({**facts, "mended": mended}))
    click.echo(f"next: deepir-index info {index_path}", err=True)


def _card_of(model: Path) -> ModelCard:
    # which program is the fastest on this machine does not matter: nothing is described
    plain = BackendOptions(backend="onnxruntime", device="cpu") if model.suffix.lower() == _ONNX else None
    with Extractor.open(model, plain) as extractor:
        return extractor.card
