"""Two processes that torchrun starts train as one does: the same losses, the same weights, the same stops."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from deepir.distill.ranks import Ranks, current, first_on_each_machine_first
from deepir.errors import InputError, OptionError

PROGRAM = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from torch import nn
from deepir.distill.device import Device
from deepir.distill.epochs import Progress
from deepir.distill.ranks import current, first_on_each_machine_first
from deepir.distill.trainer import Batch, TrainConfig, train
from deepir.errors import DeepIRError, InputError

CONFIG = TrainConfig(epochs=3, seed=5)

class Noise:
    def __init__(self, unreadable=-1):
        self.unreadable = unreadable
    def __len__(self):
        return 15
    def sight(self, number, epoch, size):
        if number == self.unreadable:
            raise InputError(f"cannot decode {number}.jpg")
        return torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(100 * number + epoch)) + number % 3

def batches(epoch):
    # drawn: the processes must not each draw their own; 5 pictures are not shared evenly by 2
    order = torch.randperm(15).tolist()
    return [Batch(tuple(order[start:start + 5])) for start in range(0, 15, 5)]

def run(out, name, config=CONFIG, sights=Noise(), batches=batches, action=lambda call, rank: None, **more):
    rank = current().number
    torch.manual_seed(rank)  # each process would start elsewhere
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten())
    network[0].unused = nn.Linear(2, 2)
    proxies = nn.Linear(4, 3)
    calls = 0
    def loss(outputs, numbers):
        nonlocal calls
        calls += 1
        factor = action(calls, rank)
        return nn.functional.cross_entropy(proxies(outputs), numbers % 3) * (1.0 if factor is None else factor)
    lines = []
    progress = Progress(out=out / name, report=lines.append, resume=more.pop("resume", False))
    told = "done"
    try:
        groups = [(network.parameters(), 0.05), (proxies.parameters(), 0.5)]
        train(network, sights, batches, loss, config, groups=groups,
              progress=progress, device=Device("cpu"), parts={"loss": proxies}, **more)
    except (DeepIRError, KeyboardInterrupt) as error:
        told = f"{type(error).__name__}: {error}"
    weights = torch.cat([p.detach().flatten() for m in (network[0], proxies) for p in m.parameters()])
    told = {"weights": weights.tolist(), "told": told, "lines": lines}
    if network[0].weight.grad is not None:
        told["gradient"] = network[0].weight.grad.flatten().tolist()
    (out / f"{name}.{rank}.json").write_text(json.dumps(told))

def press(call, rank):
    if call == 4 and rank == current().count - 1:
        os.kill(os.getpid(), signal.SIGINT)

def validation(scores):
    left = iter(scores)
    return lambda: {"mAP": next(left)}

def main(out):
    run(out, "direct")
    run(out, "staged", replace(CONFIG, chunk=2))
    run(out, "broken", replace(CONFIG, chunk=2), action=press)
    run(out, "broken", replace(CONFIG, chunk=2), resume=True)
    run(out, "unreadable", sights=Noise(unreadable=11))
    run(out, "unreadable-staged", replace(CONFIG, chunk=2), sights=Noise(unreadable=11))
    run(out, "diverged", action=lambda call, rank: float("nan") if call == 5 else None)
    run(out, "small", batches=lambda epoch: [Batch((3,))])
    run(out, "validated", replace(CONFIG, epochs=9, patience=1), validate=validation([0.1, 0.5, 0.4]))
    with first_on_each_machine_first():
        (out / "cache").open("a").write(str(current().number))

if __name__ == "__main__":
    main(Path(sys.argv[1]))
"""


@dataclass(frozen=True)
class Runs:
    """Where one process and two wrote what they did."""

    alone: Path
    together: Path

    def of(self, name: str) -> tuple[dict, dict, dict]:
        """What one process alone told, the first of two, and the second."""
        files = (self.alone / f"{name}.0.json", self.together / f"{name}.0.json", self.together / f"{name}.1.json")
        alone, first, second = (json.loads(file.read_text()) for file in files)
        return alone, first, second

    def losses(self, name: str) -> tuple[list[float], list[float]]:
        """The losses of every epoch, of one process and of two."""
        alone, together = (
            [json.loads(line)["loss"] for line in (folder / f"{name}.log.jsonl").read_text().splitlines()]
            for folder in (self.alone, self.together)
        )
        return alone, together


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    program = alone / "program.py"
    program.write_text(PROGRAM)
    where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", *where, str(program), str(together)]
    started = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    runpy.run_path(str(program))["main"](alone)
    said, _ = started.communicate(timeout=300)
    assert started.returncode == 0, said
    return Runs(alone, together)


@pytest.mark.parametrize("name", ["direct", "staged"])
def test_two_processes_have_the_losses_of_one(runs: Runs, name: str) -> None:
    alone, together = runs.losses(name)
    assert together == pytest.approx(alone, abs=1e-4)
    assert alone[-1] < 0.98 * alone[0]


@pytest.mark.parametrize("name", ["direct", "staged"])
def test_two_processes_end_with_the_weights_of_one(runs: Runs, name: str) -> None:
    alone, first, second = (torch.tensor(told["weights"]) for told in runs.of(name))
    torch.testing.assert_close(first, alone, atol=1e-4, rtol=1e-4)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["direct", "staged"])
def test_two_processes_find_the_gradient_of_one(runs: Runs, name: str) -> None:
    # the optimiser divides by the length of gradients, so that the weights do not show a factor
    alone, first, second = (torch.tensor(told["gradient"]) for told in runs.of(name))
    torch.testing.assert_close(first, alone, atol=1e-5, rtol=1e-3)
    assert torch.equal(first, second)


def test_ctrl_c_in_one_process_stops_both_and_both_resume(runs: Runs) -> None:
    (alone, first, second), unbroken = runs.of("broken"), runs.of("staged")[1]
    assert first["told"] == second["told"] == "done"
    assert first["weights"] == unbroken["weights"] == second["weights"]
    assert alone["weights"] == runs.of("staged")[0]["weights"]


@pytest.mark.parametrize("name", ["unreadable", "unreadable-staged"])
def test_a_picture_that_one_process_cannot_read_stops_both_with_its_name(runs: Runs, name: str) -> None:
    told = [each["told"] for each in runs.of(name)]
    assert told[0].startswith("InputError: cannot decode 11.jpg; the training is saved in epoch 1, step")
    assert len(set(told)) == 1


def test_a_loss_that_is_not_a_number_stops_both(runs: Runs) -> None:
    told = [each["told"] for each in runs.of("diverged")]
    assert told[0].startswith("OptionError: the loss became nan in epoch 2, step 2 of 3")
    assert len(set(told)) == 1


def test_a_batch_smaller_than_the_processes_is_refused(runs: Runs) -> None:
    alone, first, second = (each["told"] for each in runs.of("small"))
    assert alone == "done"
    assert first == second
    assert "a batch of 1 pictures cannot be shared by 2 processes" in first


def test_the_first_process_alone_validates_and_both_stop_with_the_best_weights(runs: Runs) -> None:
    alone, first, second = runs.of("validated")
    assert first["weights"] == second["weights"] == pytest.approx(alone["weights"], abs=1e-4)
    assert "took the weights of epoch 2, which were validated best" in first["lines"]


def test_the_first_process_alone_speaks(runs: Runs) -> None:
    for name in ("direct", "diverged", "validated"):
        alone, first, second = runs.of(name)
        assert len(first["lines"]) == len(alone["lines"])
        assert second["lines"] == []


def test_the_first_process_fills_a_cache_before_the_other(runs: Runs) -> None:
    assert (runs.together / "cache").read_text() == "01"


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_the_commands_run_as_a_module_and_of_several_processes_one_speaks(rank: str, speaks: bool) -> None:
    words = [sys.executable, "-m", "deepir.distill", "whiten", "no such file", "--images", "x", "-o", "y"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "RANK": rank}, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") if speaks else done.stderr == ""


def test_without_torchrun_a_process_is_alone() -> None:
    assert current() == Ranks(0, 1)
    with first_on_each_machine_first():
        assert current().first


@pytest.mark.parametrize("total", [4, 5, 7, 11])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_shares_of_a_batch_are_all_of_it_in_order(total: int, count: int) -> None:
    items = list(range(total))
    shares = [Ranks(number, count).share(items) for number in range(count)]
    assert [item for share in shares for item in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_fewer_items_than_processes_are_refused() -> None:
    with pytest.raises(OptionError, match="2 pictures cannot be shared by 3 processes"):
        Ranks(0, 3).share([1, 2])


def test_alone_an_error_is_raised_as_it_is() -> None:
    Ranks().check(None)
    with pytest.raises(InputError, match="cannot decode"):
        Ranks().check(InputError("cannot decode x.jpg"))
