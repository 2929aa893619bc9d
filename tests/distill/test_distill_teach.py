"""The whole way of a student, from the library and from the command line; the fit of its last layer."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from deepir.descriptors import normalise
from deepir.distill.align import align_head
from deepir.distill.checkpoint import Model, load_model, save_model
from deepir.distill.cli import main
from deepir.distill.describe import describe
from deepir.distill.device import Device
from deepir.distill.distil_loss import LossWeights
from deepir.distill.epochs import Progress
from deepir.distill.student import DistilConfig, training_views
from deepir.distill.teach import TeachConfig, teach
from deepir.distill.teachers import TargetConfig, make_targets
from deepir.errors import OptionError
from deepir.image import list_images

MakeModel = Callable[..., Model]
CPU = Device("cpu")
FEW = DistilConfig(epochs=2, batch=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """Twenty-four photographs, dark and noisy, and eight references on white."""
    folder = tmp_path_factory.mktemp("worlds")
    rng = np.random.default_rng(0)
    for number in range(32):
        thing = cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), (64, 64))
        if number < 24:
            picture = np.clip(thing * 0.4 + rng.normal(20, 15, thing.shape), 0, 255).astype(np.uint8)
        else:
            picture = cv2.copyMakeBorder(thing, 20, 20, 20, 20, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        cv2.imwrite(str(folder / f"{'photo' if number < 24 else 'reference'}_{number:02d}.png"), picture)
    paths = list_images(folder)
    return paths[:24], paths[24:]


def nearness(student: Model, teacher: Model, paths: list[Path]) -> float:
    images = [view.read() for view in training_views(paths, 1)]
    return float((describe(student, images) * describe(teacher, images)).sum(axis=1).mean())


def test_references_in_the_last_fit_bring_the_student_to_the_teacher_there(
    make_model: MakeModel, worlds: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    photographs, references = worlds
    teacher = make_model(sizes=((48, 48), (64, 64), (96, 96)), seed=1, dim=8)
    found = {}
    for words, shown in {"without": [], "with": references}.items():
        progress = Progress(out=tmp_path / f"{words}.safetensors")
        config = TeachConfig(views=2, distil=FEW)
        student = teach(
            make_model(seed=2), [teacher], photographs, config, progress, CPU, cache=tmp_path / "c", references=shown
        )
        found[words] = nearness(student, teacher, references)
    assert found["with"] > found["without"] + 0.01
    assert "24 pictures and 8 references" in student.spec.whitening


def test_without_a_refit_the_last_layer_stays_as_the_last_step_left_it(
    make_model: MakeModel, worlds: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    photographs, _ = worlds
    teacher = make_model(sizes=((64, 64),), seed=1, dim=8)
    models = [
        teach(
            make_model(seed=2),
            [teacher],
            photographs,
            TeachConfig(views=1, distil=FEW, refit=refit),
            Progress(out=tmp_path / f"{refit}.safetensors"),
            CPU,
            cache=tmp_path / "c",
        )
        for refit in (False, True)
    ]
    trunks = [next(iter(model.network.trunk.parameters())).detach().numpy() for model in models]
    np.testing.assert_array_equal(*trunks)
    assert models[0].spec.weights != models[1].spec.weights


def test_two_teachers_are_fused(make_model: MakeModel, worlds: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    teachers = [make_model(sizes=((48, 48), (64, 64)), seed=seed, dim=6) for seed in (1, 2)]
    config = TeachConfig(
        views=2,
        targets=TargetConfig(dim=10, regions=True),
        distil=DistilConfig(epochs=1, batch=8, weights=LossWeights(regions=1)),
    )
    progress = Progress(out=tmp_path / "s.safetensors")
    student = teach(make_model(seed=3), teachers, worlds[0], config, progress, CPU, cache=tmp_path / "c")
    assert student.network.dim == 10
    assert all(teacher.spec.fingerprint in student.spec.whitening for teacher in teachers)


def test_contradictions_are_refused_before_any_work() -> None:
    with pytest.raises(OptionError, match="views must be 1"):
        TeachConfig(views=0)
    with pytest.raises(OptionError, match="targets with regions"):
        TeachConfig(distil=DistilConfig(weights=LossWeights(regions=1)))


def test_a_regression_finds_a_layer_that_is_there(
    make_model: MakeModel, worlds: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    model = make_model(seed=4, dim=5)
    views = training_views([*worlds[0], *worlds[1]], 4)
    images = [view.read() for view in views]
    wanted = describe(model, images)
    fitted = describe(align_head(make_model(seed=4), views, wanted), images)
    # the layer there has another length of each region's vector before L2, so the fit is close and not exact
    assert float((fitted * wanted).sum(axis=1).min()) > 0.95


def test_a_group_of_more_weight_is_met_more_closely(
    make_model: MakeModel, worlds: tuple[list[Path], list[Path]]
) -> None:
    views = training_views([*worlds[0], *worlds[1]], 1)
    wanted = normalise(np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32))
    images = [view.read() for view in views]

    def on_references(weights_n: np.ndarray) -> float:
        found = describe(align_head(make_model(seed=4), views, wanted, weights_n), images)
        return float((found * wanted)[24:].sum(axis=1).mean())

    heavy = np.concatenate([np.full(24, 1e-3), np.ones(8)])
    assert on_references(heavy) > on_references(1 / heavy) + 0.05


@pytest.fixture(scope="module")
def teacher_file(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    arguments = ["train", str(pictures), "--trunk", "timm:resnet10t@2", "--size", "64", "--scales", "0.5,1,1.5"]
    result = CliRunner().invoke(main, [*arguments, "--epochs", "0", "--dim", "8", "-o", str(path), "-q"])
    assert result.exit_code == 0, result.output
    return path


def run(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_one_command_goes_from_labelled_folders_to_a_tuned_student(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    words = ["tune", pictures, "--trunk", "timm:resnet10t@2", "--student", "timm:resnet10t@1", "--size", 64, "--dim", 8]
    run(*words, "--teacher-epochs", 1, "--epochs", 1, "--batch", 8, "-o", out)
    teacher, student = load_model(tmp_path / "student.teacher.safetensors"), load_model(out)
    assert (len(teacher.spec.sizes), student.spec.sizes, student.network.dim) == (3, ((64, 64),), 8)
    before = (tmp_path / "student.teacher.safetensors").stat().st_mtime_ns
    run(*words, "--epochs", 1, "--batch", 8, "--resume", "-o", out)
    assert (tmp_path / "student.teacher.safetensors").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_student(teacher_file: Path, pictures: Path, tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.safetensors"
        words = (teacher_file, "--images", pictures, "--student", "timm:resnet10t@1", "--epochs", 1, "--batch", 8)
        run(*words, "--views", 1, "--seed", 3, "-o", out)
        hashes.append(load_model(out).spec.weights)
    assert hashes[0] == hashes[1]


def test_every_option_of_distillation_comes_out_of_the_command(
    teacher_file: Path, pictures: Path, tmp_path: Path
) -> None:
    second, out = tmp_path / "second.safetensors", tmp_path / "student.safetensors"
    run("whiten", teacher_file, "--images", pictures, "--dim", 6, "-o", second)
    run(
        *(teacher_file, "--teacher", second, "--images", pictures / "tea", "--references", pictures / "milk"),
        *("--student", "timm:resnet10t@1", "--size", 64, "--dim", 5, "--views", 3, "--epochs", 2, "--batch", 4),
        *("--loss", "cosine=2,pairs=1", "--jitter", "0.7,1.2", "--combine", "max", "--neighbours", 2, "--quantised"),
        *("--validate", 0.3, "--patience", 2, "--chunk", 2, "--freeze-norm", "-o", out),
    )
    student = load_model(out)
    assert student.network.dim == 5
    for words in ("largest value", "smoothed with 2 neighbours", "5 of 14 values", "references"):
        assert words in student.spec.whitening
    rows = [json.loads(line) for line in (tmp_path / "student.safetensors.log.jsonl").read_text().splitlines()]
    assert all(-1 <= row["validation_cosine"] <= 1 for row in rows)


def test_a_student_is_reduced_in_stages(teacher_file: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    run("reduce", teacher_file, "--images", pictures, "--dim", "4,2", "--epochs", 2, "-o", out)
    assert load_model(out).network.dim == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--jitter", "wide"], "--jitter takes two factors such as 0.8,1.1, got 'wide'"),
        (["--loss", "cosin=1"], "a loss is written as cosine=4"),
        (["--dim", "4000"], "cannot give targets of 4000"),
        (["--flip", "--loss", "regions=1"], "no mirrored pictures"),
        (["--views", "0"], "views must be 1 or more"),
    ],
)
def test_bad_options_get_one_sentence(
    teacher_file: Path, pictures: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    out = tmp_path / "s.safetensors"
    arguments = [teacher_file, "--images", pictures, "--student", "timm:resnet10t@1", "-o", out, *words]
    result = CliRunner().invoke(main, [str(word) for word in arguments])
    assert result.exit_code not in (0, 1)
    assert sentence in result.output
    assert not out.exists()


def test_dimensions_of_a_reduction_are_numbers(teacher_file: Path, pictures: Path, tmp_path: Path) -> None:
    words = ["reduce", teacher_file, "--images", pictures, "--dim", "many", "-o", tmp_path / "s.safetensors"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert "--dim takes numbers that fall" in result.output


def test_targets_of_a_saved_teacher_are_its_descriptors(
    make_model: MakeModel, worlds: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    teacher = make_model(sizes=((48, 48), (64, 64)), seed=1, dim=6)
    save_model(teacher, tmp_path / "t.safetensors")
    again = load_model(tmp_path / "t.safetensors", teacher.network.trunk)
    views = training_views(worlds[1], 2)
    targets = [make_targets([model], views, tmp_path / "c").descriptors_nd for model in (teacher, again)]
    np.testing.assert_array_equal(*targets)
