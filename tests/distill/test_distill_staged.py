"""The step in three stages: the gradients of one graph, in the memory of a few pictures (method.md 5, rows 26, 60)."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from deepir.distill.checkpoint import Model
from deepir.distill.device import Device
from deepir.distill.optimise import Descent
from deepir.distill.pictures import set_training
from deepir.distill.sights import Batch, SightReader
from deepir.distill.stepper import StepForm, Stepper
from deepir.errors import OptionError
from deepir.spec import Size

CPU = Device("cpu")


class Noise:
    """Pictures that are drawn for each number and epoch, counted as they are read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 64

    def sight(self, number: int, epoch: int, size: Size | None) -> Tensor:
        self.read.append(number)
        return torch.randn(3, *(size or (64, 64)), generator=torch.Generator().manual_seed(100 * number + epoch))


class Watched(nn.Module):
    """A network of one layer that notes how many pictures it sees at once, and whether with a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 1)
        self.seen: list[tuple[int, bool]] = []

    def forward(self, images_nchw: Tensor) -> Tensor:
        self.seen.append((len(images_nchw), torch.is_grad_enabled()))
        return nn.functional.normalize(self.layer(images_nchw).relu().mean(dim=(2, 3)), dim=1)


def contrast(descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
    """A loss in which every picture meets every other one."""
    same = (numbers_n[:, None] % 3 == numbers_n % 3).float()
    return torch.logsumexp((descriptors_nd @ descriptors_nd.T) * (1 - 2 * same) * 8, dim=(0, 1))


def gradients(
    network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], chunk: int | None, count: int
) -> list[Tensor]:
    """What a step of `count` pictures leaves as gradients, before they are cut to a length."""
    found: list[Tensor] = []

    class Looking(Descent):
        def step(self) -> None:
            found.extend(parameter.grad.clone() for parameter in self.parameters)

    descent = Looking([(network.parameters(), 0.1)], weight_decay=0.0)
    descent.start(0.0)
    step_once(network, loss, descent, chunk, count)
    return found


def step_once(
    network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], descent: Descent, chunk: int | None, count: int
) -> float:
    batch = Batch(tuple(range(count)))
    stepper = Stepper(network, loss, descent, CPU, StepForm(chunk=chunk))
    images: Iterator[Tensor] = SightReader(Noise(), workers=0).read(stepper.requests(batch, 0))
    value = stepper.step(batch, images)
    assert next(images, None) is None
    return value


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 100])
def test_the_gradients_of_a_retrieval_network_are_those_of_one_graph(
    make_model: Callable[..., Model], chunk: int
) -> None:
    network = make_model(dim=8).network
    set_training(network, freeze_norm=True)
    direct = gradients(network, contrast, None, 7)
    for whole, staged in zip(direct, gradients(network, contrast, chunk, 7), strict=True):
        torch.testing.assert_close(staged, whole, atol=1e-5, rtol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in direct) > 1e-3


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 20), chunk=st.integers(1, 24))
def test_the_gradients_are_those_of_one_graph_whatever_the_chunk(count: int, chunk: int) -> None:
    torch.manual_seed(count)
    # in double precision, so that the order of additions does not count
    network = Watched().double()
    network.register_forward_pre_hook(lambda _network, inputs: tuple(images.double() for images in inputs))
    direct, staged = (gradients(network, contrast, each, count) for each in (None, chunk))
    for one, other in zip(direct, staged, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(other, one, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_loss_that_learns_gets_its_gradient_once(chunk: int | None) -> None:
    torch.manual_seed(0)
    network, proxies = Watched(), nn.Parameter(torch.randn(3, 5, generator=torch.manual_seed(1)))
    descent = Descent([(network.parameters(), 0.1), ([proxies], 0.1)], weight_decay=0.0)

    def loss(descriptors_nd: Tensor, numbers_n: Tensor) -> Tensor:
        return nn.functional.cross_entropy(descriptors_nd @ proxies.T, numbers_n % 3)

    images = torch.stack([Noise().sight(number, 0, None) for number in range(7)])
    expected = torch.autograd.grad(loss(network(images), torch.arange(7)), proxies)[0]
    step_once(network, loss, descent, chunk, 7)
    torch.testing.assert_close(proxies.grad, expected, atol=1e-6, rtol=1e-5)


def test_outputs_may_have_more_axes_than_descriptors() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 64), nn.Flatten(), nn.Unflatten(1, (2, 2)))

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return (outputs[:, 0] @ outputs[:, 1].T).square().mean()

    for whole, staged in zip(gradients(network, loss, None, 5), gradients(network, loss, 2, 5), strict=True):
        torch.testing.assert_close(staged, whole, atol=1e-5, rtol=1e-5)


def test_one_graph_computes_and_reads_nothing_twice() -> None:
    network, sights = Watched(), Noise()
    batch = Batch(tuple(range(6)))
    stepper = Stepper(network, contrast, Descent([(network.parameters(), 0.1)], weight_decay=0), CPU, StepForm())
    stepper.step(batch, SightReader(sights, workers=0).read(stepper.requests(batch, 0)))
    assert network.seen == [(6, True)]
    assert sights.read == list(range(6))


def test_in_stages_a_graph_holds_a_chunk_at_most() -> None:
    network = Watched()
    step_once(network, contrast, Descent([(network.parameters(), 0.1)], weight_decay=0), 4, 10)
    assert network.seen == [(4, False), (4, False), (2, False), (4, True), (4, True), (2, True)]


def test_what_the_graphs_of_a_step_hold_does_not_grow_with_the_batch() -> None:
    network = Watched()
    held, most = 0, 0

    def keep(saved: Tensor) -> tuple[Tensor, int]:
        nonlocal held, most
        held += saved.numel()
        most = max(most, held)
        return saved, saved.numel()

    def give(kept: tuple[Tensor, int]) -> Tensor:
        nonlocal held
        held -= kept[1]
        return kept[0]

    peaks = []
    for count in (8, 64):
        held = most = 0
        with torch.autograd.graph.saved_tensors_hooks(keep, give):
            step_once(
                network,
                lambda outputs, _: outputs.sum(),
                Descent([(network.parameters(), 1)], weight_decay=0),
                4,
                count,
            )
        peaks.append(most)
    # a picture alone is 3 * 64 * 64 values; the outputs of 56 more pictures are 5 values each
    assert peaks[1] - peaks[0] <= 56 * 5


def test_a_loss_without_pairs_leaves_the_weights_alone() -> None:
    network = Watched()
    found = gradients(network, lambda outputs, _: outputs.new_zeros((), requires_grad=True) * 1, 3, 5)
    assert all(not gradient.any() for gradient in found)


@pytest.mark.parametrize(
    "module", [nn.BatchNorm2d(3), nn.Dropout(0.1), nn.SyncBatchNorm(3), StochasticDepth(0.1, "row")]
)
def test_stages_refuse_what_mixes_pictures_or_draws_at_random(module: nn.Module) -> None:
    network = nn.Sequential(module, Watched())
    descent = Descent([(network.parameters(), 0.1)], weight_decay=0)
    with pytest.raises(OptionError, match=rf"0 \({type(module).__name__}\) is in training mode.*--freeze-norm"):
        Stepper(network, contrast, descent, CPU, StepForm(chunk=2))
    Stepper(network, contrast, descent, CPU, StepForm())
    module.eval()
    Stepper(network, contrast, descent, CPU, StepForm(chunk=2))


def test_dropout_of_nothing_is_no_dropout() -> None:
    network = nn.Sequential(nn.Dropout(0.0), StochasticDepth(0.0, "row"), Watched())
    Stepper(network, contrast, Descent([(network.parameters(), 0.1)], weight_decay=0), CPU, StepForm(chunk=2))
