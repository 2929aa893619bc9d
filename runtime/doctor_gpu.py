"""The doctor's questions about the GPU: CUDA's driver, TensorRT and why it does not load, numpy for the plugin."""

import re

from deepir.runtime.doctor_system import JETPACKS
from deepir.runtime.finding import Finding, fail, ok, warn
from deepir.runtime.machine import Machine
from deepir.runtime.machine_import import Imported

_LIBRARY = re.compile(r"(?:lib)?[\w.+-]+\.so(?:\.\d+)*")
_APT_OF_LIBRARY = {"libnvdla_compiler": "nvidia-l4t-dla-compiler"}
_NUMPY_2_SINCE = (10, 16)


def check_cuda(machine: Machine) -> Finding:
    """The driver and the GPU."""
    found = machine.imported("cuda")
    if found.version is not None:
        gpu, capability, memory = (found.details.get(name) for name in ("gpu", "capability", "memory_mib"))
        return ok("cuda", f"driver for CUDA {found.version}; {gpu}, compute capability {capability}, {memory} MiB")
    if not machine.has_nvidia:
        hint = "; docker run --gpus all gives a container the one there may be" if machine.in_container else ""
        return ok("cuda", f"no NVIDIA GPU here{hint}")
    return _without_driver(machine, found)


def check_tensorrt(machine: Machine) -> Finding:
    """Whether TensorRT can be imported, and if not, why: absent, hidden, for another Python, or without a library."""
    found = machine.imported("tensorrt")
    if found.version is not None:
        return ok("tensorrt", found.version)
    if found.missing:
        return _absent(machine)
    library = _LIBRARY.search(found.error)
    if library is None:
        return fail("tensorrt", f"installed, and its import fails: {found.error}", _install(machine))
    name = library[0]
    package = _APT_OF_LIBRARY.get(name.partition(".")[0])
    cure = f"sudo apt install {package}" if package else _install(machine)
    return fail("tensorrt", f"installed, and cannot load its library {name} ({found.error})", cure)


def check_plugin_numpy(machine: Machine) -> Finding:
    """Whether the pooling plugin of this TensorRT can read this numpy's arrays (docs/jetson.md)."""
    numpy = machine.version("numpy") or "0"
    found = machine.imported("tensorrt")
    text = f"numpy {numpy}"
    if found.version is None:
        return ok("numpy", text)
    if int(numpy.partition(".")[0]) >= 2 and _numbers(found.version) < _NUMPY_2_SINCE:
        crash = f"the pooling plugin of TensorRT {found.version} crashes with it"
        return warn("numpy", f"{text}: {crash}", "pip install 'numpy<2'")
    return ok("numpy", f"{text} and the plugin of TensorRT {found.version} go together")


def system_pythons(machine: Machine) -> list[str]:
    """The Pythons of the system that have TensorRT, such as python3.10; python3 stands for all of its versions."""
    found = machine.glob("usr/lib/python3*/dist-packages/tensorrt")
    return [path.parts[-3] for path in found]


def extra_of(machine: Machine) -> str:
    """The extra of deepir for this machine: cpu, gpu, jetson6 or jetson7."""
    if machine.is_jetson:
        release = re.search(r"R(\d+)", machine.text("etc/nv_tegra_release"))
        return JETPACKS.get(int(release[1]) if release else 0, "jetson7")
    return "gpu" if machine.has_nvidia else "cpu"


def broken(found: Imported) -> str:
    """Why an import failed, naming the library that was not found where there is one."""
    library = _LIBRARY.search(found.error)
    return f"cannot load {library[0]} ({found.error})" if library else found.error


def _without_driver(machine: Machine, found: Imported) -> Finding:
    if machine.in_container:
        text = f"the container does not see the GPU ({found.error})"
        if machine.is_jetson:
            return fail("cuda", text, "docker run --runtime nvidia IMAGE")
        return warn("cuda", f"{text}; models run on the CPU", "docker run --gpus all IMAGE")
    if "cuInit" in found.error:
        cure = "sudo usermod -aG video,render $USER" if machine.is_jetson else "nvidia-smi"
        return fail("cuda", found.error, cure)
    if machine.is_jetson:
        return fail("cuda", f"no driver ({found.error})", "sudo apt install nvidia-l4t-cuda")
    text = f"an NVIDIA card without its driver ({found.error}); models run on the CPU"
    return warn("cuda", text, "sudo ubuntu-drivers install")


def _absent(machine: Machine) -> Finding:
    seen = system_pythons(machine)
    running = f"python{machine.python[0]}.{machine.python[1]}"
    fresh = f"-m venv --system-site-packages .venv && .venv/bin/pip install 'deepir[{extra_of(machine)}]'"
    if seen and seen[-1] not in ("python3", running):
        text = f"installed for {' and '.join(seen)} of the system, and this is {running}"
        return fail("tensorrt", text, f"{seen[-1]} {fresh}")
    if seen and machine.isolated:
        text = "installed for the system, and this environment was made without --system-site-packages"
        return fail("tensorrt", text, f"{running} {fresh}")
    if seen:
        text = f"installed for {' and '.join(seen)} of the system, and {running} does not find it"
        return fail("tensorrt", text, f"/usr/bin/python3 {fresh}")
    if machine.is_jetson:
        return fail("tensorrt", "not installed", _install(machine))
    if machine.has_nvidia:
        return warn("tensorrt", "not installed; models run in ONNX Runtime", _install(machine))
    return ok("tensorrt", "not installed, and there is no NVIDIA GPU that would need it")


def _install(machine: Machine) -> str:
    return "sudo apt install nvidia-jetpack" if machine.is_jetson else "pip install --force-reinstall tensorrt"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
