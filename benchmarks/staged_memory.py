"""Peak memory of a training step over the batch size: in one graph, and in three stages (method.md 5).

    python benchmarks/staged_memory.py --out staged_memory.md

Each row is a process of its own, because a process does not give its peak back. The pictures are noise: memory does
not depend on what they show.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from deepir.distill.ap_loss import APLoss
from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import new_model
from deepir.distill.device import Device
from deepir.distill.optimise import Descent
from deepir.distill.pictures import set_training
from deepir.distill.sights import Batch, SightReader
from deepir.distill.stepper import StepForm, Stepper
from deepir.spec import Size

BATCHES = (64, 128, 256, 512, 1024, 2048)
PER_LABEL = 4
MIB = 1024
"""Linux counts the resident set in KiB."""


class Noise:
    """Pictures of one size, drawn from their numbers."""

    def __init__(self, side: int) -> None:
        self._side = side

    def __len__(self) -> int:
        return max(BATCHES)

    def sight(self, number: int, epoch: int, size: Size | None) -> Tensor:
        height, width = size or (self._side, self._side)
        return torch.randn(3, height, width, generator=torch.Generator().manual_seed(number + epoch))


def measure(trunk: str, side: int, batch: int, chunk: int | None) -> dict[str, float]:
    """Memory and time of one step in this process; the second step of two, after what is allocated once."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = new_model(build_trunk(trunk), sizes=((side, side),)).network
    set_training(network, freeze_norm=True)
    ap_loss = APLoss()

    def loss(descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
        value: Tensor = ap_loss(descriptors_nd, numbers_n // PER_LABEL)
        return value

    def step(count: int) -> float:
        numbers = Batch(tuple(range(count)))
        descent.start(0.2)
        started = time.monotonic()
        stepper.step(numbers, SightReader(Noise(side), workers=0).read(stepper.requests(numbers, 0)))
        return time.monotonic() - started

    descent = Descent([(network.parameters(), 1e-4)], weight_decay=0.0)
    stepper = Stepper(network, loss, descent, Device("cpu"), StepForm(chunk=chunk))
    step(2 * PER_LABEL)
    before = _peak()
    seconds = step(batch)
    return {"before": before, "peak": _peak(), "seconds": seconds}


def rows(trunk: str, side: int, chunk: int, most: int) -> list[str]:
    """A line of a Markdown table for each batch size."""
    lines = ["| batch | one graph MiB | staged MiB | one graph s | staged s |", "|---|---|---|---|---|"]
    for batch in BATCHES:
        staged = _apart(trunk, side, batch, chunk)
        # the largest graphs would not fit in the memory of this machine
        direct = _apart(trunk, side, batch, None) if batch <= most else None
        cells = [_cell(direct, "peak"), _cell(staged, "peak"), _cell(direct, "seconds"), _cell(staged, "seconds")]
        lines.append(f"| {batch} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def _apart(trunk: str, side: int, batch: int, chunk: int | None) -> dict[str, float]:
    words = [sys.executable, __file__, "--one", json.dumps([trunk, side, batch, chunk])]
    done = subprocess.run(words, check=True, capture_output=True, text=True)  # noqa: S603 our own words
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _cell(found: dict[str, float] | None, name: str) -> str:
    return "-" if found is None else f"{found[name]:.0f}" if name == "peak" else f"{found[name]:.1f}"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", default="timm:resnet18")
    parser.add_argument("--side", type=int, default=96, help="Of the pictures, in pixels.")
    parser.add_argument("--chunk", type=int, default=16, help="Pictures in memory at once in the staged step.")
    parser.add_argument("--most", type=int, default=512, help="The largest batch in one graph.")
    parser.add_argument("--out", type=Path, help="Write the table here.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    lines = rows(options.trunk, options.side, options.chunk, options.most)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
