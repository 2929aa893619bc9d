"""deepir-index: make an index of labelled pictures, change it, ask it, judge it, keep it whole."""

import click

from deepir.command_line import introduces_itself
from deepir.runtime.index_build_cli import add, build
from deepir.runtime.index_calibrate_cli import calibrate_command
from deepir.runtime.index_confusions_cli import confusions_command
from deepir.runtime.index_exchange_cli import export_command, import_command
from deepir.runtime.index_file_cli import info_command, repair_command, verify_command
from deepir.runtime.index_items_cli import compact_command, ls_command, relabel_command, remove_command
from deepir.runtime.index_merge_cli import merge_command
from deepir.runtime.index_query_cli import query
from deepir.runtime.index_rebuild_cli import rebuild_command
from deepir.runtime.index_review_cli import review_command
from deepir.runtime.index_score_cli import eval_command
from deepir.runtime.near import near_command

_COMMANDS = (
    *(build, add, remove_command, relabel_command, merge_command, compact_command, rebuild_command),
    *(query, near_command, ls_command, info_command),
    *(calibrate_command, eval_command, confusions_command, review_command),
    *(verify_command, repair_command, export_command, import_command),
)


@introduces_itself
@click.group(context_settings={"auto_envvar_prefix": "DEEPIR_INDEX", "show_default": True})
def main() -> None:
    """Make an index of labelled pictures, change it, ask it, judge it, keep it whole.

    \b
    Example:
      deepir-index build shop.usearch products/ --model student.onnx
    """  # noqa: D301 click needs the character


for _command in _COMMANDS:
    main.add_command(_command)


if __name__ == "__main__":
    main()
