"""The training engine: steps, state on disk, what stops it, and that it goes on exactly where it stopped."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepir.distill import snapshot
from deepir.distill.device import Device, find_device
from deepir.distill.epochs import Figures, Progress
from deepir.distill.optimise import Descent, rate_factor
from deepir.distill.sights import SightReader
from deepir.distill.trainer import Batch, TrainConfig, train
from deepir.errors import InputError, MissingDependency, OptionError, ShapeError
from deepir.spec import Size

CPU = Device("cpu")
ITEMS = 12
QUICK = TrainConfig(epochs=3, seed=5)


@dataclass(frozen=True)
class Noise:
    """Pictures that are drawn anew for each number, epoch and size."""

    items: int = ITEMS
    unreadable: int = -1

    def __len__(self) -> int:
        return self.items

    def sight(self, number: int, epoch: int, size: Size | None) -> Tensor:
        if number == self.unreadable:
            message = f"cannot decode {number}.jpg"
            raise InputError(message)
        generator = torch.Generator().manual_seed(1000 * number + epoch)
        return torch.randn(3, *(size or (8, 8)), generator=generator) + number % 3


class Tiny(nn.Module):
    """A convolution and the mean: 4 values of length 1."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images_nchw: Tensor) -> Tensor:
        return nn.functional.normalize(self.conv(images_nchw).relu().mean(dim=(2, 3)), dim=1)


def batches_of(size: int = 4) -> Callable[[int], list[Batch]]:
    def batches(epoch: int) -> list[Batch]:
        order = torch.randperm(ITEMS).tolist()
        return [Batch(tuple(order[start : start + size])) for start in range(0, ITEMS, size)]

    return batches


def loss_of(descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
    """Pictures of one remainder by three come close, others part."""
    same = (numbers_n[:, None] % 3 == numbers_n % 3).float()
    return ((descriptors_nd @ descriptors_nd.T - same) ** 2).mean()


def run(network: nn.Module, out: Path, config: TrainConfig = QUICK, **changes: Any) -> nn.Module:
    """Train with everything as usual but for the changes."""
    given: dict[str, Any] = {
        "sights": Noise(),
        "batches": batches_of(),
        "loss": loss_of,
        "groups": [(network.parameters(), 0.05)],
        "progress": Progress(out=out),
        "device": CPU,
    }
    train(network, config=config, **{**given, **changes})
    return network


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Progress(out=out).log_path.read_text().splitlines()]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def stopping_at(step: int, action: Callable[[], object]) -> Callable[[Tensor, Tensor], Tensor]:
    """The usual loss, which acts when it is asked for the step-th time."""
    calls = 0

    def loss(descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == step:
            action()
        return loss_of(descriptors_nd, numbers_n)

    return loss


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    run(Tiny(), tmp_path / "m", replace(QUICK, epochs=12))
    losses = [row["loss"] for row in rows(tmp_path / "m")]
    assert losses[-1] < 0.9 * losses[0]


def test_each_row_of_the_log_has_its_epoch_time_and_seed(tmp_path: Path) -> None:
    run(Tiny(), tmp_path / "m")
    assert [(row["epoch"], row["seed"]) for row in rows(tmp_path / "m")] == [(1, 5), (2, 5), (3, 5)]
    assert all(row["seconds"] >= 0 for row in rows(tmp_path / "m"))


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_neither_workers_nor_what_was_drawn_before_change_the_result(
    tmp_path: Path, chunk: int | None, workers: int
) -> None:
    first = run(Tiny(), tmp_path / "a", replace(QUICK, chunk=chunk))
    network = Tiny()
    torch.rand(7)
    again = run(network, tmp_path / "b", replace(QUICK, chunk=chunk, workers=workers))
    assert same_weights(first, again)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    assert not same_weights(run(Tiny(), tmp_path / "a"), run(Tiny(), tmp_path / "b", replace(QUICK, seed=6)))


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 8])
def test_ctrl_c_in_any_step_resumes_to_the_same_weights(tmp_path: Path, chunk: int | None, step: int) -> None:
    config = replace(QUICK, chunk=chunk)
    unbroken = run(Tiny(), tmp_path / "a", config)
    lines: list[str] = []
    progress = Progress(out=tmp_path / "b", command="x --resume", report=lines.append)
    with pytest.raises(KeyboardInterrupt):
        run(Tiny(), tmp_path / "b", config, loss=stopping_at(step, press_ctrl_c), progress=progress)
    # the third step of an epoch is its last, and the epoch is closed on resuming
    assert lines[-1] == (
        f"stopped after epoch {(step - 1) // 3} of 3 and step {(step - 1) % 3 + 1} of 3; resume with: x --resume"
    )
    resumed = run(Tiny(seed=9), tmp_path / "b", config, progress=replace(progress, resume=True))
    assert same_weights(resumed, unbroken)
    figures = [{**row, "seconds": 0} for row in rows(tmp_path / "b")]
    assert figures == [{**row, "seconds": 0} for row in rows(tmp_path / "a")]
    assert not progress.state_path.exists()


def test_what_is_drawn_within_a_step_is_drawn_again_when_it_is_resumed(tmp_path: Path) -> None:
    def dropping(seed: int) -> nn.Module:
        return nn.Sequential(Tiny(seed), nn.Dropout(0.5))

    with pytest.raises(KeyboardInterrupt):
        run(dropping(0), tmp_path / "b", loss=stopping_at(2, press_ctrl_c))
    torch.rand(3)
    resumed = run(dropping(1), tmp_path / "b", progress=Progress(out=tmp_path / "b", resume=True))
    assert same_weights(resumed, run(dropping(0), tmp_path / "a"))


def test_ctrl_c_during_the_last_validation_stops_too_and_resumes(tmp_path: Path) -> None:
    calls = 0

    def validate() -> Figures:
        nonlocal calls
        calls += 1
        if calls == 3:
            press_ctrl_c()
        return {"mAP": 0.5}

    with pytest.raises(KeyboardInterrupt):
        run(Tiny(), tmp_path / "b", validate=validate)
    progress = Progress(out=tmp_path / "b", resume=True)
    resumed = run(Tiny(seed=9), tmp_path / "b", validate=validate, progress=progress)
    assert calls == 3
    assert same_weights(resumed, run(Tiny(), tmp_path / "a"))


def test_ctrl_c_is_as_before_once_training_is_over(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run(Tiny(), tmp_path / "m")
    assert signal.getsignal(signal.SIGINT) is before


def test_the_state_is_saved_within_an_epoch_when_it_is_time(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def die() -> None:
        raise KilledError

    config = replace(QUICK, save_minutes=0.0)
    with pytest.raises(KilledError):
        run(Tiny(), tmp_path / "b", config, loss=stopping_at(6, die))
    resumed = run(Tiny(seed=3), tmp_path / "b", config, progress=Progress(out=tmp_path / "b", resume=True))
    assert same_weights(resumed, run(Tiny(), tmp_path / "a", config))


def test_a_loss_that_learns_is_saved_and_resumed_as_a_part(tmp_path: Path) -> None:
    class Proxies(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.proxies = nn.Parameter(torch.randn(3, 4, generator=torch.manual_seed(seed)))

        def forward(self, descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
            return nn.functional.cross_entropy(descriptors_nd @ self.proxies.T, numbers_n % 3)

    def learn(out: Path, seed: int, at: int, resume: bool = False) -> Proxies:
        network, proxies = Tiny(seed), Proxies(seed)
        judge = stopping_at(at, press_ctrl_c)

        def loss(descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
            return proxies(descriptors_nd, numbers_n) + 0 * judge(descriptors_nd, numbers_n)

        groups = [(network.parameters(), 0.05), (proxies.parameters(), 0.5)]
        progress = Progress(out=out, resume=resume)
        run(network, out, loss=loss, groups=groups, parts={"loss": proxies}, progress=progress)
        return proxies

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "b", 0, at=5)
    assert same_weights(learn(tmp_path / "b", 1, at=-1, resume=True), learn(tmp_path / "a", 0, at=-1))


def nothing() -> None:
    pass


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_a_number_stops_with_the_place_and_keeps_the_last_state(
    tmp_path: Path, poison: float
) -> None:
    usual = stopping_at(0, nothing)
    calls = 0

    def loss(descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return usual(descriptors_nd, numbers_n) * (poison if calls == 5 else 1.0)

    with pytest.raises(OptionError, match=r"the loss became (nan|inf) in epoch 2, step 2 of 3.*smaller learning rate"):
        run(Tiny(), tmp_path / "b", loss=loss)
    resumed = run(Tiny(seed=4), tmp_path / "b", progress=Progress(out=tmp_path / "b", resume=True))
    assert same_weights(resumed, run(Tiny(), tmp_path / "a"))


def test_a_gradient_that_is_not_a_number_changes_no_weight(tmp_path: Path) -> None:
    network = Tiny()
    before = [parameter.detach().clone() for parameter in network.parameters()]

    def loss(descriptors_nd: Tensor, _: Tensor) -> Tensor:
        return (descriptors_nd.sum() * 0).sqrt()

    with pytest.raises(OptionError, match="gradient became nan in epoch 1, step 1"):
        run(network, tmp_path / "m", loss=loss)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert not Progress(out=tmp_path / "m").state_path.exists()


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_stops_with_its_name_and_is_resumed_when_repaired(
    tmp_path: Path, workers: int, chunk: int | None
) -> None:
    config = replace(QUICK, epochs=2, workers=workers, chunk=chunk)
    with pytest.raises(InputError, match=r"cannot decode 7\.jpg; the training is saved in epoch 1, step"):
        run(Tiny(), tmp_path / "b", config, sights=Noise(unreadable=7))
    resumed = run(Tiny(seed=8), tmp_path / "b", config, progress=Progress(out=tmp_path / "b", resume=True))
    assert same_weights(resumed, run(Tiny(), tmp_path / "a", config))


def test_a_full_disk_stops_with_one_sentence_and_keeps_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, saves = torch.save, 0

    def save(content: object, path: Path) -> None:
        nonlocal saves
        saves += 1
        if saves == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(content, path)

    monkeypatch.setattr(snapshot.torch, "save", save)
    with pytest.raises(InputError, match=r"\(No space left on device\): make room; the state saved before is kept"):
        run(Tiny(), tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    resumed = run(Tiny(seed=2), tmp_path / "b", progress=Progress(out=tmp_path / "b", resume=True))
    assert same_weights(resumed, run(Tiny(), tmp_path / "a"))


def stopped(out: Path) -> Progress:
    """A training stopped in its fourth step, to be resumed."""
    with pytest.raises(KeyboardInterrupt):
        run(Tiny(), out, loss=stopping_at(4, press_ctrl_c))
    return Progress(out=out, resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": replace(QUICK, seed=6)}, "its seed were 5, now 6"),
        ({"config": replace(QUICK, epochs=4)}, "its epochs were 3, now 4"),
        ({"sights": Noise(items=13)}, "its pictures were 12, now 13"),
        ({"batches": batches_of(6)}, "had 3 steps and now have 2"),
    ],
)
def test_the_state_of_another_training_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    progress = stopped(tmp_path / "m")
    with pytest.raises(InputError, match=rf"cannot resume.*{words}.*without --resume"):
        run(Tiny(), tmp_path / "m", **{"progress": progress, **changes})


def test_the_state_of_another_network_is_refused(tmp_path: Path) -> None:
    progress = stopped(tmp_path / "m")
    with pytest.raises(InputError, match=r"cannot resume.*the network has other layers"):
        run(nn.Sequential(Tiny(), nn.Linear(4, 2)), tmp_path / "m", progress=progress)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nonsense" * 100])
def test_a_damaged_state_is_refused(tmp_path: Path, content: bytes) -> None:
    progress = Progress(out=tmp_path / "m", resume=True)
    progress.state_path.write_bytes(content)
    with pytest.raises(InputError, match="cannot resume from"):
        run(Tiny(), tmp_path / "m", progress=progress)


def test_the_state_of_an_older_deepir_is_refused(tmp_path: Path) -> None:
    progress = Progress(out=tmp_path / "m", resume=True)
    torch.save({"rows": [], "parts": {}}, progress.state_path)
    with pytest.raises(InputError, match="another version of deepir"):
        run(Tiny(), tmp_path / "m", progress=progress)


def test_a_cut_off_state_is_refused(tmp_path: Path) -> None:
    progress = stopped(tmp_path / "m")
    progress.state_path.write_bytes(progress.state_path.read_bytes()[:-40])
    with pytest.raises(InputError, match="cannot resume from"):
        run(Tiny(), tmp_path / "m", progress=progress)


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        run(Tiny(), tmp_path / "m", progress=Progress(out=tmp_path / "m", resume=True))


def test_a_resumed_training_may_have_a_smaller_learning_rate(tmp_path: Path) -> None:
    progress, network = stopped(tmp_path / "m"), Tiny()
    saved = torch.load(progress.state_path, weights_only=True)["parts"]["network"]
    run(network, tmp_path / "m", progress=progress, groups=[(network.parameters(), 1e-12)])
    torch.testing.assert_close(network.conv.weight, saved["conv.weight"], atol=1e-9, rtol=0)


def validating(scores: list[float]) -> Callable[[], Figures]:
    left = iter(scores)
    return lambda: {"mAP": next(left)}


def test_training_stops_when_the_validation_gets_no_better_and_takes_the_best_weights(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    network = Tiny()
    scores = validating([0.1, 0.5, 0.4, 0.5, 0.6])

    def validate() -> Figures:
        seen.append(network.conv.weight.detach().clone())
        network.eval()
        return scores()

    lines: list[str] = []
    progress = Progress(out=tmp_path / "m", report=lines.append)
    run(network, tmp_path / "m", replace(QUICK, epochs=9, patience=2), validate=validate, progress=progress)
    assert [row["mAP"] for row in rows(tmp_path / "m")] == [0.1, 0.5, 0.4, 0.5]
    assert torch.equal(network.conv.weight, seen[1])
    assert lines[-1] == "took the weights of epoch 2, which were validated best"


def test_the_best_weights_survive_an_interruption(tmp_path: Path) -> None:
    config = replace(QUICK, epochs=4, patience=3)
    unbroken = run(Tiny(), tmp_path / "a", config, validate=validating([0.5, 0.1, 0.2, 0.3]))
    with pytest.raises(KeyboardInterrupt):
        run(Tiny(), tmp_path / "b", config, validate=validating([0.5, 0.1]), loss=stopping_at(7, press_ctrl_c))
    progress = Progress(out=tmp_path / "b", resume=True)
    resumed = run(Tiny(seed=1), tmp_path / "b", config, validate=validating([0.2, 0.3]), progress=progress)
    assert same_weights(resumed, unbroken)


def test_modules_train_in_the_modes_they_came_in_whatever_the_validation_does(tmp_path: Path) -> None:
    network = nn.Sequential(Tiny(), nn.Dropout(0.5), nn.Dropout(0.5))
    network[2].eval()
    seen = []

    def loss(descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
        seen.append([module.training for module in network])
        return loss_of(descriptors_nd, numbers_n)

    def validate() -> Figures:
        network.eval()
        return {"mAP": 0.0}

    run(network, tmp_path / "m", loss=loss, validate=validate)
    assert seen == [[True, True, False]] * 9


def test_batches_may_have_sizes_of_their_own(tmp_path: Path) -> None:
    shapes = []

    class Watching(Tiny):
        def forward(self, images_nchw: Tensor) -> Tensor:
            shapes.append(tuple(images_nchw.shape))
            return super().forward(images_nchw)

    def batches(_: int) -> list[Batch]:
        return [Batch((0, 1), (8, 12)), Batch((2, 3, 4))]

    run(Watching(), tmp_path / "m", replace(QUICK, epochs=1), batches=batches)
    assert shapes == [(2, 3, 8, 12), (3, 3, 8, 8)]


@pytest.mark.parametrize("batches", [[], [Batch(())]])
def test_an_epoch_without_pictures_is_refused(tmp_path: Path, batches: list[Batch]) -> None:
    with pytest.raises(OptionError, match="batches with pictures"):
        run(Tiny(), tmp_path / "m", batches=lambda _: batches)


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"chunk": 0}, {"patience": 0}, {"workers": -1}, {"save_minutes": -1.0}, {"seed": -1}]
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        TrainConfig(**{"epochs": 1, **options})


def test_patience_without_a_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="patience 2 needs a validation"):
        run(Tiny(), tmp_path / "m", replace(QUICK, patience=2))


def test_a_network_that_cannot_be_compiled_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(_: nn.Module) -> Callable[[Tensor], Tensor]:
        def forward(_: Tensor) -> Tensor:
            message = "\nno compiler\nat length"
            raise torch._dynamo.exc.TorchDynamoException(message)

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(OptionError, match=r"\(no compiler\): leave out --compile"):
        run(Tiny(), tmp_path / "m", replace(QUICK, compile=True))


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    plain = run(Tiny(), tmp_path / "a", replace(QUICK, chunk=3))
    compiled = run(Tiny(), tmp_path / "b", replace(QUICK, chunk=3, compile=True))
    torch.testing.assert_close(compiled.conv.weight, plain.conv.weight, atol=1e-5, rtol=1e-4)


def test_pictures_of_one_request_must_have_one_size() -> None:
    class Uneven(Noise):
        def sight(self, number: int, epoch: int, size: Size | None) -> Tensor:
            return torch.zeros(3, 4 + number, 4)

    reader = SightReader(Uneven(), workers=0)
    with pytest.raises(ShapeError, match=r"\(3, 4, 4\) and \(3, 5, 4\)"):
        list(reader.read([[(0, 0, None), (1, 0, None)]]))


def test_the_schedule_rises_to_its_peak_and_falls_to_nothing() -> None:
    factors = [rate_factor(done / 100) for done in range(101)]
    assert factors[0] == pytest.approx(1 / 25)
    assert factors[20] == max(factors) == pytest.approx(1)
    assert factors[:21] == sorted(factors[:21])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[100] < 1e-5


def test_large_gradients_are_cut_to_one_length() -> None:
    weight = nn.Parameter(torch.zeros(2))
    descent = Descent([([weight], 1.0), ([], 1.0)], weight_decay=0.0)
    descent.start(0.2)
    weight.grad = torch.tensor([300.0, 400.0])
    descent.step()
    torch.testing.assert_close(weight.grad, torch.tensor([3.0, 4.0]))


def test_tensorboard_that_is_not_there_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependency, match="pip install tensorboard"):
        run(Tiny(), tmp_path / "m", replace(QUICK, tensorboard=tmp_path / "board"))


def test_tensorboard_gets_the_figures_of_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "board")

        def add_scalar(self, name: str, _: float, epoch: int) -> None:
            written.append((name, epoch))

        def close(self) -> None:
            written.append(("closed", 0))

    module = type("module", (), {"SummaryWriter": Writer})
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", module)
    run(Tiny(), tmp_path / "m", replace(QUICK, tensorboard=tmp_path / "board", epochs=2))
    assert written == [("loss", 1), ("seconds", 1), ("loss", 2), ("seconds", 2), ("closed", 0)]


def test_half_precision_of_a_cpu_is_bf16() -> None:
    assert find_device("cpu", mixed=True) == Device("cpu", mixed=True, half="bf16")
    with pytest.raises(OptionError, match="fp16 on a GPU only"):
        find_device("cpu", mixed=True, half="fp16")
    with pytest.raises(OptionError, match="one of auto, bf16, fp16"):
        find_device("cpu", half="int4")


def test_training_in_half_precision_lowers_the_loss(tmp_path: Path) -> None:
    run(Tiny(), tmp_path / "m", replace(QUICK, epochs=12, chunk=3), device=Device("cpu", mixed=True))
    losses = [row["loss"] for row in rows(tmp_path / "m")]
    assert losses[-1] < 0.9 * losses[0]


OPENCV_FIRST = """
import cv2, numpy as np, torch
from deepir.distill.sights import SightReader

class Blurred:
    def __len__(self):
        return 4
    def sight(self, number, epoch, size):
        return torch.from_numpy(cv2.GaussianBlur(np.full((900, 900, 3), number, np.uint8), (9, 9), 3)).float()

for _ in range(4):
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 3)
    reader = SightReader(Blurred(), workers=1)
    print(*(len(batch) for batch in reader.read([[(0, 0, None), (1, 0, None)], [(2, 0, None)]])))
"""


def test_workers_read_though_opencv_had_threads_before_they_began() -> None:
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", OPENCV_FIRST]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=free)
    assert result.stdout.split() == ["2", "1"] * 4, result.stderr
