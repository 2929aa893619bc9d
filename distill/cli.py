"""deepir-distill: train a teacher, whiten it, distil a student."""

import difflib
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from deepir.command_line import introduces_itself
from deepir.distill.choices import MININGS, TARGETS
from deepir.distill.cli_options import reporter, start_options, training_options
from deepir.distill.data_cli import codebook_command, collect_command
from deepir.distill.model_cli import import_weights, inspect_weights
from deepir.distill.reduce_cli import reduce_command
from deepir.errors import reports_errors
from deepir.head import COMBINATIONS, FITTED_FUSIONS, GRIDS, POOLING_NAMES, STUDENT_FUSIONS
from deepir.spec import INTERPOLATIONS

_FILE = click.Path(path_type=Path)


class _StudentByDefault(click.Group):
    """A group in which `deepir-distill TEACHER ...` means `deepir-distill student TEACHER ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            self._refuse_misspelt(ctx, args[0])
            args = ["student", *args]
        return super().parse_args(ctx, args)

    def _refuse_misspelt(self, ctx: click.Context, word: str) -> None:
        """A word like that of a command is not a teacher, unless it is a file or has a suffix like one."""
        alike = difflib.get_close_matches(word, self.commands, 1)
        if alike and not Path(word).suffix and not Path(word).exists():
            ctx.fail(f"no command {word}: did you mean {alike[0]}?")


@introduces_itself
@click.group(cls=_StudentByDefault, context_settings={"auto_envvar_prefix": "DEEPIR_DISTILL", "show_default": True})
def main() -> None:
    """Train and distil R-MAC models.

    \b
    Example:
      deepir-distill train photos/ --trunk timm:resnet50 --pretrained --scales 0.5,1,1.5 -o teacher.safetensors
      deepir-distill teacher.safetensors --images photos/ --student timm:resnet18 -o student.safetensors
    """  # noqa: D301 click needs the character


main.add_command(codebook_command)
main.add_command(collect_command)
main.add_command(import_weights)
main.add_command(inspect_weights)
main.add_command(reduce_command)


@main.command()
@click.argument("images", type=_FILE)
@click.option("-o", "--out", type=_FILE, required=True, help="The checkpoint to write (.safetensors).")
@click.option("--trunk", "trunk_name", default="timm:resnet50", help="timm:NAME or torchvision:NAME.")
@click.option("--size", default="320", help="Training size: side, or HEIGHTxWIDTH.")
@click.option("--scales", default="1", help="The model's resolutions: factors (0.5,1,1.5) or sizes (160,320,480).")
@click.option(
    "--resize", type=click.Choice(["stretch", "longest"]), default="stretch", help="How pictures meet the size."
)
@click.option("--pooling", type=click.Choice(POOLING_NAMES), default="rmac", help="What makes a descriptor of the map.")
@click.option("--levels", type=int, default=2, help="Levels of the region grid.")
@click.option("--grid", type=click.Choice(GRIDS), default="image", help="Where the region grid is laid.")
@click.option("--combine", type=click.Choice(COMBINATIONS), default="sum", help="How resolutions become one.")
@click.option("--interpolation", type=click.Choice(INTERPOLATIONS), default="area", help="How pictures are resized.")
@click.option("--dim", type=int, default=256, help="Values of the whitened descriptor.")
@click.option("--power", type=float, default=0.25, help="Whitening power, 0 to 0.5.")
@click.option("--whiten/--no-whiten", default=True, help="Fit the whitening; without it whiten --learned does best.")
@click.option("--loss", default="MultiSimilarityLoss", help="ap, tap, triplet, contrastive, lifted, ... or a class.")
@click.option("--miner", default="MultiSimilarityMiner", help="A miner of pytorch-metric-learning, or none.")
@click.option("--per-label", type=int, help="Pictures of each label in a batch. [default: 4]")
@click.option("--mining", type=click.Choice(MININGS), default="random", help="Which pictures a batch holds.")
@click.option("--warm-epochs", type=int, help="Epochs of classification before the ranking loss. [default: 0]")
@start_options
@training_options
@reports_errors
def train(images: Path, **options: Any) -> None:
    """Train a trunk on labelled pictures, then whiten it.

    IMAGES is a folder of label folders, or a benchmark.json with `train` pictures.  With --epochs 0 the trunk stays
    as it is and only the whitening is fitted.
    """
    from deepir.distill.commands import train_teacher

    train_teacher(images, options, reporter(quiet=options.pop("quiet")), _command_line())


@main.command()
@click.argument("model", type=_FILE)
@click.option("--images", type=_FILE, multiple=True, required=True, help="Folder; several folders weigh the same.")
@click.option("-o", "--out", type=_FILE, required=True, help="The checkpoint to write (.safetensors).")
@click.option("--dim", type=int, help="Values of the whitened descriptor. [default: 256; with --learned as before]")
@click.option("--power", type=float, help="Whitening power, 0 to 0.5. [default: 0.25]")
@click.option("--auto", is_flag=True, help="Choose --dim and --power on pictures that are held out.")
@click.option("--standardise", is_flag=True, help="Divide each channel by its deviation first.")
@click.option("--learned", is_flag=True, help="Learn a projection of descriptors from pictures with the same label.")
@click.option("--scales", help="New resolutions: factors (0.5,1,1.5) or sizes (160,320,480).")
@click.option("-q", "--quiet", is_flag=True, help="No lines for people.")
@reports_errors
def whiten(model: Path, images: tuple[Path, ...], out: Path, *, quiet: bool, **options: Any) -> None:
    """Fit the PCA whitening of MODEL on pictures, or learn one from labels.

    Give the references and the photographs, each with its own --images: fitted on one of them alone, the
    difference between both stays in the descriptors.  Labels are the folders that pictures lie in, or those of the
    `train` pictures of a benchmark.json.

    \b
    Example:
      deepir-distill whiten teacher.safetensors --images references/ --images photos/ --auto -o white.safetensors
    """  # noqa: D301 click needs the character
    from deepir.distill.commands import whiten_model

    whiten_model(model, images, out, options, reporter(quiet=quiet))


@main.command()
@click.argument("model", type=_FILE)
@click.option("--images", type=_FILE, multiple=True, help="Folder; several folders weigh the same.")
@click.option("--fusion", type=click.Choice(FITTED_FUSIONS), default="concat", help="How the layers join.")
@click.option("--middle", required=True, help="Stages to add, as 3 or 3,2,1 (3 is res4 of a ResNet).")
@click.option("--power", type=float, default=0.5, help="Whitening power of the added layers, 0 to 0.5.")
@click.option("--standardise/--no-standardise", default=True, help="Divide each channel by its deviation first.")
@click.option("--raw", is_flag=True, help="Join the layers as they are, without whitening.")
@click.option("-o", "--out", type=_FILE, required=True, help="The checkpoint to write (.safetensors).")
@click.option("-q", "--quiet", is_flag=True, help="No lines for people.")
@reports_errors
def fuse(model: Path, images: tuple[Path, ...], out: Path, *, quiet: bool, **options: Any) -> None:
    """Add middle layers to MODEL, each with its own PCA whitening fitted on pictures; nothing is trained.

    \b
    Example:
      deepir-distill fuse teacher.safetensors --middle 3,2 --images photos/ -o fused.safetensors
    """  # noqa: D301 click needs the character
    from deepir.distill.commands import fuse_model

    fuse_model(model, images, out, options, reporter(quiet=quiet))


@main.command()
@click.argument("teacher", type=_FILE)
@click.option("--images", type=_FILE, multiple=True, required=True, help="Pictures to learn from; labels are not used.")
@click.option("--student", "student_name", required=True, help="timm:NAME, torchvision:NAME, or a checkpoint.")
@click.option("-o", "--out", type=_FILE, required=True, help="The checkpoint to write (.safetensors).")
@click.option("--size", help="The student's one size.  [default: the teacher's middle size]")
@click.option(
    "--fusion", type=click.Choice(STUDENT_FUSIONS), default="none", help="Join middle layers to the last one."
)
@click.option("--middle", help="Their stages, as 3 or 3,2 (3 is res4 of a ResNet).")
@click.option("--train", "trained", default="all", help="What learns: all, head, head+last-stage.")
@click.option("--teacher", "more", type=_FILE, multiple=True, help="A further teacher; their descriptors are fused.")
@click.option("--dim", type=int, help="Values of the student's descriptor.  [default: the teacher's]")
@click.option("--views", type=int, help="Crops of each picture. [default: 4]")
@click.option("--loss", help="Its parts' weights.  [default: cosine=4,similarity=0.3,regions=1]")
@click.option("--jitter", help="Least and greatest factor of the student's size in training.  [default: 0.8,1.1]")
@click.option("--combine", type=click.Choice(TARGETS), default="teacher", help="How resolutions become one target.")
@click.option("--neighbours", type=int, default=0, help="Smooth each target with so many nearest ones.")
@click.option("--references", type=_FILE, multiple=True, help="Pictures of the other world, for the last layer's fit.")
@click.option("--refit/--no-refit", default=True, help="Fit the last layer once more after training.")
@click.option("--quantised", is_flag=True, help="Train with the rounding of INT8.")
@click.option("--cache", type=_FILE, help="Folder of the teacher's descriptors.  [default: OUT.teacher]")
@start_options
@training_options
@reports_errors
def student(teacher: Path, images: tuple[Path, ...], **options: Any) -> None:
    """Distil the descriptors of TEACHER, at all its resolutions, into a single-resolution student.

    Several processes share the work when torchrun starts them, as in: torchrun --nproc-per-node 4 -m deepir.distill.

    \b
    Example:
      deepir-distill teacher.safetensors --images photos/ --student timm:resnet18 --pretrained -o student.safetensors
      deepir-distill teacher.safetensors --teacher second.safetensors --images photos/ --student start.safetensors \\
        --dim 256 -o student.safetensors
    """  # noqa: D301 click needs the character
    from deepir.distill.commands import distil_student

    distil_student(teacher, images, options, reporter(quiet=options.pop("quiet")), _command_line())


@main.command()
@click.argument("images", type=_FILE)
@click.option("-o", "--out", type=_FILE, required=True, help="The student's checkpoint (.safetensors).")
@click.option("--trunk", "trunk_name", default="timm:resnet50", help="The teacher's: timm:NAME or torchvision:NAME.")
@click.option("--student", "student_name", default="timm:resnet18", help="The student's trunk.")
@click.option("--pretrained", is_flag=True, help="Start both from the library's weights (downloads them).")
@click.option("--size", default="320", help="The student's size, and the middle one of the teacher's.")
@click.option("--scales", default="0.5,1,1.5", help="The teacher's resolutions: factors or sizes.")
@click.option("--dim", type=int, default=256, help="Values of the descriptor.")
@click.option("--teacher-epochs", type=int, help="Passes of the teacher over the labels. [default: 20]")
@training_options
@click.pass_context
def tune(ctx: click.Context, /, images: Path, out: Path, **options: Any) -> None:
    """From a folder for each label to a student of your own world: train a teacher, whiten it, distil it.

    The teacher is written beside the student, as OUT.teacher.safetensors; with --resume a finished one is taken.

    \b
    Example:
      deepir-distill tune photos/ --pretrained -o student.safetensors
    """  # noqa: D301 click needs the character
    teacher = out.with_suffix(".teacher.safetensors")
    teacher_epochs, student_name = options.pop("teacher_epochs"), options.pop("student_name")
    scales, trunk_name, epochs = options.pop("scales"), options.pop("trunk_name"), options.pop("epochs")
    resumed = options.pop("resume")
    if not (resumed and teacher.exists()):
        begun = teacher.with_name(teacher.name + ".state").exists()
        ctx.invoke(
            train,
            images=images,
            out=teacher,
            trunk_name=trunk_name,
            scales=scales,
            epochs=teacher_epochs,
            resume=resumed and begun,
            **options,
        )
    begun = out.with_name(out.name + ".state").exists()
    ctx.invoke(
        student,
        teacher=teacher,
        images=(images,),
        out=out,
        student_name=student_name,
        epochs=epochs,
        resume=resumed and begun,
        **options,
    )


def _command_line() -> str:
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join(["deepir-distill", *words, "--resume"])
