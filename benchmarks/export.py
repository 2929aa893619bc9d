"""Speed of what deepir-export makes, against what a user would run instead; Markdown tables on stdout.

    python benchmarks/export.py --photos PHOTOS --only students --only pooling
    python benchmarks/export.py --size 64 --rounds 1 --seconds 0.1        (does every part run?)

Two students (ResNet-18 at 512, MobileNetV2 at 320) in FP32 and INT8 against themselves in torch and against a teacher,
ResNet-101 at 256+512+768 in torch; the pooling on its own; build time and size for each program; on a machine with an
NVIDIA GPU ONNX Runtime with CUDA and the pooling kernel. Each way has a process of its own, all take turns, and the
figures are medians over all turns. Give the machine nothing else to do.
"""

import itertools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
from export_turns import Case, Timing, call_apart, time_in_turns
from export_ways import Network, PoolShape, pool_path, weights_of

from deepir.errors import MissingDependency, reports_errors
from deepir.runtime.cache import machine_name
from deepir.runtime.tensorrt_library import Flavour, load_tensorrt

PARTS = ("students", "pooling", "build", "gpu")
STUDENTS = (("timm:resnet18", 512), ("torchvision:mobilenet_v2", 320))
TEACHER = "timm:resnet101"
TEACHER_SIZES = (256, 512, 768)
POOLS = (PoolShape(512, 16, 2), PoolShape(512, 16, 3), PoolShape(2048, 24, 3))
GOAL_TEACHER = 200
GOAL_FP32 = 6
TEACHER_ROW = "teacher, torch eager"


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for, and the folder for what is made."""

    work: Path
    weights: Path | None
    photos: Path | None
    size: int | None
    rounds: int
    seconds: float

    @property
    def students(self) -> list[Network]:
        return [_square(trunk, self.size or side) for trunk, side in STUDENTS]

    @property
    def teacher(self) -> Network:
        sides = (self.size // 2, self.size, self.size * 3 // 2) if self.size else TEACHER_SIZES
        return _square(TEACHER, *sides)

    def path(self, network: Network, suffix: str) -> Path:
        return self.work / f"{network.trunk.replace(':', '_')}{suffix}"

    def timed(self, cases: Sequence[Case]) -> list[Timing]:
        return time_in_turns(cases, self.rounds, self.seconds)


def students_part(settings: Settings) -> None:
    """FP32 and INT8 in every program, against torch and the teacher."""
    teacher = settings.teacher
    _checkpoint(settings, teacher)
    cases = [Case(TEACHER_ROW, "export_torch:model_eager", (settings.path(teacher, ".safetensors"),))]
    for student in settings.students:
        _onnx_files(settings, student)
        cases += _student_cases(settings, student)
    timings = settings.timed(cases)
    slowest, *rest = timings
    heading(f"Students against the teacher ({teacher.words}: {slowest.median:.0f} ms{_fault(slowest)})")
    each = len(rest) // len(settings.students)
    for number, student in enumerate(settings.students):
        rows = rest[number * each : (number + 1) * each]
        eager, fp32 = rows[0], rows[2]
        table(
            (student.words, "ms a picture", "times its torch eager", "times the teacher"),
            [
                (row.name, _ms(row), _ratio(eager, row), _ratio(slowest, row)) if not row.fault else _faulty(row, 4)
                for row in rows
            ],
        )
        _goals(slowest, fp32, [row for row in rows if "INT8" in row.name])


def pooling_part(settings: Settings) -> None:
    """The region pooling alone: our bodies, the form with a Slice for each window, torchvision's."""
    for number, shape in enumerate(POOLS):
        folder = settings.work / f"pool_{number}"
        folder.mkdir()
        forms: dict[str, str] = call_apart("export_files:write_pools", shape, folder)
        cases = [
            Case("torch eager, our pooling", "export_torch:pool_eager", (shape, True)),
            Case("torch eager, torchvision.ops.roi_pool", "export_torch:pool_eager", (shape, False)),
        ]
        programs = {"ONNX Runtime": "export_ways:onnx_pool", "OpenVINO": "export_ways:openvino_pool"}
        for (form, _), (program, make) in itertools.product(forms.items(), programs.items()):
            path = pool_path(folder, form)
            if path.is_file():
                cases.append(Case(f"{program}, {form}", make, (path, shape)))
        timings = settings.timed(cases)
        ours = next(timing for timing in timings if timing.name == "ONNX Runtime, static body")
        heading(
            f"Pooling {len(shape.windows)} windows of a map {shape.channels} x {shape.side} x {shape.side} "
            "(largest error against the numpy reference: "
            + "; ".join(f"{form} {error}" for form, error in forms.items())
            + ")"
        )
        table(
            ("way", "ms", "times the time of our static body in ONNX Runtime"),
            [(row.name, _ms(row), _ratio(row, ours)) if not row.fault else _faulty(row, 3) for row in timings],
        )


def build_part(settings: Settings) -> None:
    """How long each program takes to make its form of a file, and how large that is."""
    rows: list[tuple[str, ...]] = []
    for student in settings.students:
        rows += _onnx_files(settings, student)
        for form in ("fp32", "int8"):
            path, words = settings.path(student, f".{form}.onnx"), f"{student.words}, {form.upper()}"
            rows.append(_openvino_row(settings, path, words))
            rows += [_tensorrt_row(settings, path, words, flavour) for flavour in Flavour]
    heading("Build time and size")
    table(("file", "made by", "s", "MB", "note"), rows)


def gpu_part(settings: Settings) -> None:
    """ONNX Runtime with CUDA, and the pooling kernel; says so where there is no GPU."""
    heading("GPU")
    if not call_apart("torch.cuda:is_available"):
        click.echo("Skipped: torch finds no NVIDIA GPU on this machine.\n")
        return
    cases = []
    for student in settings.students:
        _onnx_files(settings, student)
        for form in ("fp32", "int8"):
            path = settings.path(student, f".{form}.onnx")
            cases.append(
                Case(f"{student.words}, {form.upper()}, ONNX Runtime CUDA", "export_ways:onnx_model", (path, "cuda"))
            )
    table(
        ("model", "ms a picture"),
        [(row.name, _ms(row)) if not row.fault else _faulty(row, 2) for row in settings.timed(cases)],
    )
    columns = ("map", "type", "our kernel, us", "roi_pool, us", "copy of as many bytes, us", "times roi_pool", "GB/s")
    table((*columns, "largest error"), call_apart("export_gpu:time_kernels", POOLS, settings.rounds))


def _square(trunk: str, *sides: int) -> Network:
    return Network(trunk, tuple((side, side) for side in sides))


def _checkpoint(settings: Settings, network: Network) -> Path:
    path = settings.path(network, ".safetensors")
    if not path.is_file():
        weights = weights_of(network.trunk, settings.weights)
        told = "random weights: speed does not depend on them" if weights is None else f"weights of {weights}"
        click.echo(f"{network.words}: {told}", err=True)
        call_apart("export_files:write_checkpoint", network, weights, path)
    return path


def _onnx_files(settings: Settings, student: Network) -> list[tuple[str, ...]]:
    """Make the FP32 and INT8 files; gives the rows of their build."""
    checkpoint = _checkpoint(settings, student)
    fp32, int8 = (settings.path(student, f".{form}.onnx") for form in ("fp32", "int8"))
    exported: float = call_apart("export_files:write_fp32", checkpoint, fp32)
    calibrated, share = call_apart("export_files:write_int8", fp32, settings.photos, int8)
    return [
        (f"{student.words}, FP32", "deepir-export", f"{exported:.1f}", _mb(fp32), ""),
        (f"{student.words}, INT8", "calibration", f"{calibrated:.1f}", _mb(int8), f"{share:.0%} of convolutions INT8"),
    ]


def _student_cases(settings: Settings, student: Network) -> list[Case]:
    checkpoint = settings.path(student, ".safetensors")
    fp32, int8 = (settings.path(student, f".{form}.onnx") for form in ("fp32", "int8"))
    cache = settings.work / "openvino"
    return [
        Case("FP32, torch eager", "export_torch:model_eager", (checkpoint,)),
        Case("FP32, torch.compile", "export_torch:model_compiled", (checkpoint,)),
        Case("FP32, ONNX Runtime", "export_ways:onnx_model", (fp32, "cpu")),
        Case("FP32, OpenVINO, f32", "export_ways:openvino_model", (fp32, "f32", cache)),
        Case("FP32, OpenVINO, the chip's own precision", "export_ways:openvino_model", (fp32, "auto", cache)),
        Case("INT8, ONNX Runtime", "export_ways:onnx_model", (int8, "cpu")),
        Case("INT8, OpenVINO, f32 beside INT8", "export_ways:openvino_model", (int8, "f32", cache)),
        Case(
            "INT8, OpenVINO, the chip's own precision beside INT8", "export_ways:openvino_model", (int8, "auto", cache)
        ),
    ]


def _openvino_row(settings: Settings, path: Path, words: str) -> tuple[str, ...]:
    try:
        compiled, loaded, size = call_apart("export_files:compile_openvino", path, settings.work / "builds")
    except RuntimeError as error:
        return (words, "OpenVINO", "-", "-", str(error))
    return (words, "OpenVINO", f"{compiled:.1f}", f"{size / 1e6:.1f}", f"loaded again in {loaded:.2f} s")


def _tensorrt_row(settings: Settings, path: Path, words: str, flavour: Flavour) -> tuple[str, ...]:
    name = {Flavour.TENSORRT: "TensorRT", Flavour.RTX: "TensorRT-RTX"}[flavour]
    try:
        load_tensorrt(flavour)
        seconds, size, note = call_apart("export_files:build_tensorrt", path, flavour, settings.work)
    except MissingDependency:
        return (words, name, "-", "-", "not installed here")
    except RuntimeError as error:
        return (words, name, "-", "-", str(error))
    return (words, name, f"{seconds:.1f}", f"{size / 1e6:.1f}", note)


def _goals(teacher: Timing, fp32: Timing, int8: list[Timing]) -> None:
    best = min(int8, key=lambda row: row.median if row.milliseconds else float("inf"))
    against_teacher, against_fp32 = teacher.median / best.median, fp32.median / best.median
    click.echo(
        f"Best INT8 ({best.name}): {against_teacher:.0f} times the teacher (goal {GOAL_TEACHER}: "
        f"{_met(against_teacher, GOAL_TEACHER)}), {against_fp32:.1f} times its FP32 in ONNX Runtime (goal {GOAL_FP32}: "
        f"{_met(against_fp32, GOAL_FP32)}).\n"
    )


def _met(figure: float, goal: float) -> str:
    return "met" if figure >= goal else "missed"


def heading(text: str) -> None:
    click.echo(f"## {text}\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table; all columns but the first to the right."""
    click.echo(f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}")
    for row in rows:
        click.echo(f"| {' | '.join(row)} |")
    click.echo()


def _ms(row: Timing) -> str:
    return f"{row.median:.3g} ({min(row.milliseconds):.3g} to {max(row.milliseconds):.3g})"


def _ratio(slower: Timing, faster: Timing) -> str:
    return f"{slower.median / faster.median:.3g}"


def _fault(row: Timing) -> str:
    return f", {row.fault}" if row.fault else ""


def _faulty(row: Timing, columns: int) -> tuple[str, ...]:
    return (row.name, row.fault, *["-"] * (columns - 2))


def _mb(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f}"


@click.command(context_settings={"show_default": True})
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Folder of NAME.safetensors or .pth.  [default: random]"
)
@click.option(
    "--photos", type=click.Path(path_type=Path), help="Folder to calibrate with.  [default: made-up pictures]"
)
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Part to run; repeatable.  [default: all]")
@click.option("--size", type=click.IntRange(64), help="Side of all students instead of their own, to try things out.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Turns of each way.")
@click.option("--seconds", type=float, default=3.0, help="Length of a turn; three runs at least.")
@reports_errors
def main(
    only: tuple[str, ...], weights: Path | None, photos: Path | None, size: int | None, rounds: int, seconds: float
) -> None:
    """Time students, poolings and builds, and print tables."""
    torch = f"torch {version('torch')} with {call_apart('torch:get_num_threads')} threads"
    click.echo(
        f"{machine_name()}; {torch}, ONNX Runtime {version('onnxruntime')}, OpenVINO {version('openvino')}; "
        f"{rounds} turns of {seconds:g} s each, one process for each row; median (fastest to slowest run)\n"
    )
    parts = {"students": students_part, "pooling": pooling_part, "build": build_part, "gpu": gpu_part}
    with tempfile.TemporaryDirectory() as work:
        settings = Settings(Path(work), weights, photos, size, rounds, seconds)
        for name in only or PARTS:
            parts[name](settings)


if __name__ == "__main__":
    main()
