"""Training as a whole: a student comes close to its teacher, epochs resume exactly, and stop cleanly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deepir.distill.checkpoint import Model
from deepir.distill.device import Device, find_device
from deepir.distill.epochs import Progress, run_epochs
from deepir.distill.pictures import set_training
from deepir.errors import InputError, MissingDependency

MakeModel = Callable[..., Model]
CPU = Device("cpu")


def test_an_interruption_before_the_first_epoch_ended_promises_no_resume(tmp_path: Path) -> None:
    lines: list[str] = []

    def interrupt(_: int) -> dict[str, float]:
        raise KeyboardInterrupt

    progress = Progress(out=tmp_path / "m.safetensors", command="x --resume", report=lines.append)
    with pytest.raises(KeyboardInterrupt):
        run_epochs(progress, {}, epochs=2, seed=0, train_epoch=interrupt)
    assert lines == ["stopped after epoch 0 of 2; no epoch was finished, so run it anew without --resume"]


def test_epochs_resume_to_what_an_unbroken_run_gives(tmp_path: Path) -> None:
    def learn(out: Path, stop: int, *, resume: bool = False) -> Tensor:
        layer = nn.Linear(2, 2)
        nn.init.zeros_(layer.weight)

        def train_epoch(epoch: int) -> dict[str, float]:
            if epoch == stop:
                raise KeyboardInterrupt
            with torch.no_grad():
                layer.weight += torch.rand(2, 2)
            return {"loss": float(layer.weight.detach().sum())}

        run_epochs(Progress(out=out, resume=resume), {"layer": layer}, epochs=3, seed=0, train_epoch=train_epoch)
        return layer.weight.detach()

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "b", stop=2)
    assert torch.equal(learn(tmp_path / "b", stop=-1, resume=True), learn(tmp_path / "a", stop=-1))


def test_resuming_without_a_state_is_refused(tmp_path: Path) -> None:
    progress = Progress(out=tmp_path / "m.safetensors", resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        run_epochs(progress, {}, epochs=1, seed=0, train_epoch=lambda _: {})


def test_resuming_from_a_truncated_state_is_refused(tmp_path: Path) -> None:
    progress = Progress(out=tmp_path / "m.safetensors", resume=True)
    progress.state_path.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="cannot resume"):
        run_epochs(progress, {}, epochs=1, seed=0, train_epoch=lambda _: {})


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingDependency, match="--device cpu"):
        find_device("cuda")


def test_frozen_batch_norm_keeps_its_statistics(make_model: MakeModel) -> None:
    network = make_model().network
    set_training(network, freeze_norm=True)
    before = network.trunk.stem[1].running_mean.clone()
    network(torch.rand(4, 3, 64, 64))
    torch.testing.assert_close(network.trunk.stem[1].running_mean, before)
