"""Dimension and power chosen on held-out pictures, against fitting and describing each candidate by itself."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepir.descriptors import Descriptors
from deepir.distill import whitening_choice
from deepir.distill.backbone import wrap_module
from deepir.distill.checkpoint import Model, new_model
from deepir.distill.describe import describe
from deepir.distill.region_bank import collect_regions
from deepir.distill.whitening import WhitenConfig, whiten
from deepir.distill.whitening_choice import choose, whiten_auto
from deepir.distill.whitening_labels import read_labels
from deepir.errors import InputError, OptionError
from deepir.head import Head
from deepir.image import list_images, read_image
from deepir.score import average_precision
from deepir.whitening import Whitening

MakeModel = Callable[..., Model]
DIMS = (2, 4, 8, 16)


@pytest.fixture(autouse=True)
def small_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening_choice, "DIMS", DIMS)


@pytest.fixture(scope="module")
def references(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture of each label."""
    folder = tmp_path_factory.mktemp("references")
    for path in sorted(pictures.glob("*/7.png")):
        (folder / path.parent.name).mkdir()
        shutil.copy(path, folder / path.parent.name / "reference.png")
    return folder


def read(paths: list[Path]) -> list[np.ndarray]:
    return [read_image(path) for path in paths]


def table(lines: list[str]) -> dict[tuple[int, float], float]:
    """The printed scores of the candidates."""
    start = next(number for number, line in enumerate(lines) if line.startswith("  dim"))
    powers = [float(power) for power in re.findall(r"power ([\d.]+)", lines[start])]
    rows = [line.split() for line in lines[start + 1 :] if re.match(r" *\d+  ", line)]
    return {(int(dim), power): float(each) for dim, *row in rows for power, each in zip(powers, row, strict=True)}


def mean_precision(
    descriptors_nd: Descriptors, labels: list[str], groups: list[int], *, across: bool
) -> dict[str, float]:
    """For each label the mean over groups of the mean average precision of its queries."""
    found: dict[str, dict[int, list[float]]] = {}
    for query in range(len(labels)):
        others = [n for n in range(len(labels)) if n != query and not (across and groups[n] == groups[query])]
        order = sorted(others, key=lambda n: -float(descriptors_nd[query] @ descriptors_nd[n]))
        relevant = np.array([labels[n] == labels[query] for n in order])
        if relevant.any():
            precision = average_precision(relevant, int(relevant.sum()))
            found.setdefault(labels[query], {}).setdefault(groups[query], []).append(precision)
    return {label: float(np.mean([np.mean(each) for each in of.values()])) for label, of in found.items()}


@pytest.mark.parametrize("across", [False, True])
def test_each_candidate_scores_as_if_fitted_on_one_half_and_described_on_the_other(
    make_model: MakeModel, pictures: Path, references: Path, across: bool
) -> None:
    folders = [pictures, references] if across else [pictures]
    groups = [list_images(folder) for folder in folders]
    labels = {path: path.parent.name for paths in groups for path in paths}
    lines: list[str] = []
    whiten_auto(make_model(sizes=((48, 48), (64, 64))), groups, labels, report=lines.append)
    first = sorted(set(labels.values()))[::2]
    for dim, power in ((2, 0.5), (8, 0.25)):
        found: dict[str, float] = {}
        for half in (True, False):
            parts = [[path for path in paths if (labels[path] in first) == half] for paths in groups]
            others = [[path for path in paths if (labels[path] in first) != half] for paths in groups]
            model = whiten(make_model(sizes=((48, 48), (64, 64))), others, WhitenConfig(dim=dim, power=power))
            paths = [path for part in parts for path in part]
            of_group = [number for number, part in enumerate(parts) for _ in part]
            shown = [labels[path] for path in paths]
            found |= mean_precision(describe(model, read(paths)), shown, of_group, across=across)
        assert table(lines)[dim, power] == pytest.approx(100 * np.mean(list(found.values())), abs=0.4)


def test_the_choice_is_fitted_on_all_pictures_and_recorded(make_model: MakeModel, pictures: Path) -> None:
    paths, lines = list_images(pictures), []
    model = whiten_auto(make_model(), [paths], read_labels(pictures, paths), report=lines.append)
    dim, power = map(float, re.search(r"chosen: dim (\d+), power ([\d.]+)", lines[-1]).groups())
    again = whiten(make_model(), [paths], WhitenConfig(dim=int(dim), power=power))
    agreement = (describe(model, read(paths)) * describe(again, read(paths))).sum(axis=1)
    np.testing.assert_allclose(agreement, 1, atol=1e-3)
    scores = table(lines)
    assert model.spec.dim == dim
    assert model.spec.whitening.startswith(f"pca dim {dim:g} power {power:g} on 240 regions of 48 pictures (pictures")
    assert model.spec.whitening.endswith(
        f"chosen from {len(scores)} by mAP over 6 labels: {scores[dim, power] / 100:.3f}"
    )


def test_dimensions_that_half_of_the_vectors_cannot_carry_are_no_candidates(
    make_model: MakeModel, pictures: Path
) -> None:
    lines: list[str] = []
    paths = list_images(pictures)
    whiten_auto(make_model(), [paths], {}, report=lines.append)
    assert {dim for dim, _ in table(lines)} == {2, 4, 8}
    few: list[str] = []
    # two pictures with five regions in each half: nine components, and the trunk has twelve channels
    whiten_auto(make_model(), [paths[::12]], {}, report=few.append)
    assert {dim for dim, _ in table(few)} == {2, 4, 8}


def test_where_no_dimension_fits_the_largest_possible_is_the_candidate(
    make_model: MakeModel, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whitening_choice, "DIMS", (64, 128))
    assert whiten_auto(make_model(), [list_images(pictures)], {}).spec.dim == 12


def test_the_same_pictures_give_the_same_whitening(make_model: MakeModel, pictures: Path) -> None:
    paths = list_images(pictures)
    one, other = (whiten_auto(make_model(), [paths], {}) for _ in range(2))
    assert one.spec == other.spec


def test_without_labels_pictures_are_found_from_views_of_themselves(make_model: MakeModel, pictures: Path) -> None:
    lines: list[str] = []
    model = whiten_auto(make_model(), [list_images(pictures)], {}, report=lines.append)
    assert "cropped and re-lit view of itself (no labels; they would judge better)" in lines[0]
    assert "cropped and re-lit view of itself" in model.spec.whitening
    assert all(0 < score <= 100 for score in table(lines).values())


def test_fewer_than_four_labels_are_no_judge(make_model: MakeModel, pictures: Path) -> None:
    paths = [path for label in ("tea", "milk", "salt") for path in list_images(pictures / label)]
    lines: list[str] = []
    whiten_auto(make_model(), [paths], read_labels(pictures, paths), report=lines.append)
    assert "view of itself" in lines[0]


def test_shared_labels_are_searched_from_folder_to_folder(
    make_model: MakeModel, pictures: Path, references: Path
) -> None:
    groups = [list_images(pictures), list_images(references)]
    labels = {path: path.parent.name for paths in groups for path in paths}
    lines: list[str] = []
    whiten_auto(make_model(), groups, labels, report=lines.append)
    assert lines[0] == "judged by mAP over 6 labels from folder to folder"
    assert not any(line.startswith("warning") for line in lines)


def test_folders_without_shared_labels_are_warned_of(make_model: MakeModel, pictures: Path, references: Path) -> None:
    groups = [list_images(pictures), list_images(references)]
    lines: list[str] = []
    whiten_auto(make_model(), groups, read_labels(pictures, groups[0]), report=lines.append)
    assert lines[0] == "judged by mAP over 6 labels"
    assert lines[1].startswith("warning: too few labels lie in two folders")


def test_a_picture_given_twice_does_not_find_itself(make_model: MakeModel, pictures: Path) -> None:
    paths = list_images(pictures)
    labels = read_labels(pictures, paths)
    once: list[str] = []
    twice: list[str] = []
    whiten_auto(make_model(), [paths], labels, report=once.append)
    whiten_auto(make_model(), [paths, paths], labels, report=twice.append)
    assert table(twice) == pytest.approx(table(once), abs=0.2)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({(64, 0.25): [0.5, 0.5, 0.5, 0.5], (128, 0.25): [0.9, 0.9, 0.8, 0.8]}, (128, 0.25)),
        ({(64, 0.25): [0.8, 0.6, 0.9, 0.5], (128, 0.25): [0.9, 0.5, 0.9, 0.6]}, (64, 0.25)),
        (
            {(64, 0.25): [0.8, 0.6, 0.8, 0.5], (64, 0.5): [0.8, 0.6, 0.9, 0.5], (128, 0.5): [0.9, 0.5, 0.9, 0.6]},
            (64, 0.5),
        ),
        ({(64, 0.25): [1.0, 1.0], (64, 0.5): [1.0, 1.0], (128, 0.25): [1.0, 1.0]}, (64, 0.25)),
    ],
)
def test_of_what_a_standard_error_cannot_tell_apart_the_smallest_is_chosen(
    scores: dict[tuple[int, float], list[float]], chosen: tuple[int, float]
) -> None:
    assert choose({candidate: np.array(values) for candidate, values in scores.items()}) == chosen


def test_models_with_middle_layers_are_refused(make_model: MakeModel, pictures: Path) -> None:
    model = make_model()
    fused = Model(model.network, dataclasses.replace(model.spec, head=Head(fusion="concat", middle=(3,))))
    with pytest.raises(OptionError, match="fusion concat: give --dim and --power"):
        whiten_auto(fused, [list_images(pictures)], {})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_pictures_are_refused(make_model: MakeModel, pictures: Path, count: int) -> None:
    with pytest.raises(InputError, match=f"{count} pictures are too few to choose a whitening"):
        whiten_auto(make_model(), [list_images(pictures)[:count]], {})


@pytest.mark.parametrize(("combine", "resize"), [("sum", "stretch"), ("max", "stretch"), ("sum", "longest")])
def test_the_bank_describes_as_the_network_does(
    make_model: MakeModel, pictures: Path, combine: str, resize: str
) -> None:
    trunk = wrap_module("tiny", make_model().network.trunk)
    sizes = ((64, 64), (96, 96), (48, 48))
    model = new_model(trunk, sizes=sizes, head=Head(combine=combine), resize=resize)
    images = [image[:, : 72 - 12 * (number % 4)] for number, image in enumerate(read(list_images(pictures)[:9]))]
    rng = np.random.default_rng(0)
    whitening = Whitening(rng.normal(size=(5, 12)).astype(np.float32), rng.normal(size=5).astype(np.float32))
    bank = collect_regions(model, images)
    model.network.whiten_with(whitening)
    np.testing.assert_allclose(bank.describe(bank.whiten(whitening)), describe(model, images), atol=5e-3)
    some = np.arange(9) % 2 == 0
    np.testing.assert_allclose(
        bank.only(some).describe(bank.only(some).whiten(whitening)), describe(model, images)[some], atol=5e-3
    )
