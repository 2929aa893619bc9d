"""The figures of a training: a line for people, a line of JSON for each epoch, and TensorBoard where wanted."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepir.distill.epochs import Progress
from deepir.errors import MissingDependency
from deepir.files import write_text
from deepir.optional import need

_FOR_MACHINES = ("epoch", "seed")


class Journal:
    """Takes the figures of each epoch; in all processes but the first it takes them silently.

    Args:
        progress: Where the lines go.
        epochs: How many there will be, for the time that is left.
        tensorboard: Folder of TensorBoard's events; None for none.
        first: Whether this process writes and speaks.

    Raises:
        MissingDependency: TensorBoard is wanted and not installed.
    """

    def __init__(self, progress: Progress, epochs: int, tensorboard: Path | None, *, first: bool) -> None:
        self._progress = progress
        self._epochs = epochs
        self._first = first
        self._board = _open_board(tensorboard) if first and tensorboard is not None else None

    def tell(self, line: str) -> None:
        """A line for people."""
        if self._first:
            self._progress.report(line)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """All rows to the file, the last one to TensorBoard and as a line for people."""
        if not self._first:
            return
        write_text(self._progress.log_path, "".join(json.dumps(row) + "\n" for row in rows))
        row = rows[-1]
        if self._board is not None:
            for name, value in row.items():
                if name not in _FOR_MACHINES:
                    self._board.add_scalar(name, value, row["epoch"])
        self.tell(self._line(row))

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()

    def _line(self, row: dict[str, Any]) -> str:
        left = math.ceil((self._epochs - row["epoch"]) * row["seconds"])
        values = " ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in _FOR_MACHINES)
        return f"epoch {row['epoch']:>{len(str(self._epochs))}}/{self._epochs} {values} left {left} s"


def _open_board(folder: Path) -> Any:
    try:
        return need("torch.utils.tensorboard").SummaryWriter(str(folder))
    except MissingDependency as error:
        message = "TensorBoard is not installed: pip install tensorboard, or leave out --tensorboard"
        raise MissingDependency(message) from error
