"""The published students: each starts, learns in one step, and comes out of the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from deepir.distill.align import align_head
from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import Model, load_model, new_model, save_model
from deepir.distill.cli import main
from deepir.distill.describe import describe
from deepir.distill.distil_loss import DistilLoss, LossWeights
from deepir.distill.layers import WhiteningLayer
from deepir.distill.middle import choose_trained, head_weights, with_middle
from deepir.distill.student import DistilConfig, _groups, training_views
from deepir.distill.teachers import Targets
from deepir.distill.views import View
from deepir.distill.whitening import WhitenConfig, whiten
from deepir.errors import OptionError
from deepir.image import list_images, prepare
from deepir.whitening import Whitening

STUDENTS = ["none", "pca-concat-pca", "1x1conv-eltwise-pca", "concat-pca", "concat-pca-relu"]


@pytest.fixture(scope="module")
def teacher(pictures: Path) -> Model:
    torch.manual_seed(0)
    model = new_model(build_trunk("timm:resnet10t"), sizes=((32, 32), (64, 64), (96, 96)))
    return whiten(model, [list_images(pictures)], WhitenConfig(dim=16))


@pytest.fixture(scope="module")
def teacher_file(teacher: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_model(teacher, path)
    return path


@pytest.fixture(scope="module")
def views(pictures: Path) -> list[View]:
    return training_views(list_images(pictures)[::3], 1)


def start(teacher: Model, fusion: str) -> Model:
    single = Model(teacher.network, teacher.spec.at_sizes((teacher.spec.size,)))
    return single if fusion == "none" else with_middle(single, fusion, (3,))


@pytest.mark.parametrize("fusion", STUDENTS)
def test_one_step_brings_a_student_closer_to_its_teacher(teacher_file: Path, views: list[View], fusion: str) -> None:
    teacher = load_model(teacher_file)
    teacher.network.eval()
    images = [view.read() for view in views]
    targets = describe(teacher, images)
    student = align_head(start(teacher, fusion), views, targets)
    assert describe(student, images).shape == targets.shape
    choose_trained(student.network, "head")
    weights, biases = head_weights(student.network)
    # so few pictures are fitted exactly by the start: a student that is not there yet
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in weights:
            weight.add_(weight.std() * torch.randn_like(weight))
    optimiser = torch.optim.SGD([*weights, *biases], lr=1e-4)
    tensor = torch.cat([torch.from_numpy(prepare(image, student.spec)) for image in images])
    criterion = DistilLoss(Targets(targets, None, "the teacher"), LossWeights())
    losses = []
    for _ in range(2):
        loss = criterion(student.network(tensor)[:, None], torch.arange(len(images)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_a_fusion_without_a_layer_that_learns_is_refused(teacher: Model, views: list[View]) -> None:
    model = with_middle(start(teacher, "none"), "concat", (3,))
    targets = describe(teacher, [view.read() for view in views])
    with pytest.raises(OptionError, match="fit it with deepir-distill fuse"):
        align_head(model, views, targets)


@pytest.mark.parametrize("fusion", ["none", "pca-concat-pca"])
def test_what_an_imported_model_projects_afterwards_is_not_in_its_student(
    teacher_file: Path, views: list[View], fusion: str
) -> None:
    teacher = load_model(teacher_file)
    targets = describe(teacher, [view.read() for view in views])
    imported = start(load_model(teacher_file), fusion)
    layer = WhiteningLayer.of(Whitening(np.ones((5, 16), dtype=np.float32), np.zeros(5, np.float32)))
    imported.network.projection = layer
    student = align_head(imported, views, targets)
    assert describe(student, [views[0].read()]).shape == (1, 16)


def test_training_something_unknown_is_refused_before_the_teacher_describes_anything() -> None:
    with pytest.raises(OptionError, match="all, head, head\\+last-stage, got 'tail'"):
        DistilConfig(trained="tail")


def test_a_fusion_without_its_stages_is_refused_and_not_ignored(
    teacher_file: Path, pictures: Path, tmp_path: Path
) -> None:
    words = [teacher_file, "--images", pictures, "--student", teacher_file, "--fusion", "concat-pca"]
    result = CliRunner().invoke(main, [*map(str, words), "-o", str(tmp_path / "student.safetensors")])
    assert (result.exit_code, "--middle" in result.output) == (2, True)


def run(*words: object) -> None:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


def test_a_published_student_comes_out_of_the_command(teacher_file: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    options = ["--fusion", "pca-concat-pca", "--middle", 3, "--train", "head", "--epochs", 1, "--views", 1]
    run(teacher_file, "--images", pictures, "--student", teacher_file, *options, "-o", out)
    student, teacher = load_model(out), load_model(teacher_file)
    assert (student.spec.head.fusion, student.spec.dim) == ("pca-concat-pca", 16)
    for key, value in teacher.network.trunk.state_dict().items():
        torch.testing.assert_close(student.network.trunk.state_dict()[key], value)
    assert student.network.fuse.shift.abs().sum() > 0


def test_middle_layers_are_added_by_the_command(teacher_file: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "fused.safetensors"
    run("fuse", teacher_file, "--middle", "3", "--fusion", "eltwise", "--images", pictures, "-o", out)
    fused = load_model(out)
    assert (fused.spec.head.fusion, fused.spec.dim) == ("eltwise", 16)
    torch.testing.assert_close(fused.network.whitening.weight, load_model(teacher_file).network.whitening.weight)


def test_raw_layers_are_joined_without_pictures(teacher_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw.safetensors"
    run("fuse", teacher_file, "--middle", "3,2", "--raw", "-o", out)
    assert load_model(out).spec.dim == 16 + 256 + 128


@pytest.mark.parametrize("pooling", ["mac", "spoc", "gem", "r-gem"])
def test_a_teacher_of_another_pooling_comes_out_of_the_command(pooling: str, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "teacher.safetensors"
    options = ["--trunk", "timm:resnet10t", "--size", 64, "--epochs", 0, "--dim", 8, "--combine", "max"]
    run("train", pictures, "--pooling", pooling, *options, "-o", out)
    head = load_model(out).spec.head
    expected = {"mac": ("max", 0), "spoc": ("mean", 0), "gem": ("gem", 0), "r-gem": ("gem", 2)}
    assert ((head.pooling, head.levels), head.combine) == (expected[pooling], "max")


def test_a_teacher_can_stay_without_whitening(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "teacher.safetensors"
    run("train", pictures, "--trunk", "timm:resnet10t", "--size", 64, "--epochs", 0, "--no-whiten", "-o", out)
    spec = load_model(out).spec
    assert (spec.dim, spec.whitening) == (512, "none")


def test_biases_of_a_head_learn_twice_as_fast(teacher: Model) -> None:
    config = DistilConfig(trained="head", learning_rate=0.5)
    network = start(teacher, "concat-pca").network
    network.whiten_with(Whitening(np.eye(16, network.master.channels, dtype=np.float32), np.zeros(16, np.float32)))
    choose_trained(network, "head")
    (trunk, _), (weights, rate), (biases, bias_rate) = _groups(network, config)
    assert (list(trunk), len(list(weights)), len(list(biases)), bias_rate) == ([], 1, 2, 2 * rate)
