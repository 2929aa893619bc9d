"""deepir-calib report: what a calibration did, as a table, a page and JSON."""

from pathlib import Path

import click

from deepir.calib.report import findings_json, read_findings
from deepir.calib.report_page import findings_page
from deepir.calib.report_text import findings_text
from deepir.datasets import read_picture_paths
from deepir.errors import InputError, reports_errors
from deepir.files import write_text

_FILE = click.Path(path_type=Path)


@click.command("report")
@click.argument("file", metavar="MODEL.int8.onnx", type=_FILE)
@click.option("--images", "folder", type=_FILE, help="Measure what each block damages on these pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("-o", "--out", type=_FILE, help="HTML page to write.  [default: MODEL.int8.html]")
@reports_errors
def report_command(file: Path, folder: Path | None, out: Path | None, *, as_json: bool) -> None:
    """Show what became of a calibration: verdicts, damage by block, ranges and saturation.

    Reads the record beside the file and the FP32 file that it names, and writes a page that needs nothing else.

    \b
    Example:
      deepir-calib report student.int8.onnx
    """  # noqa: D301 click needs the character
    page = out or file.with_suffix(".html")
    _check_place(page)
    images = read_picture_paths(folder) if folder else []
    findings = read_findings(file, images, lambda line: click.echo(line, err=True))
    write_text(page, findings_page(findings))
    if as_json:
        click.echo(findings_json(findings))
    else:
        click.echo(f"{findings_text(findings)}\n\nwrote {page}")


def _check_place(page: Path) -> None:
    """Refuse, before anything is measured, a place where no page can be written, or one that looks like a model's."""
    if page.suffix not in (".html", ".htm") or page.is_dir() or not page.parent.is_dir():
        message = f"cannot write the page {page}: it must end in .html and its folder {page.parent} must exist"
        raise InputError(message)
