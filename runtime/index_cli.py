"""deepir-index: make an index of labelled pictures, change it, ask it, judge it, keep it whole."""

import click

from deepir.runtime.index_build_cli import add, build
from deepir.runtime.index_query_cli import query
from deepir.runtime.index_rebuild_cli import rebuild_command
from deepir.runtime.near import near_command


@click.group(context_settings={"auto_envvar_prefix": "DEEPIR_INDEX", "show_default": True})
def main() -> None:
    """Make an index of labelled pictures, change it, ask it, judge it, keep it whole.

    \b
    Example:
      deepir-index build shop.usearch products/ --model student.onnx
    """  # noqa: D301 click needs the character


for _command in (build, add, query, near_command, rebuild_command):
    main.add_command(_command)


if __name__ == "__main__":
    main()
