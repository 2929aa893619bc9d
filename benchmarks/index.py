"""deepir's index beside plain usearch, faiss and hnswlib, all with the same descriptors; Markdown tables.

    python benchmarks/index.py --photos PHOTOS --model student.onnx --size 0 --size 10000 --size 100000
    python benchmarks/index.py --descriptors FILE.npz --dim 512 --size 1000000 --only deepir-i8 --out table.md

First (size 0) with descriptors of photographs and of crops of them, then with made-up ones of the same spectrum. Each
way has a process of its own: it builds with all cores, saves, opens the file, which is in the system's cache, and
searches one query after the other for 10 neighbours. Where a library can be told how hard to search, it is told the
least that finds 99 % of the true neighbours, or else the least that finds hardly fewer than it can. faiss and hnswlib
are skipped where they are missing (pip install faiss-cpu hnswlib). Give the machine nothing else to do.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import numpy as np
from export_turns import call_apart
from index_descriptors import Sample, Spectrum, describe_photos, nearest, read_sample
from index_ways import COUNT, GOAL_RECALL, WAYS, Measured

from deepir.descriptors import Descriptors
from deepir.errors import OptionError, reports_errors
from deepir.files import write_text
from deepir.runtime.cache import machine_name

PACKAGES = ("numpy", "usearch", "faiss-cpu", "hnswlib")
COLUMNS = (
    "way", "how", "build s", "save s", "open ms", "mapped ms", "p50 ms", "p99 ms", f"recall@{COUNT}", "bytes an item",
)  # fmt: skip
QUERIES = 1000
SEED = 1
GOAL_WAY = "deepir-i8"
GOAL_FACTOR, GOAL_EXTRA = 1.4, 64


@dataclass(frozen=True, slots=True)
class Report:
    """Lines for stdout and, when all is measured or not, for a file."""

    lines: list[str]
    path: Path | None

    def add(self, *lines: str) -> None:
        """Print lines and keep them."""
        self.lines.extend(lines)
        click.echo("\n".join(lines))
        if self.path is not None:
            write_text(self.path, "\n".join(self.lines) + "\n")


def table(report: Report, database_nd: Descriptors, queries_qd: Descriptors, names: Sequence[str]) -> None:
    """Measure ways, one after the other, and add a row for each."""
    count, dim = database_nd.shape
    true_qk = nearest(database_nd, queries_qd, COUNT + 1)
    report.add(
        f"{len(queries_qd)} queries; similarity of the median query's first and {COUNT}th neighbour "
        f"{np.median(true_qk[:, 0]):.2f} and {np.median(true_qk[:, COUNT - 1]):.2f}, "
        f"from the {COUNT}th to the next {np.median(true_qk[:, COUNT - 1] - true_qk[:, COUNT]):.4f}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"| --- | --- |{' ---: |' * (len(COLUMNS) - 2)}",
    )
    load = os.getloadavg()[0]
    goal = ""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for name, array in {"database": database_nd, "queries": queries_qd, "least": true_qk[:, COUNT - 1]}.items():
            np.save(folder / f"{name}.npy", array)
        for name in names:
            click.echo(f"{count} x {dim}: {name}", err=True)
            try:
                measured: Measured = call_apart("index_ways:measure", name, folder)
            except RuntimeError as error:
                report.add(f"| {name} | skipped: {str(error).partition(': ')[2]} |{' - |' * (len(COLUMNS) - 2)}")
                continue
            report.add(row_of(name, measured, len(queries_qd)))
            if name == GOAL_WAY:
                goal = goal_line(measured, dim)
    report.add(
        "",
        *([goal, ""] if goal else []),
        f"The machine's load was {load:.1f} before, {os.getloadavg()[0]:.1f} after.",
        "",
    )


def row_of(name: str, measured: Measured, queries: int) -> str:
    """A row of the table."""
    fewer = f" ({measured.queries} queries)" if measured.queries < queries else ""
    cells = (
        name,
        measured.note + fewer,
        f"{measured.built:.3g}",
        f"{measured.saved:.2g}",
        f"{measured.opened:.3g}",
        "-" if measured.mapped is None else f"{measured.mapped:.3g}",
        f"{measured.median:.3g}",
        f"{measured.slowest:.3g}",
        f"{measured.recall:.4f}",
        f"{measured.size:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def goal_line(measured: Measured, dim: int) -> str:
    """Whether our index is as good and as small as it has to be."""
    allowed = GOAL_FACTOR * (dim + GOAL_EXTRA)
    verdict = "met" if measured.recall >= GOAL_RECALL and measured.size <= allowed else "missed"
    return (
        f"{GOAL_WAY}: recall {measured.recall:.4f} with {measured.size:.0f} bytes an item; the goal, {GOAL_RECALL} "
        f"with at most {allowed:.0f}, is **{verdict}**."
    )


def sample_of(photos: Path | None, model: Path | None, descriptors: Path | None, dim: int | None) -> Sample:
    """What was asked for, described now or before.

    Raises:
        OptionError: Both or neither.
    """
    if descriptors is not None and photos is None and model is None:
        sample = read_sample(descriptors)
    elif descriptors is None and photos is not None and model is not None:
        sample = describe_photos(photos, model, SEED)
    else:
        message = "give either --photos and --model, or --descriptors"
        raise OptionError(message)
    return sample if dim is None else sample.first_values(dim)


def databases(sample: Sample, sizes: Sequence[int]) -> Iterator[tuple[str, Descriptors, Descriptors]]:
    """For each size a heading, a database and queries; size 0 are the described pictures themselves."""
    spectrum = Spectrum(sample) if any(sizes) else None
    for size in sizes:
        rng = np.random.default_rng(SEED + size)
        if spectrum is None or size == 0:
            database_nd, queries_qd = sample.split(QUERIES, rng)
            yield "photographs and crops of them", database_nd, queries_qd
        else:
            rows_nd = spectrum.draw(size + QUERIES, rng)
            yield "made up with the same spectrum", rows_nd[:size], rows_nd[size:]


def versions() -> str:
    """The packages that are there."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


@click.command(context_settings={"show_default": True})
@click.option("--photos", type=click.Path(path_type=Path), help="Folder of photographs, to be described by --model.")
@click.option("--model", type=click.Path(path_type=Path), help="The .onnx file that describes them.")
@click.option("--descriptors", type=click.Path(path_type=Path), help=".npz file of descriptors and names instead.")
@click.option(
    "--size",
    "sizes",
    type=click.IntRange(0),
    multiple=True,
    default=(0, 10_000, 100_000),
    help="Descriptors to make up, 0 for the described ones; repeatable.",
)
@click.option("--dim", type=click.IntRange(8), help="Use so many values of each descriptor.  [default: all]")
@click.option(
    "--only", type=click.Choice(list(WAYS)), multiple=True, help="Way to measure; repeatable.  [default: all]"
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the tables to this file, too.")
@reports_errors
def main(  # noqa: PLR0913 one for each option
    *,
    photos: Path | None,
    model: Path | None,
    descriptors: Path | None,
    sizes: tuple[int, ...],
    dim: int | None,
    only: tuple[str, ...],
    out: Path | None,
) -> None:
    """Fill indexes with the same descriptors and print what they cost and find."""
    sample = sample_of(photos, model, descriptors, dim)
    report = Report([], out)
    report.add(f"{machine_name()}; {versions()}", "")
    for heading, database_nd, queries_qd in databases(sample, sizes):
        report.add(f"## {len(database_nd)} x {database_nd.shape[1]}, {heading}", "")
        table(report, database_nd, queries_qd, only or tuple(WAYS))


if __name__ == "__main__":
    main()
