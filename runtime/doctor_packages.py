"""The doctor's questions about Python packages: ONNX Runtime, OpenVINO, usearch, OpenCV."""

import re

from deepir.runtime.doctor_gpu import broken, extra_of
from deepir.runtime.finding import Finding, fail, ok, warn
from deepir.runtime.machine import Machine
from deepir.runtime.openvino_vnni import NO_VNNI, lacks_vnni

_CUDA = "CUDAExecutionProvider"
_ONE_MODULE = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
"""Distributions that all bring the module onnxruntime and overwrite each other's files."""

_INTEL = ("x86_64", "AMD64")
_BUILD = {"GStreamer": r"^\s*GStreamer:", "FFmpeg": r"^\s*FFMPEG:", "V4L2": r"^\s*v4l/v4l2:"}


def check_onnxruntime(machine: Machine) -> Finding:
    """Whether exactly one ONNX Runtime is installed and loads."""
    found = machine.imported("onnxruntime")
    installed = {name: version for name in _ONE_MODULE if (version := machine.version(name)) is not None}
    names = " and ".join(f"{name} {version}" for name, version in installed.items())
    if len(installed) > 1:
        kept = "onnxruntime-gpu" if extra_of(machine) == "gpu" else "onnxruntime"
        cure = f"pip uninstall -y {' '.join(installed)} && pip install {kept}"
        return fail("onnxruntime", f"{names} are both installed under one module name, which breaks both", cure)
    install = f"pip install 'deepir[{extra_of(machine)}]'"
    if found.missing:
        return fail("onnxruntime", "not installed", install)
    if found.version is None:
        return fail("onnxruntime", f"{names or 'installed'}, and {broken(found)}", f"{install} --force-reinstall")
    return ok("onnxruntime", names or found.version)


def check_providers(machine: Machine) -> Finding:
    """What ONNX Runtime was built to run on; whether CUDA then loads is only known when a model is opened."""
    found = machine.imported("onnxruntime")
    if found.version is None:
        return ok("providers", "none without ONNX Runtime")
    providers = [str(name).removesuffix("ExecutionProvider") for name in found.details.get("providers", ())]
    text = ", ".join(providers)
    wanted = machine.has_nvidia and not machine.is_jetson and machine.imported("cuda").version is not None
    if wanted and _CUDA.removesuffix("ExecutionProvider") not in providers:
        cure = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        return warn("providers", f"{text}: no CUDA, although there is a GPU", cure)
    return ok("providers", text)


def check_openvino(machine: Machine) -> Finding:
    """Whether OpenVINO loads, and which processors it knows."""
    found = machine.imported("openvino")
    no_vnni = extra_of(machine) == "cpu" and lacks_vnni(machine.root)
    advice = f"; {NO_VNNI}, use the FP32 .onnx" if no_vnni else ""
    if found.version is not None:
        devices = ", ".join(found.details.get("devices", ()))
        return ok("openvino", f"{found.version}, devices {devices}{advice}")
    if not found.missing:
        return fail("openvino", f"installed, and {broken(found)}", "pip install --force-reinstall openvino")
    if extra_of(machine) == "cpu" and machine.architecture in _INTEL and not no_vnni:
        return warn("openvino", "not installed; INT8 models run several times faster in it", "pip install openvino")
    return ok("openvino", f"not installed; it is for machines without an NVIDIA GPU{advice}")


def check_usearch(machine: Machine) -> Finding:
    """Whether usearch, which searches the index, loads."""
    found = machine.imported("usearch")
    if found.version is not None:
        return ok("usearch", found.version)
    text = "not installed" if found.missing else broken(found)
    return fail("usearch", text, "pip install --force-reinstall 'usearch>=2.23'")


def check_opencv(machine: Machine) -> Finding:
    """Whether OpenCV loads, and whether it was built with GStreamer, FFmpeg and V4L2."""
    found = machine.imported("cv2")
    if found.version is None:
        text = "not installed" if found.missing else broken(found)
        return fail("opencv", text, _opencv_install(machine, broken_=not found.missing))
    build = str(found.details.get("build", ""))
    parts = {name: re.search(rf"{pattern}\s*YES", build, re.MULTILINE) is not None for name, pattern in _BUILD.items()}
    have, lack = ([name for name, there in parts.items() if there is wanted] for wanted in (True, False))
    text = f"{found.version} with {', '.join(have) or 'nothing'}" + (f", without {', '.join(lack)}" if lack else "")
    if machine.is_jetson and "GStreamer" in lack:
        cure = "pip uninstall -y opencv-python opencv-python-headless && sudo apt install nvidia-opencv"
        return warn("opencv", f"{text}: csi:// needs GStreamer", cure)
    needed = [name for name in ("FFmpeg", "V4L2") if name in lack]
    # either of the two reads videos and network cameras
    if "FFmpeg" in needed and "GStreamer" in have:
        needed.remove("FFmpeg")
    if needed:
        cure = "pip install --force-reinstall opencv-python-headless"
        return warn("opencv", f"{text}: cameras or videos cannot be read", cure)
    return ok("opencv", text)


def _opencv_install(machine: Machine, *, broken_: bool) -> str:
    if machine.is_jetson:
        return "sudo apt install nvidia-opencv"
    # the headless one asks for no library of a desktop, which is what usually is missing
    again = "pip uninstall -y opencv-python && " if broken_ else ""
    return f"{again}pip install {'--force-reinstall ' if broken_ else ''}opencv-python-headless"
