"""What deepir-distill does once its options are read."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepir.datasets import read_picture_paths, read_training_images
from deepir.distill.backbone import build_trunk
from deepir.distill.checkpoint import Model, load_model, new_model, save_model
from deepir.distill.device import Device, find_device
from deepir.distill.distil_loss import LossWeights, parse_weights
from deepir.distill.epochs import Progress, seed_everything
from deepir.distill.metric import MetricConfig, train_metric
from deepir.distill.middle import with_middle
from deepir.distill.pictures import Augmentation
from deepir.distill.reduce import ReduceConfig, reduce_model
from deepir.distill.student import DistilConfig, training_views
from deepir.distill.teach import TeachConfig, teach
from deepir.distill.teachers import TargetConfig
from deepir.distill.trainer import TrainConfig
from deepir.distill.whitening import WhitenConfig, drop_projections, whiten
from deepir.distill.whitening_choice import whiten_auto
from deepir.distill.whitening_labels import read_labels, whiten_learned
from deepir.errors import InputError, OptionError
from deepir.head import Head, parse_pooling, parse_stages
from deepir.spec import parse_scales, parse_size

Report = Callable[[str], None]
Options = dict[str, Any]

_REGIONS = 1.0
_JITTER = "0.8,1.1"
_DISTIL_OPTIONS = (
    "epochs",
    "batch",
    "learning_rate",
    "freeze_norm",
    "seed",
    "workers",
    "chunk",
    "tensorboard",
    "patience",
)


def train_teacher(source: Path, options: Options, report: Report, command: str) -> None:
    """Metric learning on labelled pictures, then whitening on the same pictures at every resolution."""
    started = time.monotonic()
    images = read_training_images(source)
    _check_output(options["out"])
    device = _device(options)
    seed_everything(options["seed"])
    trunk = build_trunk(options["trunk_name"], pretrained=options["pretrained"], weights=options["weights"])
    size = parse_size(options["size"])
    sizes = parse_scales(options["scales"], size)
    pooling, levels = parse_pooling(options["pooling"], options["levels"])
    head = Head(pooling=pooling, levels=levels, grid=options["grid"], combine=options["combine"])
    model = new_model(trunk, sizes=(size,), head=head, resize=options["resize"], interpolation=options["interpolation"])
    device.place(model.network)
    labels = len({image.label for image in images})
    report(f"{len(images)} pictures of {labels} labels, {model.parameters / 1e6:.1f} M parameters")
    if options["epochs"] != 0:
        names = ("epochs", "batch", "learning_rate", "per_label", "freeze_norm", "seed", "workers", "warm_epochs")
        config = MetricConfig(
            loss=options["loss"],
            miner=options["miner"],
            mining=options["mining"],
            augmentation=Augmentation(flip=options["flip"]),
            chunk=options["chunk"],
            held_out=options["validate"],
            patience=options["patience"],
            training=TrainConfig(epochs=1, compile=options["compile"], tensorboard=options["tensorboard"]),
            **_given(options, *names),
        )
        model = train_metric(model, images, config, _progress(options, report, command), device)
    model = Model(model.network, model.spec.at_sizes(sizes))
    if options["whiten"]:
        whitening = WhitenConfig(dim=options["dim"], power=options["power"])
        model = whiten(model, [[image.path for image in images]], whitening, report)
    else:
        model = model.sealed()
    save_model(model, options["out"])
    report(f"{_written(options['out'], model)}, {time.monotonic() - started:.0f} s")
    report(f"next: deepir-distill {options['out']} --images {source} --student timm:resnet18 -o student.safetensors")


def whiten_model(path: Path, folders: Sequence[Path], out: Path, options: Options, report: Report) -> None:
    """Refit a checkpoint's whitening as its options say, at other resolutions when asked."""
    _check_output(out)
    _check_whitening(options)
    model = load_model(path)
    if options["scales"]:
        model = Model(model.network, model.spec.at_sizes(parse_scales(options["scales"], model.spec.size)))
    groups = [read_picture_paths(folder) for folder in folders]
    labels = {key: label for each in zip(folders, groups, strict=True) for key, label in read_labels(*each).items()}
    if options["auto"]:
        model = whiten_auto(model, groups, labels, standardise=options["standardise"], report=report)
    elif options["learned"]:
        model = whiten_learned(model, groups, labels, options["dim"], report)
    else:
        config = WhitenConfig(**_given(options, "dim", "power", "standardise"))
        model = whiten(model, groups, config, report)
    save_model(model, out)
    report(_written(out, model))


def fuse_model(path: Path, folders: Sequence[Path], out: Path, options: Options, report: Report) -> None:
    """Add middle layers to a checkpoint and fit their whitening; that of its last layer stays as it is."""
    _check_output(out)
    if options["raw"] and folders:
        message = "--raw fits nothing: leave out --images"
        raise OptionError(message)
    model = load_model(path)
    drop_projections(model, report)
    model = with_middle(model, options["fusion"], parse_stages(options["middle"]))
    if not options["raw"]:
        keep_master = model.network.whitening is not None
        names = ("power", "standardise")
        config = WhitenConfig(dim=None, keep_master=keep_master, **{name: options[name] for name in names})
        model = whiten(model, [read_picture_paths(folder) for folder in folders], config, report)
    save_model(model, out)
    report(_written(out, model))


def distil_student(teacher_path: Path, sources: Sequence[Path], options: Options, report: Report, command: str) -> None:
    """Distil teachers into a student on unlabelled pictures."""
    started = time.monotonic()
    _check_output(options["out"])
    config = _teach_config(options)
    pictures = [path for source in sources for path in read_picture_paths(source)]
    references = [path for source in options["references"] for path in read_picture_paths(source)]
    device = _device(options)
    teachers = [load_model(path).frozen() for path in (teacher_path, *options["more"])]
    seed_everything(options["seed"])
    student = _student(options, teachers[0])
    report(f"student {student.spec.backbone} at {student.spec.size}, {student.parameters / 1e6:.2f} M parameters")
    cache = options["cache"] or options["out"].with_name(options["out"].name + ".teacher")
    progress = _progress(options, report, command)
    student = teach(student, teachers, pictures, config, progress, device, cache=cache, references=references)
    save_model(student, options["out"])
    report(f"{_written(options['out'], student)}, {time.monotonic() - started:.0f} s")
    report(f"next: deepir-export {options['out']} --int8 --calib {sources[0]}")


def reduce_student(path: Path, sources: Sequence[Path], options: Options, report: Report, command: str) -> None:
    """Fewer values for a model's descriptor, learnt from the distances between unlabelled pictures."""
    _check_output(options["out"])
    try:
        dims = tuple(int(dim) for dim in options["dims"].split(","))
    except ValueError as error:
        message = f"--dim takes numbers that fall, such as 512,256, got {options['dims']!r}"
        raise OptionError(message) from error
    names = ("form", "log_sum", "epochs", "seed")
    config = ReduceConfig(dims=dims, **{name: options[name] for name in names})
    model = load_model(path)
    model.network.eval()
    views = training_views([path for source in sources for path in read_picture_paths(source)], options["views"])
    cache = options["cache"] or options["out"].with_name(options["out"].name + ".teacher")
    model = reduce_model(model, views, config, cache, _progress(options, report, command), Device("cpu"))
    save_model(model, options["out"])
    report(_written(options["out"], model))


def _teach_config(options: Options) -> TeachConfig:
    """How to distil; mirrored pictures leave the regions out unless they are asked for."""
    regions = 0.0 if options["flip"] else _REGIONS
    weights = parse_weights(options["loss"] or "", LossWeights(regions=regions))
    distil = DistilConfig(
        trained=options["trained"],
        weights=weights,
        quantised=options["quantised"],
        validation=options["validate"],
        jitter=_parse_jitter(options["jitter"]),
        compile=options["compile"],
        **_given(options, *_DISTIL_OPTIONS),
    )
    distil = dataclasses.replace(distil, augmentation=dataclasses.replace(distil.augmentation, flip=options["flip"]))
    targets = TargetConfig(regions=weights.regions > 0, **_given(options, "dim", "combine", "neighbours"))
    return TeachConfig(targets=targets, distil=distil, refit=options["refit"], **_given(options, "views"))


def _parse_jitter(text: str | None) -> tuple[float, float]:
    try:
        least, greatest = map(float, (text or _JITTER).split(","))
    except ValueError as error:
        message = f"--jitter takes two factors such as 0.8,1.1, got {text!r}"
        raise OptionError(message) from error
    return least, greatest


def _device(options: Options) -> Device:
    return find_device(options["device"], mixed=options["mixed"], half=options["half"])


def _student(options: Options, teacher: Model) -> Model:
    name = options["student_name"]
    middle = parse_stages(options["middle"])
    if name.endswith(".safetensors"):
        model = load_model(Path(name))
        size = parse_size(options["size"]) if options["size"] else model.spec.size
        model = Model(model.network, model.spec.at_sizes((size,)))
        return with_middle(model, options["fusion"], middle) if middle or options["fusion"] != "none" else model
    trunk = build_trunk(name, middle=middle, pretrained=options["pretrained"], weights=options["weights"])
    size = parse_size(options["size"]) if options["size"] else teacher.spec.size
    head = dataclasses.replace(teacher.spec.head, fusion=options["fusion"], middle=middle)
    return new_model(
        trunk, sizes=(size,), head=head, resize=teacher.spec.resize, interpolation=teacher.spec.interpolation
    )


def _progress(options: Options, report: Report, command: str) -> Progress:
    return Progress(out=options["out"], resume=options["resume"], command=command, report=report)


def _given(options: Options, *names: str) -> Options:
    """The options that were given; the others keep the default of their configuration."""
    return {name: options[name] for name in names if options[name] is not None}


def _check_whitening(options: Options) -> None:
    for choice, others, reason in (
        ("auto", ("dim", "power", "learned"), "chooses dimension and power of a PCA"),
        ("learned", ("power", "standardise"), "learns from pairs, not from variances"),
    ):
        given = [f"--{other}" for other in others if options[other] is not None and options[other] is not False]
        if options[choice] and given:
            message = f"--{choice} {reason}: leave out {' and '.join(given)}"
            raise OptionError(message)


def _check_output(out: Path) -> None:
    """Refuse an impossible output before hours of training, not after."""
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        message = f"cannot write {out}: give a name ending in .safetensors in a folder that exists"
        raise InputError(message)


def _written(out: Path, model: Model) -> str:
    megabytes = out.stat().st_size / 1e6
    return f"wrote {out} ({megabytes:.1f} MB, model {model.sealed().spec.fingerprint}, {model.spec.dim} values)"
