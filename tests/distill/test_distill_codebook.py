"""BoW, VLAD and Fisher vectors against toys worked by hand and against the gradients that torch finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepir.datasets import read_retrieval_sets
from deepir.distill.checkpoint import Model
from deepir.distill.codebook import KINDS, Codebook, Kind, encode, fisher_vector, fit_codebook, vlad, word_counts
from deepir.distill.codebook_model import (
    describe_with,
    fit_codebook_on,
    load_codebook,
    local_vectors,
    save_codebook,
    score_with,
)
from deepir.distill.data_cli import codebook_command
from deepir.errors import DeepIRError, InputError, ModelError, OptionError, ShapeError
from deepir.image import prepare, read_image

Rows = NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)


def rows(rng: np.random.Generator, count: int, channels: int = 3) -> Rows:
    return rng.normal(size=(count, channels)).astype(np.float32)


def codebook_of(kind: Kind, rng: np.random.Generator, words: int = 4, channels: int = 3) -> Codebook:
    if kind != "fisher":
        return Codebook(kind=kind, centres_kc=rows(rng, words, channels))
    return Codebook(
        kind=kind,
        centres_kc=rows(rng, words, channels),
        variances_kc=rng.uniform(0.1, 2, (words, channels)).astype(np.float32),
        weights_k=rng.dirichlet(np.ones(words) * 5).astype(np.float32),
    )


def test_vlad_of_the_toy() -> None:
    # (1, 0) belongs to (0, 0); (4, 5) and (5, 4) to (5, 5), from which they differ by (-1, -1) together
    codebook = Codebook(kind="vlad", centres_kc=np.array([[0, 0], [5, 5]], np.float32))
    vectors = np.array([[4, 5], [1, 0], [5, 4]], np.float32)
    np.testing.assert_allclose(vlad(codebook, vectors).ravel(), [1 / 3, 0, -1 / 3, -1 / 3], atol=1e-12)
    np.testing.assert_allclose(encode(codebook, vectors), np.array([1, 0, -1, -1]) / np.sqrt(3), atol=1e-6)


@given(seed=seeds, count=st.integers(1, 30))
def test_vlad_of_one_word_is_the_mean_residual(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    codebook, vectors = codebook_of("vlad", rng, words=1), rows(rng, count)
    np.testing.assert_allclose(vlad(codebook, vectors)[0], (vectors - codebook.centres_kc[0]).mean(axis=0), atol=1e-6)


@given(seed=seeds, count=st.integers(1, 30))
def test_word_counts_sum_to_the_number_of_vectors_and_go_to_the_nearest(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    codebook, vectors = codebook_of("bow", rng), rows(rng, count)
    counts = word_counts(codebook, vectors)
    distances = np.linalg.norm(vectors[:, None].astype(np.float64) - codebook.centres_kc[None], axis=2)
    assert counts.sum() == count
    np.testing.assert_array_equal(counts, np.bincount(distances.argmin(axis=1), minlength=4))


@given(seed=seeds, count=st.integers(1, 20))
def test_a_fisher_vector_is_the_gradient_of_the_log_likelihood(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    codebook, vectors = codebook_of("fisher", rng), torch.from_numpy(rows(rng, count)).double()
    means = torch.tensor(codebook.centres_kc, dtype=torch.float64, requires_grad=True)
    deviations = torch.tensor(np.sqrt(codebook.variances_kc.astype(np.float64)), requires_grad=True)
    weights = torch.tensor(codebook.weights_k, dtype=torch.float64)
    gaussians = torch.distributions.Normal(means, deviations).log_prob(vectors[:, None]).sum(dim=2)
    torch.logsumexp(gaussians + weights.log(), dim=1).mean().backward()
    scale = deviations.detach() / weights[:, None].sqrt()
    found = fisher_vector(codebook, vectors.float().numpy())
    np.testing.assert_allclose(found[0], (means.grad * scale).numpy(), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found[1], (deviations.grad * scale / np.sqrt(2)).numpy(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "dim"), [("bow", 4), ("vlad", 12), ("fisher", 24)])
@given(seed=seeds, count=st.integers(1, 20))
def test_a_descriptor_has_the_size_of_its_kind_and_length_one_in_any_order(
    kind: Kind, dim: int, seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    codebook, vectors = codebook_of(kind, rng), rows(rng, count)
    descriptor = encode(codebook, vectors)
    assert (descriptor.shape, descriptor.dtype, codebook.dim) == ((dim,), np.float32, dim)
    assert np.linalg.norm(descriptor) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(encode(codebook, rng.permutation(vectors)), descriptor, atol=1e-5)


def test_a_picture_that_is_all_words_has_no_vlad() -> None:
    codebook = Codebook(kind="vlad", centres_kc=np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(encode(codebook, np.eye(3, dtype=np.float32)), np.zeros(9, np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_planted_clusters_are_found_and_a_seed_repeats_them(kind: Kind) -> None:
    rng = np.random.default_rng(3)
    planted = 10 * np.eye(4, dtype=np.float32)
    vectors = np.concatenate([centre + rng.normal(0, 0.1, (50, 4)) for centre in planted]).astype(np.float32)
    codebook, again = (fit_codebook(vectors, 4, kind, seed=5) for _ in range(2))
    order = codebook.centres_kc.argmax(axis=1)
    np.testing.assert_allclose(codebook.centres_kc, planted[order], atol=0.1)
    np.testing.assert_array_equal(codebook.centres_kc, again.centres_kc)
    if kind == "fisher":
        np.testing.assert_allclose(codebook.variances_kc, 0.01, atol=0.01)
        np.testing.assert_allclose(codebook.weights_k, 0.25, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_codebook_read_back_is_the_one_written(kind: Kind, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codebook, vectors = codebook_of(kind, rng), rows(rng, 5)
    save_codebook(codebook, tmp_path / "words.safetensors")
    opened = load_codebook(tmp_path / "words.safetensors")
    assert (opened.kind, opened.dim) == (kind, codebook.dim)
    np.testing.assert_array_equal(encode(opened, vectors), encode(codebook, vectors))


def test_what_is_no_codebook_is_refused(tmp_path: Path, make_model: Callable[..., Model]) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    path = tmp_path / "words.safetensors"
    save_codebook(codebook_of("fisher", rng), path)
    whole = path.read_bytes()
    arrays = {"centres": rows(rng, 2)}
    note = '{"schema": "deepir.codebook/1", "kind": "vlad", "model": ""}'

    def written(tensors: dict[str, Any], text: str) -> bytes:
        save_file(tensors, path, metadata={"deepir": text})
        return path.read_bytes()

    bad = {
        "nothing": b"",
        "text": b"words",
        "torn": whole[:-10],
        "schema": written(arrays, note.replace("/1", "/9")),
        "kind": written(arrays, note.replace("vlad", "surf")),
        "arrays": written(arrays, note.replace("vlad", "fisher")),
        "json": written(arrays, "{"),
        "list": written(arrays, "[]"),
        "dtype": written({"centres": rows(rng, 2).astype(np.float64)}, note),
        "shape": written({"centres": rows(rng, 2)[0]}, note),
        "values": written({"centres": rows(rng, 2) * np.nan}, note),
        "foreign": written({}, note),
    }
    save_file(arrays, path)
    bad["bare"] = path.read_bytes()
    for name, content in bad.items():
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not a codebook"):
            load_codebook(path)
        assert name
    with pytest.raises(ModelError, match="is not a codebook"):
        load_codebook(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("vectors", "words", "kind", "error"),
    [
        (np.zeros((3, 2), np.float32), 4, "vlad", ShapeError),
        (np.zeros((0, 2), np.float32), 1, "vlad", ShapeError),
        (np.zeros((3, 0), np.float32), 1, "bow", ShapeError),
        (np.zeros(3, np.float32), 1, "vlad", ShapeError),
        (np.full((3, 2), np.nan, np.float32), 1, "fisher", ShapeError),
        (np.zeros((3, 2), np.float32), 0, "vlad", OptionError),
        (np.zeros((3, 2), np.float32), 1, "surf", OptionError),
    ],
)
def test_what_cannot_be_clustered_is_refused(vectors: Rows, words: int, kind: Any, error: type[DeepIRError]) -> None:
    with pytest.raises(error):
        fit_codebook(vectors, words, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_another_size_or_with_nan_are_refused(kind: Kind) -> None:
    codebook = codebook_of(kind, np.random.default_rng(0))
    for vectors in (np.zeros((2, 4)), np.zeros((0, 3)), np.zeros(3), np.full((2, 3), np.inf)):
        with pytest.raises(ShapeError):
            encode(codebook, vectors.astype(np.float32))


def test_a_fisher_vector_needs_its_own_kind_of_codebook() -> None:
    with pytest.raises(ShapeError, match="got vlad"):
        fisher_vector(codebook_of("vlad", np.random.default_rng(0)), np.zeros((1, 3), np.float32))


def test_local_vectors_are_the_cells_of_the_map(make_model: Callable[..., Model], pictures: Path) -> None:
    model = make_model(sizes=((64, 64), (96, 96)))
    image = read_image(pictures / "tea" / "0.png")
    vectors = local_vectors(model, image)
    assert vectors.shape == (8 * 8 + 12 * 12, 12)
    with torch.inference_mode():
        cell = model.network.maps(torch.from_numpy(prepare(image, model.spec, (64, 64))))[-1][0, :, 2, 5].numpy()
    np.testing.assert_allclose(vectors[2 * 8 + 5], cell / np.linalg.norm(cell), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_a_thing_are_nearer_than_those_of_others(
    kind: Kind, make_model: Callable[..., Model], pictures: Path
) -> None:
    model = make_model()
    paths = sorted(pictures.glob("*/[0-2].png"))
    codebook = fit_codebook_on(model, paths, 8, kind)
    descriptors_nd = describe_with(codebook, model, [read_image(path) for path in paths])
    labels = np.array([path.parent.name for path in paths])
    similarity_nn = descriptors_nd @ descriptors_nd.T - 2 * np.eye(len(paths))
    assert descriptors_nd.shape == (18, codebook.dim)
    by_chance = 2 / 17
    assert np.mean(labels[similarity_nn.argmax(axis=1)] == labels) > 3 * by_chance


def test_a_codebook_of_another_model_is_refused(make_model: Callable[..., Model], pictures: Path) -> None:
    codebook = fit_codebook_on(make_model(), [pictures / "tea" / "0.png"], 2)
    with pytest.raises(ModelError, match="fit a codebook on this one"):
        describe_with(codebook, make_model(seed=1), [])
    assert describe_with(codebook, make_model(), []).shape == (0, codebook.dim)
    with pytest.raises(ShapeError, match="got none"):
        fit_codebook_on(make_model(), [], 2)
    with pytest.raises(InputError, match="cannot read"):
        fit_codebook_on(make_model(), [pictures / "absent.png"], 2)


def test_the_command_fits_writes_and_scores(
    make_model: Callable[..., Model], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepir.distill.checkpoint.load_model", lambda path: make_model())
    out = tmp_path / "words.safetensors"
    words = [
        "model",
        "--images",
        str(pictures),
        "-o",
        str(out),
        "--kind",
        "bow",
        "--words",
        "6",
        "--score",
        str(pictures),
    ]
    result = CliRunner().invoke(codebook_command, words)
    assert result.exit_code == 0, result.output
    assert f"wrote {out}: bow, 6 words, 6 values" in result.stderr
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"{pictures.name}: mAP 0.")
    codebook, (dataset,) = load_codebook(out), read_retrieval_sets(pictures).values()
    assert f"recall@1 {score_with(codebook, make_model(), dataset).recall_at[1]:.4f}" in line


def test_a_query_is_cut_to_its_box(make_model: Callable[..., Model], pictures: Path) -> None:
    model, image = make_model(), read_image(pictures / "tea" / "0.png")
    codebook = fit_codebook_on(model, [pictures / "tea" / "0.png"], 3)
    boxed = describe_with(codebook, model, [image], [(8.0, 0.0, 40.0, 72.0)])
    np.testing.assert_allclose(boxed, describe_with(codebook, model, [image[:, 8:40]]), atol=1e-5)


def test_a_codebook_that_cannot_be_written_is_refused_before_the_work(pictures: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "words.npz", tmp_path / "no" / "words.safetensors"):
        result = CliRunner().invoke(codebook_command, ["model", "--images", str(pictures), "-o", str(out)])
        assert (result.exit_code, "ending in .safetensors" in result.stderr) == (3, True)
