"""References described by a teacher, asked for by its student; a student of another teacher is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from deepir.card import METADATA_KEY, ModelCard
from deepir.errors import IndexModelError, InputError, ShapeError
from deepir.image import Image, read_image
from deepir.runtime import Extractor, Index, Recogniser
from deepir.runtime.asymmetric import MOST_PICTURES, check_compatible, compare, fit_threshold_to_student
from deepir.runtime.threshold import threshold_from_queries

Kernel = NDArray[np.float32]
Rows = Callable[..., NDArray[np.float32]]
MakeCard = Callable[..., ModelCard]
WriteModel = Callable[..., Path]
WritePicture = Callable[[Path, Image], Path]
Command = Callable[..., Result]


def altered(path: Path, model: Path, card: ModelCard, change: Callable[[Kernel], Kernel]) -> Path:
    """Another model file that differs in its kernel and its card."""
    graph = onnx.load(str(model))
    kernel = change(numpy_helper.to_array(graph.graph.initializer[0]))
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(kernel.astype(np.float32), "kernel"))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(kernel)
    helper.set_model_props(graph, {METADATA_KEY: card.to_json()})
    onnx.save(graph, str(path))
    return path


@pytest.fixture
def student(tmp_path: Path, model: Path, make_card: MakeCard, rng: np.random.Generator) -> Path:
    """Learnt from `model`, with what a light model cannot learn."""
    noise = rng.normal(scale=0.05, size=(8, 3, 3, 3))
    return altered(tmp_path / "student.onnx", model, make_card("student"), lambda kernel: kernel + noise)


@pytest.fixture
def stranger(tmp_path: Path, model: Path, make_card: MakeCard) -> Path:
    """As good as `model`, but its values come in another order."""
    return altered(tmp_path / "stranger.onnx", model, make_card("stranger"), lambda kernel: -kernel[::-1])


@pytest.fixture
def asymmetric(tmp_path: Path, model: Path, student: Path, catalogue: Path, deepir_index: Command) -> Path:
    path = tmp_path / "i.usearch"
    result = deepir_index("build", path, catalogue, "--model", student, "--with", model)
    assert result.exit_code == 0, result.stderr
    return path


def test_descriptors_that_agree_find_themselves(rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 20)
    same = compare(rows_nd, rows_nd)
    assert (same.cosine, same.found, same.pictures, same.passed) == (pytest.approx(1), 1, 20, True)
    shuffled = compare(rows_nd, rows_nd[::-1])
    own = (rows_nd * rows_nd[::-1]).sum(axis=1)
    others = ((rows_nd @ rows_nd.T).sum(axis=1) - own) / 19
    best = (rows_nd @ rows_nd.T).max(axis=1)
    assert (shuffled.cosine, shuffled.passed) == (pytest.approx(own.mean(), abs=1e-6), False)
    assert shuffled.others == pytest.approx(others.mean(), abs=1e-6)
    assert shuffled.found == np.mean(best - own <= 0.02 * (own - others))


def test_a_rotation_keeps_each_space_and_fits_none_to_the_other(rng: np.random.Generator, unit_rows: Rows) -> None:
    rows_nd = unit_rows(rng, 40, 32)
    turned, _ = np.linalg.qr(rng.normal(size=(32, 32)))
    rotated_nd = (rows_nd @ turned).astype(np.float32)
    np.testing.assert_allclose(rotated_nd @ rotated_nd.T, rows_nd @ rows_nd.T, atol=1e-5)
    result = compare(rows_nd, rotated_nd)
    assert not result.passed
    assert "40 pictures" in str(result)


def test_who_finds_itself_passes_however_similar(rng: np.random.Generator, unit_rows: Rows) -> None:
    # all alike: similar, and nobody finds the right one
    alike = 3 * np.ones((10, 8), np.float32) + unit_rows(rng, 10)
    alike /= np.linalg.norm(alike, axis=1, keepdims=True)
    shuffled = compare(alike, np.roll(alike, 3, axis=0))
    assert shuffled.cosine > 0.98
    assert not shuffled.passed
    # each finds itself, from far away
    far = np.concatenate([0.4 * np.eye(10), np.sqrt(1 - 0.16) * np.eye(10)], axis=1).astype(np.float32)
    found = compare(far, np.eye(10, 20, dtype=np.float32))
    assert (found.cosine, found.found, found.passed) == (pytest.approx(0.4), 1, True)


@pytest.mark.parametrize(("count", "passed"), [(17, True), (16, False)])
def test_some_may_fail_to_find_themselves(count: int, passed: bool) -> None:
    rows_nd = np.eye(20, dtype=np.float32)
    # the others trade places
    order = np.concatenate([np.arange(count), np.roll(np.arange(count, 20), 1)])
    result = compare(rows_nd, rows_nd[order])
    assert (result.found, result.passed) == (pytest.approx(count / 20), passed)


@pytest.mark.parametrize(("ahead", "found"), [(0.009, 1), (0.02, 0)])
def test_who_comes_first_by_little_may_show_the_same(ahead: float, found: float) -> None:
    # of two pictures the other is nearer by a little; between the right one and the rest lies 0.5
    own, rest = 0.5, np.sqrt(1 - 0.5**2 - (0.5 + ahead) ** 2)
    pairs = np.kron(np.eye(50), [[own, own + ahead], [own + ahead, own]])
    queries_nd = np.concatenate([pairs, rest * np.eye(100)], axis=1).astype(np.float32)
    assert compare(queries_nd, np.eye(100, 200, dtype=np.float32)).found == found


def test_few_pictures_and_other_sizes_tell_nothing(rng: np.random.Generator, unit_rows: Rows) -> None:
    with pytest.raises(InputError, match="7 pictures are too few"):
        compare(unit_rows(rng, 7), unit_rows(rng, 7))
    with pytest.raises(ShapeError, match="8 values"):
        compare(unit_rows(rng, 9), unit_rows(rng, 9, 4))


def test_of_many_pictures_some_are_compared_from_the_first_to_the_last(
    model: Path, catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = sorted(catalogue.rglob("*.png"))
    many = [pictures[number % 12] for number in range(MOST_PICTURES * 3)]
    with Extractor.open(model) as extractor:
        result = check_compatible(extractor, extractor, many)
    assert (result.pictures, result.passed) == (MOST_PICTURES, True)


def test_a_student_of_the_teacher_passes_and_the_index_names_both(
    asymmetric: Path, model: Path, student: Path, make_card: MakeCard
) -> None:
    index = Index.open(asymmetric)
    assert (index.model.absolute, index.references.absolute) == (str(student), str(model))
    assert index.model.fingerprint == make_card("student").spec.fingerprint
    assert index.references.fingerprint == make_card().spec.fingerprint


def test_build_says_how_well_the_two_fit_together(
    tmp_path: Path, model: Path, student: Path, catalogue: Path, deepir_index: Command
) -> None:
    result = deepir_index("build", tmp_path / "i.usearch", catalogue, "--model", student, "--with", model)
    assert f"with {model}: of 12 pictures 100.0% find themselves (limit 85%), mean cosine 0.9" in result.stderr


def test_the_stored_descriptors_are_those_of_the_teacher(asymmetric: Path, model: Path, catalogue: Path) -> None:
    index = Index.open(asymmetric)
    with Extractor.open(model) as teacher:
        expected = teacher.describe_files([asymmetric.parent / item.source for item in index.items()])
    np.testing.assert_allclose(index.descriptors(), expected, atol=0.01)


def test_a_model_that_did_not_learn_from_the_teacher_is_refused(
    tmp_path: Path, model: Path, stranger: Path, catalogue: Path, deepir_index: Command
) -> None:
    result = deepir_index("build", tmp_path / "i.usearch", catalogue, "--model", stranger, "--with", model)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (6, "", 1)
    assert "was it distilled from that teacher, on pictures like these?" in result.stderr
    assert not list(tmp_path.glob("i.usearch*"))


def test_a_teacher_with_descriptors_of_another_size_is_refused(
    tmp_path: Path, model: Path, make_card: MakeCard, catalogue: Path, deepir_index: Command
) -> None:
    card = make_card("large")
    card = replace(card, spec=replace(card.spec, dim=6, channels=6))
    teacher = altered(tmp_path / "large.onnx", model, card, lambda kernel: kernel[:6])
    result = deepir_index("build", tmp_path / "i.usearch", catalogue, "--model", model, "--with", teacher)
    assert result.exit_code == 6
    assert "the student gives 8 values and the teacher 6" in result.stderr


def test_a_few_pictures_are_not_enough_to_tell(
    tmp_path: Path, model: Path, student: Path, catalogue: Path, deepir_index: Command
) -> None:
    words = ("build", tmp_path / "i.usearch", catalogue / "red", "--model", student, "--with", model)
    result = deepir_index(*words)
    assert (result.exit_code, "3 pictures are too few" in result.stderr) == (3, True)


def test_unreadable_pictures_are_left_out_of_the_comparison_too_when_asked_for(
    tmp_path: Path, model: Path, student: Path, catalogue: Path, deepir_index: Command
) -> None:
    (catalogue / "red" / "torn.jpg").write_bytes(b"torn")
    words = ("build", tmp_path / "i.usearch", catalogue, "--model", student, "--with", model)
    refused = deepir_index(*words)
    assert (refused.exit_code, "--skip-unreadable" in refused.stderr) == (3, True)
    result = deepir_index(*words, "--skip-unreadable")
    assert result.exit_code == 0, result.stderr
    assert "of 12 pictures" in result.stderr
    assert len(Index.open(tmp_path / "i.usearch")) == 12


def test_what_is_added_is_described_by_the_teacher_and_what_is_asked_by_the_student(
    asymmetric: Path, model: Path, student: Path, catalogue: Path, deepir_index: Command
) -> None:
    picture = catalogue / "red" / "0.png"
    assert deepir_index("add", asymmetric, "again", picture).exit_code == 0
    index = Index.open(asymmetric)
    (item,) = index.views_of("again")
    with Extractor.open(model) as teacher:
        expected = teacher.describe_files([picture])
    np.testing.assert_allclose(index.descriptors([item.key]), expected, atol=0.01)
    with Recogniser.open(asymmetric) as recogniser:
        assert recogniser.extractor.spec.weights == "student"
    words = ("query", asymmetric, catalogue / "green" / "1.png", "--threshold", 0.5, "--json")
    answer = json.loads(deepir_index(*words).stdout)
    assert (answer["status"], answer["label"]) == ("match", "green")


def test_the_student_may_describe_what_is_added_and_the_teacher_no_question(
    asymmetric: Path, model: Path, student: Path, catalogue: Path, deepir_index: Command
) -> None:
    picture = catalogue / "red" / "0.png"
    assert deepir_index("add", asymmetric, "again", picture, "--model", student).exit_code == 0
    result = deepir_index("query", asymmetric, picture, "--model", model)
    assert (result.exit_code, "use that model" in result.stderr) == (8, True)


def test_the_map_of_an_index_is_fitted_on_the_teachers_descriptors_and_serves_both(
    tmp_path: Path, model: Path, student: Path, catalogue: Path, deepir_index: Command
) -> None:
    words = ("build", tmp_path / "i.usearch", catalogue, "--model", student, "--with", model, "--dim", 3)
    assert deepir_index(*words).exit_code == 0
    with Recogniser.open(tmp_path / "i.usearch") as recogniser:
        assert recogniser.index.dim == 3
        answer = recogniser(read_image(catalogue / "blue" / "1.png"))
    assert answer.top[0][0] == "blue"


def test_a_teacher_that_is_not_there_any_more_is_asked_for_by_name(
    asymmetric: Path, model: Path, catalogue: Path, deepir_index: Command
) -> None:
    model.unlink()
    result = deepir_index("add", asymmetric, "again", catalogue / "red" / "0.png")
    assert (result.exit_code, "--model" in result.stderr) == (3, True)
    assert str(model) in result.stderr
    assert deepir_index("query", asymmetric, catalogue / "red" / "0.png").exit_code == 0


def test_its_threshold_comes_from_what_the_student_says_of_the_pictures_and_the_teacher_of_the_other_labels(
    asymmetric: Path, model: Path, student: Path
) -> None:
    with Index.open(asymmetric, write=True) as index, Extractor.open(student) as light, Extractor.open(model) as heavy:
        items = list(index.items())
        paths = [asymmetric.parent / item.source for item in items]
        labels = np.array([item.label for item in items])
        similarity_nn = light.describe_files(paths) @ heavy.describe_files(paths).T
        similarity_nn[labels[:, None] == labels] = -np.inf
        expected = threshold_from_queries(similarity_nn.max(axis=1), list(labels), 0.1, len(set(labels)))
        done: list[int] = []
        threshold = fit_threshold_to_student(index, light, asymmetric, 0.1, done.append)
        assert threshold is not None
        assert threshold.value == pytest.approx(expected.value, abs=0.01)
        assert (threshold.basis, threshold.impostors, threshold.far, sum(done)) == ("queries", 12, 0.1, 12)
        assert index.footer.far == 0.1
        index.save()
    assert Index.open(asymmetric).threshold == threshold


def test_it_stays_when_views_are_added_because_they_do_not_make_it(
    asymmetric: Path, student: Path, rng: np.random.Generator, unit_rows: Rows
) -> None:
    with Index.open(asymmetric, write=True) as index, Extractor.open(student) as light:
        threshold = fit_threshold_to_student(index, light, asymmetric, 0.1)
        index.add("new", unit_rows(rng, 2), ["a.png", "b.png"])
        assert index.threshold == threshold


def test_it_needs_two_labels_and_the_student(asymmetric: Path, model: Path, student: Path) -> None:
    with Index.open(asymmetric, write=True) as index:
        with Extractor.open(model) as heavy, pytest.raises(IndexModelError, match="use that model"):
            fit_threshold_to_student(index, heavy, asymmetric, 0.1)
        for label in list(index.labels)[1:]:
            index.remove(label)
        with Extractor.open(student) as light:
            assert fit_threshold_to_student(index, light, asymmetric, 0.1) is None
        assert index.footer.far == 0.01


def test_a_picture_that_is_gone_is_named(asymmetric: Path, student: Path, catalogue: Path) -> None:
    (catalogue / "red" / "0.png").unlink()
    with (
        Index.open(asymmetric, write=True) as index,
        Extractor.open(student) as light,
        pytest.raises(InputError, match=r"red/0\.png"),
    ):
        fit_threshold_to_student(index, light, asymmetric, 0.1)


def test_a_build_with_a_teacher_takes_the_threshold_from_the_student(asymmetric: Path, deepir_index: Command) -> None:
    threshold = Index.open(asymmetric).threshold
    assert threshold is not None
    assert threshold.basis == "queries"
    assert "stored pictures as queries see them" in deepir_index("info", asymmetric).stdout


def test_calibrate_warns_of_the_stored_views_of_a_teacher(asymmetric: Path, shop: Path, deepir_index: Command) -> None:
    assert "a teacher described the stored views" in deepir_index("calibrate", asymmetric).stderr
    assert "teacher" not in deepir_index("calibrate", shop).stderr
