"""The INT8 file of a student of distillation.py, through the ordinary export and calibration, and what it scores."""

from pathlib import Path

import click
from distillation_pictures import scored_pictures
from distillation_scores import Result, score_sets
from shop_photos import Photos

from deepir.calib.calibrate import CalibrationConfig, calibrate, read_fp32
from deepir.calib.images import CalibrationSet, ChosenImages
from deepir.calib.onnx_file import describe, write_onnx
from deepir.distill.checkpoint import Model
from deepir.export.graph import build_onnx
from deepir.runtime import Extractor


def score_int8(model: Model, photos: Photos, path: Path) -> Result:
    """What `score_sets` gives, at the model's own sizes; the file at `path` is taken as it is.

    Ranges are measured on half of `train` and judged on another quarter; nothing stays FP16, so that the scores show
    what INT8 costs.
    """
    if not path.exists():
        fp32 = path.with_suffix(".fp32.onnx")
        write_onnx(build_onnx(model), fp32)
        proto, card = read_fp32(fp32)
        images = CalibrationSet(tuple(photos.train[1::2]), tuple(photos.train[::4]))
        chosen = ChosenImages(images, describe(proto, card, images.judge))
        write_onnx(calibrate(proto, card, chosen, CalibrationConfig(keep=0), _say).proto, path)
    pictures = scored_pictures(photos)
    with Extractor.open(path) as extractor:
        descriptors_nd = extractor.describe_files(pictures)
    return score_sets(photos, descriptors_nd, {picture: row for row, picture in enumerate(pictures)})


def _say(line: str) -> None:
    click.echo(line, err=True)
