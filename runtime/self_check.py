"""Proof that a program runs a model as it should: the same pictures through it and through a reference, judged."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepir.card import GateVerdict, ModelCard
from deepir.descriptors import Descriptors
from deepir.gate import GateLimits, judge
from deepir.image import Image
from deepir.inputs import model_inputs
from deepir.spec import ModelSpec, Size

if TYPE_CHECKING:
    from deepir.runtime.backend import Backend

Arrays = tuple[NDArray[Any], ...]
"""What a backend takes in one run."""

PROOF_PICTURES = 32
"""So many at least: with fewer one nearest neighbour decides too much."""

MADE_UP = "made-up pictures"

_SEED = 0
_BLOCKS = (4, 8, 16, 32)
_NOISE = 6.0
_SHIFT_SHARE = 24
_SECOND_LIGHT = 0.85

_WARM_UPS = 2
_FEWEST_RUNS = 5
_MOST_RUNS = 100
_SECONDS = 0.5


def prove_backend(
    backend: "Backend", reference: "Backend", inputs: Iterable[Arrays], limits: GateLimits
) -> GateVerdict:
    """Run the same inputs through both and compare the descriptors.

    Args:
        backend: What is to be proven.
        reference: What it must agree with: ONNX Runtime on the CPU, with the same file or its FP32 form.
        inputs: PROOF_PICTURES or more, as `proof_inputs` gives them.
        limits: What the two must share.

    Raises:
        ShapeError: Fewer than two pictures.
    """
    pairs = [(reference.run(*arrays), backend.run(*arrays)) for arrays in inputs]
    if not pairs:
        return judge(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), limits)
    expected, found = zip(*pairs, strict=True)
    return judge(np.concatenate(expected), np.concatenate(found), limits, backend.name)


def describe_inputs(backend: "Backend", inputs: Iterable[Arrays]) -> Descriptors:
    """The descriptors (N, D) of inputs, one run each."""
    return np.concatenate([backend.run(*arrays) for arrays in inputs])


def proof_inputs(card: ModelCard, pictures: Sequence[Image] = ()) -> Iterator[Arrays]:
    """One picture after the other as the file takes it: those given, topped up to PROOF_PICTURES by made-up ones."""
    made_up = made_up_pictures(card.spec, max(0, PROOF_PICTURES - len(pictures)))
    for picture in (*pictures, *made_up):
        yield model_inputs([picture], card)[0].arrays


def made_up_pictures(spec: ModelSpec, count: int) -> list[Image]:
    """Pictures of made-up scenes, the same each time: blocks of colour of several sizes, each scene seen twice.

    The second view is shifted, darker and noisy, so that each picture has one that is clearly nearest to it.
    """
    generator = np.random.default_rng(_SEED)
    sizes = _sizes(spec)
    pictures: list[Image] = []
    while len(pictures) < count:
        scene = _scene(generator, sizes[len(pictures) // 2 % len(sizes)])
        pictures += [_view(scene, generator, 1.0), _view(_shifted(scene), generator, _SECOND_LIGHT)]
    return pictures[:count]


def milliseconds_each(run: Callable[[], object]) -> float:
    """The median time of a run, after a few that warm up."""
    for _ in range(_WARM_UPS):
        run()
    times: list[float] = []
    while len(times) < _FEWEST_RUNS or (sum(times) < _SECONDS and len(times) < _MOST_RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def _sizes(spec: ModelSpec) -> list[Size]:
    """The sizes of the made-up pictures: every alternative; square, upright and lying where the aspect is kept."""
    if spec.resize == "nearest":
        return list(spec.sizes)
    height, width = spec.size
    if spec.resize == "longest":
        return [(height, width), (height, width * 3 // 4), (height * 3 // 4, width)]
    return [(height, width)]


def _scene(generator: np.random.Generator, size: Size) -> NDArray[np.float32]:
    height, width = size
    scene = np.zeros((height, width, 3), np.float32)
    for blocks in _BLOCKS:
        colours = generator.uniform(0, 255, (blocks, blocks, 3)).astype(np.float32)
        rows, columns = np.arange(height) * blocks // height, np.arange(width) * blocks // width
        scene += colours[rows][:, columns] / len(_BLOCKS)
    # the mean of several colours is greyish: spread them over the whole range again
    spread: NDArray[np.float32] = (scene - scene.min()) * (255 / np.ptp(scene))
    return spread


def _shifted(scene: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.roll(scene, (scene.shape[0] // _SHIFT_SHARE, scene.shape[1] // _SHIFT_SHARE), axis=(0, 1))


def _view(scene: NDArray[np.float32], generator: np.random.Generator, light: float) -> Image:
    noise = generator.normal(0, _NOISE, scene.shape)
    picture: Image = np.clip(scene * light + noise, 0, 255).astype(np.uint8)
    return picture
