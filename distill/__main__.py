"""`python -m deepir.distill`: the commands of deepir-distill, as torchrun starts them in several processes."""

import contextlib
import os

from deepir.distill.cli import main


def run() -> None:
    """Run the command; of several processes the first one alone speaks.

    What the others say is what the first one says, but for a crash, whose traceback still comes through.
    """
    with contextlib.ExitStack() as stack:
        if int(os.environ.get("RANK", "0")) > 0:
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
            stack.enter_context(contextlib.redirect_stderr(silence))
        main(prog_name="deepir-distill")


if __name__ == "__main__":
    run()
