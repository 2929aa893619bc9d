"""deepir-distill collect and codebook: data sets of one size, and what came before region descriptors."""

from pathlib import Path
from typing import Any

import click

from deepir.datasets import read_picture_paths, read_retrieval_sets
from deepir.distill.codebook import KINDS
from deepir.distill.collect import CollectConfig, collect
from deepir.distill.collect_source import ClassLimits, Listing, read_listing
from deepir.distill.download import download, read_url_csv
from deepir.distill.fetch import FetchConfig
from deepir.errors import InputError, reports_errors
from deepir.spec import parse_size

_FILE = click.Path(path_type=Path)
_COLLECT = CollectConfig()
_FETCH = FetchConfig()


@click.command("collect", context_settings={"show_default": True})
@click.argument("source", type=_FILE)
@click.argument("out", type=_FILE)
@click.option("--size", default="384x512", help="HEIGHTxWIDTH of all pictures; 288x384 is published too.")
@click.option("--fit", type=click.Choice(["crop", "stretch"]), default=_COLLECT.fit, help="How pictures meet the size.")
@click.option("--crops", type=int, default=_COLLECT.crops, help="Random crops beside each picture.")
@click.option("--seed", type=int, default=_COLLECT.seed, help="Of the crops.")
@click.option("--keep-small", is_flag=True, help="Enlarge pictures smaller than the size; else they are left out.")
@click.option("--min-pictures", type=int, default=1, help="Leave out labels with fewer.")
@click.option("--max-pictures", type=int, help="Leave out labels with more.")
@click.option("--lists", type=_FILE, multiple=True, help='Take what this list of "path label" lines names in SOURCE.')
@click.option("--downloads", type=_FILE, help="Where pictures of a CSV are kept as they came. [default: OUT.downloads]")
@click.option("--threads", type=int, default=_FETCH.threads, help="Downloads at a time.")
@click.option("--timeout", type=float, default=_FETCH.timeout, help="Seconds to wait for a server's answer.")
@click.option("--most-mib", type=int, default=_FETCH.most_mib, help="Larger downloads are broken.")
@click.option("--retry-broken", is_flag=True, help="Try again the downloads that failed before.")
@click.option("-q", "--quiet", is_flag=True, help="No lines for people.")
@reports_errors
def collect_command(source: Path, out: Path, *, quiet: bool, **options: Any) -> None:
    """Bring labelled pictures to one size: OUT/<label>/*.jpg and OUT/manifest.json.

    SOURCE is a folder of label folders, a list of "path label" lines, or a CSV with the columns id, url and
    landmark_id, whose pictures are downloaded.  The same command again goes on where it stopped.

    \b
    Example:
      deepir-distill collect photos/ photos-384x512/ --crops 2
      deepir-distill collect landmarks/ clean/ --lists annotation_clean_train.txt
      deepir-distill collect train.csv landmarks/ --size 288x384 --min-pictures 100 --max-pictures 1000
    """  # noqa: D301 click needs the character

    def report(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    limits = ClassLimits(fewest=options["min_pictures"], most=options["max_pictures"])
    config = CollectConfig(
        size=parse_size(options["size"]),
        limits=limits,
        **{name: options[name] for name in ("fit", "crops", "seed", "keep_small")},
    )
    if source.suffix.lower() == ".csv":
        fetch = FetchConfig(**{name: options[name] for name in ("threads", "timeout", "most_mib", "retry_broken")})
        folder = options["downloads"] or out.with_name(out.name + ".downloads")
        listing = download(read_url_csv(source), folder, fetch, limits=limits, report=report)
    else:
        listing = read_listing(source, options["lists"])
    manifest = collect(listing, out, config, report)
    for line in _summary(manifest, listing):
        report(line)
    report(f"next: deepir-distill train {out} -o teacher.safetensors")


@click.command("codebook", context_settings={"show_default": True})
@click.argument("model", type=_FILE)
@click.option("--images", type=_FILE, multiple=True, required=True, help="Pictures to find the words in.")
@click.option("-o", "--out", type=_FILE, required=True, help="The codebook to write (.safetensors).")
@click.option("--kind", type=click.Choice(KINDS), default="vlad", help="What a picture becomes.")
@click.option("--words", type=int, default=16, help="Words, or Gaussians for fisher.")
@click.option("--seed", type=int, default=0)
@click.option("--score", "scored", type=_FILE, help="A data set to score it on, as for deepir-eval.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1.")
@reports_errors
def codebook_command(model: Path, images: tuple[Path, ...], out: Path, *, scored: Path | None, **options: Any) -> None:
    """Fit a bag of words, VLAD or Fisher codebook on the cells of MODEL's last map.

    These are what came before region descriptors, for comparison; the whitening of MODEL is not used.

    \b
    Example:
      deepir-distill codebook teacher.safetensors --images photos/ --kind vlad --words 16 -o words.safetensors
    """  # noqa: D301 click needs the character
    from deepir.distill.checkpoint import load_model
    from deepir.distill.codebook_model import fit_codebook_on, save_codebook, score_with
    from deepir.distill.device import find_device

    if out.suffix != ".safetensors" or not out.parent.is_dir():
        message = f"cannot write {out}: give a name ending in .safetensors in a folder that exists"
        raise InputError(message)
    paths = [path for source in images for path in read_picture_paths(source)]
    loaded = load_model(model)
    find_device(options["device"]).place(loaded.network).eval()
    codebook = fit_codebook_on(loaded, paths, options["words"], options["kind"], seed=options["seed"])
    save_codebook(codebook, out)
    click.echo(f"wrote {out}: {codebook.kind}, {codebook.words} words, {codebook.dim} values", err=True)
    for name, dataset in ({} if scored is None else read_retrieval_sets(scored)).items():
        scores = score_with(codebook, loaded, dataset)
        click.echo(f"{name}: mAP {scores.mean_ap:.4f}, recall@1 {scores.recall_at[1]:.4f}")


def _summary(manifest: dict[str, Any], listing: Listing) -> list[str]:
    counts = manifest["counts"]
    found = f"{counts['files']} files of {counts['pictures']} pictures with {counts['labels']} labels"
    reasons = {reason: names for reason, names in manifest["left_out"].items() if names}
    return [
        f"collected {found} from {listing.root}",
        *(f"left out, {reason}: {len(names)}, the first is {names[0]}" for reason, names in reasons.items()),
    ]
