"""What deepir-eval scores: a checkpoint in torch, a model in ONNX Runtime, or descriptors that lie on disk."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deepir.card import ModelCard
from deepir.descriptors import Descriptors
from deepir.distill.checkpoint import Model, load_model
from deepir.distill.describe import describe
from deepir.distill.device import find_device
from deepir.errors import InputError, OptionError
from deepir.export.descriptor_files import SUFFIX, DescriptorFile, read_descriptor_file
from deepir.export.eval_stamp import Stamp, make_stamp
from deepir.image import Box, Image
from deepir.reading import read_images
from deepir.runtime.backend import BackendName, BackendOptions, Device
from deepir.runtime.engine_beside import ENGINE_SUFFIXES
from deepir.runtime.extractor import BATCH_SIZE, Extractor
from deepir.runtime.progress import Advance
from deepir.spec import Numerics, parse_scales

Describe = Callable[[Sequence[Image], Sequence[Box | None]], Descriptors]
"""RGB pictures, and the part of each to look at (None: all of it), give (N, D)."""


Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Takes a title and a total, gives what to call with the number of things done."""


@contextmanager
def silent(_title: str, _total: int) -> Iterator[Advance]:
    """Progress that nobody sees."""
    yield lambda _done: None


@dataclass(frozen=True, slots=True)
class View:
    """A picture on disk, whole or the part in a box."""

    image: Path
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is under evaluation, whatever computes its descriptors.

    Attributes:
        path: The file it was opened from.
        card: The model's description.
        runner: The program and device that compute, or computed, the descriptors.
        describe: None when all there is are descriptors on disk.
        parameters: How many numbers the model has; None where the file does not say.
        stored: The descriptors on disk.
    """

    path: Path
    card: ModelCard
    runner: str
    describe: Describe | None
    parameters: int | None = None
    stored: DescriptorFile | None = None

    def stamp(self) -> Stamp:
        """Who makes, or made, the descriptors; not scored yet."""
        if self.stored is not None:
            return {**self.stored.stamp, "scoring": None}
        return make_stamp(self.path, self.card, self.runner)


def open_subject(path: Path, options: BackendOptions | None = None) -> Subject:
    """Open a checkpoint with torch, a model file with what runs it, an .npz file as the descriptors that it holds.

    Args:
        path: What to evaluate.
        options: How a model file runs; without them as `default_backend` says.

    Raises:
        InputError: A file of another kind.
        MissingDependency: The device is cuda and this machine has none.
    """
    options = options or BackendOptions(backend=default_backend(path))
    if path.suffix == ".safetensors":
        return subject_of_model(path, load_model(path), device=options.device)
    if path.suffix in (".onnx", *ENGINE_SUFFIXES):
        extractor = Extractor.open(path, options)
        return Subject(path, extractor.card, extractor.backend.name, extractor.describe)
    if path.suffix == SUFFIX:
        file = read_descriptor_file(path)
        return Subject(path, file.card, file.stamp["runner"], None, stored=file)
    message = (
        f"cannot evaluate {path}: expected a .safetensors checkpoint, an .onnx, .engine or descriptors file ({SUFFIX})"
    )
    raise InputError(message)


def default_backend(path: Path) -> BackendName:
    """What evaluates a file of which nothing is said: ONNX Runtime, the reference, for an .onnx file."""
    return "onnxruntime" if path.suffix == ".onnx" else "auto"


def open_at_scales(path: Path, scales: str, *, device: Device = "auto") -> Subject:
    """Open a checkpoint at other resolutions than it was made for.

    Raises:
        OptionError: Not a checkpoint: an ONNX file has its size built in.
    """
    if path.suffix != ".safetensors":
        message = f"--scales needs a .safetensors checkpoint; {path} has its size built in"
        raise OptionError(message)
    model = load_model(path)
    sizes = parse_scales(scales, model.spec.size)
    return subject_of_model(path, Model(model.network, model.spec.at_sizes(sizes)), device=device)


def subject_of_model(path: Path, model: Model, *, device: Device = "cpu") -> Subject:
    """A torch model under evaluation; `path` is where its size on disk is read."""
    model.network.eval()
    placed = find_device(device)
    placed.place(model.network)
    runner = f"torch, {placed.name.upper()}"
    card = ModelCard(model.spec, Numerics.FP32)
    return Subject(path, card, runner, lambda images, boxes: describe(model, images, boxes), model.parameters)


def describe_views(
    describe_images: Describe, views: Sequence[View], *, threads: int | None = None
) -> Iterator[tuple[Sequence[View], Descriptors]]:
    """Describe pictures from disk, a batch at a time and in order, while the next ones are being decoded.

    Raises:
        InputError: A picture that is missing or cannot be decoded.
        OptionError: Fewer than one thread.
    """
    with closing(read_images((view.image for view in views), workers=threads)) as images:
        for start in range(0, len(views), BATCH_SIZE):
            batch = views[start : start + BATCH_SIZE]
            pictures = [next(images) for _ in batch]
            yield batch, describe_images(pictures, [view.box for view in batch])
