"""What deepir-export was asked for, checked once."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from deepir.calib.keep import Keep
from deepir.card import PixelType
from deepir.errors import InputError, OptionError
from deepir.export.engine_config import BuildConfig, Pool
from deepir.export.engine_profiles import Batch
from deepir.gate import GateLimits
from deepir.runtime.sidecar import Portable
from deepir.spec import Numerics, Size, parse_size

Target = Literal["auto", "onnx", "openvino", "cuda", "tensorrt", "rtx", "all"]
TARGETS: tuple[Target, ...] = get_args(Target)

_BUILD: dict[str, Any] = {field.name: field.default for field in fields(BuildConfig)}

FREE = "free"
"""The word for --size that keeps height and width free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to make of a model, for which programs, and with which pictures.

    Attributes:
        numerics: None keeps the precision of an .onnx file and makes FP32 of a checkpoint.
        out: An existing folder.
        calib: Pictures to calibrate INT8 with, or one record of an earlier calibration (.calib.json).
        keep: What stays FP16 in an INT8 file; see `deepir.calib.calibrate.CalibrationConfig`.
        images: Folders of pictures to prove with, beside those that the calibration did not measure on.
        strict: Write no INT8 file that fails its gate.
        sizes: Fixed (height, width); several are alternatives of which a picture takes the nearest in aspect.
        free: Keep height and width free: pictures keep their aspect.
        target: Which programs to build for and to prove in.
        batch: Smallest, usual and largest number of pictures of an engine.
        capabilities: Compute capabilities for TensorRT-RTX; see `BuildConfig`.
        dry_run: Only say what would be done.
    """

    out: Path
    numerics: Numerics | None = None
    calib: tuple[Path, ...] = ()
    images: tuple[Path, ...] = ()
    method: str = "auto"
    keep: Keep = None
    strict: bool = False
    sizes: tuple[Size, ...] = ()
    free: bool = False
    pixels: PixelType = "float32"
    target: Target = "auto"
    batch: Batch = _BUILD["batch"]
    pool: Pool = _BUILD["pool"]
    limits: GateLimits = field(default_factory=GateLimits)
    workspace_mib: int | None = None
    portable: Portable = _BUILD["portable"]
    capabilities: tuple[str, ...] = ()
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.out.is_dir():
            message = f"no such folder: {self.out}; create it or give another with -o"
            raise InputError(message)
        if self.free and self.sizes:
            message = f"--size {FREE} keeps every size: leave the other sizes out"
            raise OptionError(message)
        if len(set(self.sizes)) < len(self.sizes):
            message = f"--size names a size twice: {', '.join(f'{height}x{width}' for height, width in self.sizes)}"
            raise OptionError(message)
        if self.workspace_mib is not None and self.workspace_mib < 1:
            message = f"--workspace is in MiB and must be 1 or more, got {self.workspace_mib}"
            raise OptionError(message)
        if self.numerics is not Numerics.INT8 and self.calib:
            message = "--calib is for INT8: give --int8 with it, or --images for pictures to prove with"
            raise OptionError(message)


def parse_batch(text: str) -> Batch:
    """Read `8` as one to eight pictures, usually one; `1:4:8` as smallest, usual and largest number.

    Raises:
        OptionError: Anything else.
    """
    if match := re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", text.strip()):
        first = int(match[1])
        batch = (1, 1, first) if match[2] is None else (first, int(match[2]), int(match[3]))
        if 1 <= batch[0] <= batch[1] <= batch[2]:
            return batch
    message = f"--batch takes the largest number of pictures, or smallest:usual:largest such as 1:4:8; got {text!r}"
    raise OptionError(message)


def parse_sizes(texts: tuple[str, ...]) -> tuple[tuple[Size, ...], bool]:
    """Read the values of --size: the fixed sizes, and whether the word `free` was among them.

    Raises:
        SpecError: Something that is no size.
    """
    return tuple(parse_size(text) for text in texts if text != FREE), FREE in texts
