"""Options that several commands of deepir-index share."""

from pathlib import Path

import click

from deepir.errors import InputError
from deepir.files import check_apart
from deepir.runtime.index_lock import WAIT

FILE = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

wait_option = click.option(
    "--wait", type=float, default=WAIT, metavar="SECONDS", help="How long to wait for a program that is changing INDEX."
)


def check_target(out: Path, index_path: Path | None = None) -> None:
    """Refuse a file that cannot be written, before the work is done.

    Args:
        out: The file.
        index_path: That is read, and stays.

    Raises:
        InputError: It is a folder, or its folder does not exist.
        OptionError: It is the index.
    """
    check_apart({"the output": out}, {"the index": index_path})
    if out.is_dir() or not out.parent.is_dir():
        message = f"cannot write {out}: it is a folder, or its folder {out.parent} does not exist"
        raise InputError(message)
