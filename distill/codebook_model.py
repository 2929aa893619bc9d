"""A codebook beside a trunk: fitted on pictures, kept in a file, used to describe pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deepir.descriptors import Descriptors, normalise
from deepir.distill.checkpoint import Model
from deepir.distill.codebook import Codebook, Kind, LocalVectors, encode, fit_codebook
from deepir.errors import DeepIRError, ModelError, ShapeError
from deepir.files import replacing
from deepir.image import Box, Image, prepare, read_image
from deepir.optional import need
from deepir.retrieval_set import RetrievalSet
from deepir.score import Scores, score

SCHEMA = "deepir.codebook/1"

_KEY = "deepir"
_MOST_PICTURES = 1000
_MOST_VECTORS = 50_000
"""Local vectors to cluster: more move the words little and take long."""


def local_vectors(model: Model, image: Image, box: Box | None = None) -> LocalVectors:
    """The cells of the trunk's last map, each of length 1, at every resolution together: (T, C).

    Args:
        model: In evaluation mode.
        image: RGB, uint8 (H, W, 3).
        box: The part of it to look at, as in `deepir.image.prepare`.

    Raises:
        ShapeError: Not such an image.
    """
    device = next(model.network.parameters()).device
    cells = []
    for size in model.spec.resolutions:
        prepared = prepare(image, model.spec, size, box)
        with torch.inference_mode():
            map_chw = model.network.maps(torch.from_numpy(prepared).to(device))[-1][0]
        cells.append(map_chw.flatten(start_dim=1).T.cpu().numpy())
    return normalise(np.concatenate(cells))


def fit_codebook_on(model: Model, paths: Sequence[Path], words: int, kind: Kind = "vlad", *, seed: int = 0) -> Codebook:
    """Fit a codebook on the local vectors of pictures; of very many pictures, and of very many vectors, on some.

    Raises:
        InputError: A file that is missing or not a picture.
        ShapeError: Fewer local vectors than words.
        OptionError: No such kind, or fewer than one word.
    """
    if not paths:
        message = "a codebook needs pictures to be fitted on, got none"
        raise ShapeError(message)
    rng = np.random.default_rng(seed)
    chosen = paths[:: -(-len(paths) // _MOST_PICTURES)]
    share = _MOST_VECTORS // len(chosen)
    found = [rng.permutation(local_vectors(model, read_image(path)))[:share] for path in chosen]
    return fit_codebook(np.concatenate(found), words, kind, seed=seed, model=model.spec.fingerprint)


def describe_with(
    codebook: Codebook, model: Model, images: Sequence[Image], boxes: Sequence[Box | None] | None = None
) -> Descriptors:
    """One descriptor of length 1 for each image, (N, D): `encode` of its local vectors.

    Raises:
        ModelError: The codebook was fitted on another model.
        ShapeError: Not RGB images.
    """
    if codebook.model and codebook.model != model.spec.fingerprint:
        message = (
            f"the codebook was fitted on the model {codebook.model}, this is {model.spec.fingerprint}: "
            "use that model, or fit a codebook on this one"
        )
        raise ModelError(message)
    boxes = boxes or [None] * len(images)
    rows = [encode(codebook, local_vectors(model, image, box)) for image, box in zip(images, boxes, strict=True)]
    return np.stack(rows) if rows else np.empty((0, codebook.dim), dtype=np.float32)


def score_with(codebook: Codebook, model: Model, dataset: RetrievalSet) -> Scores:
    """What the codebook's descriptors score on a set; queries are cut to their boxes.

    Raises:
        InputError: A file that is missing or not a picture.
        ModelError: The codebook was fitted on another model.
    """
    database = [describe_with(codebook, model, [read_image(path)]) for path in dataset.database]
    queries = [describe_with(codebook, model, [read_image(query.image)], [query.box]) for query in dataset.queries]
    return score(dataset, np.concatenate(queries), np.concatenate(database))


def save_codebook(codebook: Codebook, path: Path) -> None:
    """Write a safetensors file, whole or not at all."""
    arrays = {"centres": codebook.centres_kc, "variances": codebook.variances_kc, "weights": codebook.weights_k}
    note = json.dumps({"schema": SCHEMA, "kind": codebook.kind, "model": codebook.model})
    given = {name: array for name, array in arrays.items() if array is not None}
    with replacing(path) as temporary:
        need("safetensors.numpy").save_file(given, temporary, metadata={_KEY: note})


def load_codebook(path: Path) -> Codebook:
    """Read what `save_codebook` wrote.

    Raises:
        ModelError: Missing, truncated, not a codebook, or with values that cannot be.
    """
    safetensors = need("safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as stream:
            note = json.loads((stream.metadata() or {})[_KEY])
            arrays = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118 not a dict
        if note["schema"] != SCHEMA or any(array.dtype != np.float32 for array in arrays.values()):
            message = f"it has the schema {note['schema']!r} or values other than float32, expected {SCHEMA}"
            raise ModelError(message)
        return Codebook(
            kind=note["kind"],
            centres_kc=arrays["centres"],
            variances_kc=arrays.get("variances"),
            weights_k=arrays.get("weights"),
            model=note["model"],
        )
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, DeepIRError) as error:
        message = f"{path} is not a codebook ({error}): make one with deepir-distill codebook"
        raise ModelError(message) from error
