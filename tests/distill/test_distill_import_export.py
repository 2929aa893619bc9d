"""A published Caffe model, from its file through the commands to ONNX Runtime, is the same function."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from deepir.distill.caffe_file import read_caffemodel
from deepir.distill.cli import main as distill_main
from deepir.export.cli import main as export_main
from deepir.regions import image_regions, region_windows
from deepir.runtime import Extractor

SIZE = (96, 128)
MEAN_RGB = np.float32([123.68000031, 116.77899933, 103.93900299])


def reference(caffemodel: Path, image_rgb: np.ndarray) -> np.ndarray:
    """torchvision's ResNet-101 with Caffe's strides, filled from the layers one by one, on RGB of Caffe's means."""
    from torchvision.models import resnet101

    blobs = {
        layer.name: [torch.tensor(np.array(blob)) for blob in layer.blobs] for layer in read_caffemodel(caffemodel)
    }
    model = resnet101().eval()
    model.maxpool = torch.nn.MaxPool2d(3, 2, 0, ceil_mode=True)
    _fill(model.conv1, model.bn1, blobs, "conv1", "_conv1")
    model.conv1.weight.data = model.conv1.weight.data.flip(1)
    for stage in range(2, 6):
        for number, block in enumerate(getattr(model, f"layer{stage - 1}")):
            letter = f"b{number}" if number and stage in (3, 4) else "abc"[number]
            if number == 0 and stage > 2:
                block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
            for place, branch in enumerate(("2a", "2b", "2c"), 1):
                name = f"{stage}{letter}_branch{branch}"
                _fill(getattr(block, f"conv{place}"), getattr(block, f"bn{place}"), blobs, f"res{name}", name)
            if block.downsample is not None:
                name = f"{stage}{letter}_branch1"
                _fill(block.downsample[0], block.downsample[1], blobs, f"res{name}", name)
    x = torch.from_numpy((image_rgb.astype(np.float32) - MEAN_RGB).transpose(2, 0, 1)[None].copy())
    with torch.inference_mode():
        for part in (model.conv1, model.bn1, model.relu, model.maxpool):
            x = part(x)
        map_chw = model.layer4(model.layer3(model.layer2(model.layer1(x))))[0]
    windows = region_windows(image_regions(*SIZE, 2), map_chw.shape[1], map_chw.shape[2], 32)
    regions = torch.stack([map_chw[:, top:end, left:right].amax((1, 2)) for top, left, end, right in windows])
    scale, shift = blobs["pooled_rois/centered"]
    weight, bias = blobs["pooled_rois/pca"]
    whitened = functional.normalize((functional.normalize(regions, dim=1) * scale + shift) @ weight.T + bias, dim=1)
    return functional.normalize(whitened.sum(0), dim=0).numpy()


def _fill(
    conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d, blobs: dict[str, list[torch.Tensor]], name: str, rest: str
) -> None:
    mean, variance, factor = blobs[f"bn{rest}"]
    values = (blobs[name][0], mean / factor, variance / factor, *blobs[f"scale{rest}"])
    targets = (conv.weight, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    for target, value in zip(targets, values, strict=True):
        target.data.copy_(value)


def run(command: object, *words: object) -> None:
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_the_released_caffe_resnet101_runs_in_onnx_runtime_as_torch_evaluates_it(
    resnet101_caffemodel: Path, tmp_path: Path
) -> None:
    run(distill_main, "import", resnet101_caffemodel, "-o", tmp_path / "teacher.safetensors")
    run(export_main, tmp_path / "teacher.safetensors", "--size", "96x128")
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    with Extractor.open(tmp_path / "teacher.onnx") as extractor:
        descriptor = extractor.describe([image])[0]
    expected = reference(resnet101_caffemodel, image)
    np.testing.assert_allclose(descriptor, expected, atol=1e-5)
    assert descriptor.shape == (2048,)
    # spread over its values, so that the comparison says something
    assert np.sum(np.abs(expected) > 1e-3) > 1000
