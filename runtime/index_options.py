"""Options that several commands of deepir-index share."""

from pathlib import Path

import click

from deepir.runtime.index_lock import WAIT

FILE = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

wait_option = click.option(
    "--wait", type=float, default=WAIT, metavar="SECONDS", help="How long to wait for a program that is changing INDEX."
)
