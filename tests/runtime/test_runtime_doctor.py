"""The doctor's questions about a machine: asked of machines that are not here, each named fake, and of this one."""

import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import EngineError, MissingDependency, ModelError, SpecError
from deepir.runtime.doctor import CHECKS, examine, shareable_block
from deepir.runtime.doctor_cameras import check_camera_daemon, check_cameras
from deepir.runtime.doctor_gpu import check_cuda, check_plugin_numpy, check_tensorrt
from deepir.runtime.doctor_packages import (
    check_onnxruntime,
    check_opencv,
    check_openvino,
    check_providers,
    check_usearch,
)
from deepir.runtime.doctor_power import check_power, check_temperature
from deepir.runtime.doctor_system import check_clock, check_disk, check_jetpack, check_memory, check_python
from deepir.runtime.finding import Finding, fail, findings_text, ok, warn, worst
from deepir.runtime.machine import Machine, this_machine
from deepir.runtime.machine_import import PACKAGES, Imported, import_here, import_in_child
from deepir.runtime.openvino_vnni import NO_VNNI

NOON = 1_780_000_000.0
ALL_BUILD = "    FFMPEG:    YES\n    GStreamer:    YES (1.20.3)\n    v4l/v4l2:    YES (linux/videodev2.h)\n"
NO_GSTREAMER = ALL_BUILD.replace("GStreamer:    YES (1.20.3)", "GStreamer:    NO")
ORIN = {"gpu": "Orin", "capability": "8.7", "memory_mib": 7620}
ABSENT = Imported(None, "No module named 'it'", missing=True)
L4T = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64"
MEMINFO = "MemTotal:        7802604 kB\nMemAvailable:    5242880 kB\nSwapTotal:       3901296 kB\n"
ARGUS = ("systemctl", "show", "-p", "ActiveState", "--value", "nvargus-daemon")
JETPACK = ("dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack")

Fake = Callable[..., Machine]


@pytest.fixture
def fake_pc(tmp_path: Path) -> Fake:
    """A PC without a GPU, where all is well, changed by what is given."""
    imports = {
        "cuda": Imported(None, "libcuda.so.1: cannot open shared object file"),
        "tensorrt": ABSENT,
        "tensorrt_rtx_bindings": ABSENT,
        "onnxruntime": Imported("1.23.2", details={"providers": ["CPUExecutionProvider"]}),
        "openvino": Imported("2026.4", details={"devices": ["CPU"]}),
        "usearch": Imported("2.26.6"),
        "cv2": Imported("4.12.0", details={"build": NO_GSTREAMER}),
    }

    def fake(**changes: Any) -> Machine:
        found = {**imports, **changes.pop("imports", {})}
        versions = {"numpy": "2.2.6", "onnxruntime": "1.23.2", **changes.pop("versions", {})}
        outputs: dict[Sequence[str], str] = changes.pop("outputs", {})
        for name, text in {"proc/meminfo": MEMINFO, **changes.pop("files", {})}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for name in changes.pop("folders", ()):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        machine = Machine(
            root=tmp_path,
            architecture="x86_64",
            python=(3, 12, 3),
            isolated=True,
            now=NOON,
            installed=NOON - 1e6,
            imported=lambda name: found[name],
            version=versions.get,
            output=lambda words: outputs.get(tuple(words)),
            free_bytes=lambda _: 50_000_000_000,
            accessible=lambda _: True,
        )
        return replace(machine, **changes)

    return fake


@pytest.fixture
def fake_jetson(fake_pc: Fake) -> Fake:
    """An Orin with JetPack 6.2, where all is well, changed by what is given."""

    def fake(**changes: Any) -> Machine:
        given_imports, given_files = changes.pop("imports", {}), changes.pop("files", {})
        given_versions, given_outputs = changes.pop("versions", {}), changes.pop("outputs", {})
        imports = {
            "cuda": Imported("12.6", details=ORIN),
            "tensorrt": Imported("10.3.0"),
            "openvino": ABSENT,
            "cv2": Imported("4.8.0", details={"build": ALL_BUILD}),
        }
        outputs = {JETPACK: "6.2+b77", ARGUS: "active\n", ("nvpmodel", "-q"): "NV Power Mode: MAXN_SUPER\n2\n"}
        usual = {"architecture": "aarch64", "python": (3, 10, 12), "isolated": False}
        return fake_pc(
            imports={**imports, **given_imports},
            versions={"numpy": "1.26.4", **given_versions},
            outputs={**outputs, **given_outputs},
            files={"etc/nv_tegra_release": L4T, **given_files},
            **{**usual, **changes},
        )

    return fake


def statuses(findings: Sequence[Finding]) -> dict[str, str]:
    return {finding.name: finding.status for finding in findings if finding.status != "ok"}


def test_a_pc_where_all_is_well_has_nothing_to_mend(fake_pc: Fake) -> None:
    assert statuses(examine(fake_pc())) == {}


def test_a_jetson_where_all_is_well_has_nothing_to_mend(fake_jetson: Fake) -> None:
    findings = examine(fake_jetson())
    assert statuses(findings) == {}
    told = {finding.name: finding.text for finding in findings}
    assert told["jetpack"] == "Jetson Linux 36.4.3, JetPack 6.2+b77"
    assert told["cuda"] == "driver for CUDA 12.6; Orin, compute capability 8.7, 7620 MiB"
    assert told["power"] == "mode MAXN_SUPER"


def test_where_everything_is_broken_every_question_still_has_an_answer_and_a_command(fake_jetson: Fake) -> None:
    broken = dict.fromkeys(PACKAGES, Imported(None, "its process ended with signal SIGSEGV"))
    findings = examine(fake_jetson(imports=broken, files={"proc/meminfo": "", "etc/nv_tegra_release": "?"}))
    assert len(findings) == len(CHECKS)
    assert {"cuda", "tensorrt", "onnxruntime", "openvino", "usearch", "opencv"} <= statuses(findings).keys()
    assert all(bool(finding.cure) == (finding.status != "ok") for finding in findings)


@given(st.text(max_size=60), st.booleans())
def test_no_words_of_a_failed_import_disturb_the_doctor(words: str, missing: bool) -> None:
    found = Imported(None, words, missing)
    machine = replace(this_machine(), imported=lambda _: found, output=lambda _: None, root=Path("/nowhere"))
    assert len([check(machine) for check in CHECKS]) == len(CHECKS)


# ---- TensorRT and CUDA


def test_a_tensorrt_that_the_environment_does_not_see_is_found_in_the_system(fake_jetson: Fake) -> None:
    folders = ["usr/lib/python3.10/dist-packages/tensorrt"]
    finding = check_tensorrt(fake_jetson(imports={"tensorrt": ABSENT}, isolated=True, folders=folders))
    assert (finding.status, "--system-site-packages" in finding.text) == ("fail", True)
    assert finding.cure == (
        "python3.10 -m venv --system-site-packages .venv && .venv/bin/pip install 'deepir[jetson6]'"
    )


def test_a_tensorrt_of_another_python_is_told_with_both(fake_jetson: Fake) -> None:
    folders = ["usr/lib/python3.10/dist-packages/tensorrt"]
    finding = check_tensorrt(fake_jetson(imports={"tensorrt": ABSENT}, python=(3, 12, 1), folders=folders))
    assert finding.text == "installed for python3.10 of the system, and this is python3.12"
    assert finding.cure.startswith("python3.10 -m venv")


def test_a_library_that_tensorrt_lacks_is_named_with_its_package(fake_jetson: Fake) -> None:
    error = "libnvdla_compiler.so: cannot open shared object file: No such file or directory"
    finding = check_tensorrt(fake_jetson(imports={"tensorrt": Imported(None, error)}))
    assert finding.status == "fail"
    assert "cannot load its library libnvdla_compiler.so" in finding.text
    assert finding.cure == "sudo apt install nvidia-l4t-dla-compiler"


@pytest.mark.parametrize(
    ("error", "library"),
    [
        ("libnvinfer.so.10: cannot open shared object file", "libnvinfer.so.10"),
        ("/usr/lib/aarch64-linux-gnu/libcudart.so.12: file too short", "libcudart.so.12"),
    ],
)
def test_any_other_library_is_named(fake_jetson: Fake, error: str, library: str) -> None:
    assert f"library {library} (" in check_tensorrt(fake_jetson(imports={"tensorrt": Imported(None, error)})).text


def test_no_tensorrt_fails_a_jetson_warns_a_gpu_and_is_well_without_one(fake_jetson: Fake, fake_pc: Fake) -> None:
    absent = check_tensorrt(fake_jetson(imports={"tensorrt": ABSENT}))
    assert (absent.status, absent.cure) == ("fail", "sudo apt install nvidia-jetpack")
    (fake_pc().root / "etc" / "nv_tegra_release").unlink()
    assert check_tensorrt(fake_pc()).status == "ok"
    assert check_tensorrt(fake_pc(files={"dev/nvidiactl": ""})).status == "warn"


def test_an_nvidia_card_without_its_driver_is_seen_on_the_bus(fake_pc: Fake) -> None:
    card = {"sys/bus/pci/devices/0/vendor": "0x10de\n", "sys/bus/pci/devices/0/class": "0x030000\n"}
    assert check_cuda(fake_pc()).text == "no NVIDIA GPU here"
    assert check_cuda(fake_pc(files=card)).cure == "sudo ubuntu-drivers install"


def test_a_container_without_the_gpu_is_told_so(fake_jetson: Fake) -> None:
    broken = {"cuda": Imported(None, "libcuda.so.1: cannot open shared object file")}
    finding = check_cuda(fake_jetson(imports=broken, files={".dockerenv": ""}))
    assert (finding.status, finding.cure) == ("fail", "docker run --runtime nvidia IMAGE")


def test_a_container_on_a_pc_can_do_without_the_gpu(fake_pc: Fake) -> None:
    card = {"sys/bus/pci/devices/0/vendor": "0x10de\n", "sys/bus/pci/devices/0/class": "0x030200\n"}
    finding = check_cuda(fake_pc(files={**card, ".dockerenv": ""}))
    assert (finding.status, finding.cure) == ("warn", "docker run --gpus all IMAGE")


def test_a_driver_that_does_not_start_is_told_with_its_number(fake_jetson: Fake) -> None:
    broken = {"cuda": Imported(None, "the driver does not start: cuInit gives error 100")}
    finding = check_cuda(fake_jetson(imports=broken))
    assert "error 100" in finding.text
    assert finding.cure == "sudo usermod -aG video,render $USER"


@pytest.mark.parametrize(
    ("tensorrt", "numpy", "status"),
    [
        ("10.3.0", "1.26.4", "ok"),
        ("10.3.0", "2.2.6", "warn"),
        ("10.13.3", "2.0.0", "warn"),
        ("10.16.2", "2.2.6", "ok"),
        ("11.4.1", "2.2.6", "ok"),
    ],
)
def test_numpy_2_is_told_before_the_plugin_of_an_old_tensorrt_crashes(
    fake_jetson: Fake, tensorrt: str, numpy: str, status: str
) -> None:
    machine = fake_jetson(imports={"tensorrt": Imported(tensorrt)}, versions={"numpy": numpy})
    assert check_plugin_numpy(machine).status == status


# ---- packages


def test_two_onnx_runtimes_are_one_too_many_even_where_they_import(fake_pc: Fake) -> None:
    finding = check_onnxruntime(fake_pc(versions={"onnxruntime-gpu": "1.22.0"}))
    assert finding.status == "fail"
    assert "onnxruntime 1.23.2 and onnxruntime-gpu 1.22.0" in finding.text
    assert finding.cure == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"


def test_of_two_onnx_runtimes_a_gpu_keeps_the_one_for_it(fake_pc: Fake) -> None:
    machine = fake_pc(versions={"onnxruntime-gpu": "1.22.0"}, files={"dev/nvidiactl": ""})
    assert check_onnxruntime(machine).cure.endswith("pip install onnxruntime-gpu")


def test_an_absent_onnx_runtime_names_the_extra_of_the_machine(fake_jetson: Fake) -> None:
    finding = check_onnxruntime(fake_jetson(imports={"onnxruntime": ABSENT}, versions={"onnxruntime": None}))
    assert (finding.status, finding.cure) == ("fail", "pip install 'deepir[jetson6]'")


def test_an_onnx_runtime_without_cuda_is_told_where_there_is_a_gpu(fake_pc: Fake) -> None:
    assert check_providers(fake_pc()).status == "ok"
    gpu = {"cuda": Imported("12.6", details=ORIN)}
    finding = check_providers(fake_pc(imports=gpu, files={"dev/nvidiactl": ""}))
    assert (finding.status, finding.cure) == ("warn", "pip uninstall -y onnxruntime && pip install onnxruntime-gpu")


def test_openvino_is_missed_only_where_it_would_help(fake_pc: Fake, fake_jetson: Fake) -> None:
    assert check_openvino(fake_pc(imports={"openvino": ABSENT})).status == "warn"
    assert check_openvino(fake_pc(imports={"openvino": Imported(None, "libtbb.so.12: no")})).status == "fail"
    assert check_openvino(fake_jetson()).status == "ok"


def test_a_processor_without_vnni_is_told_with_openvino_and_openvino_is_not_missed_there(
    fake_pc: Fake, fake_jetson: Fake
) -> None:
    files = {"proc/cpuinfo": "flags\t\t: fpu sse2 avx avx2 fma\n"}
    for imports in ({}, {"openvino": ABSENT}):
        finding = check_openvino(fake_pc(files=files, imports=imports))
        assert (finding.status, finding.text.endswith(f"{NO_VNNI}, use the FP32 .onnx")) == ("ok", True)
    assert "VNNI" not in check_openvino(fake_pc(files={"proc/cpuinfo": "flags\t\t: avx2 avx_vnni\n"})).text
    assert "VNNI" not in check_openvino(fake_jetson(files=files)).text


def test_a_usearch_that_does_not_load_fails(fake_pc: Fake) -> None:
    finding = check_usearch(fake_pc(imports={"usearch": Imported(None, "GLIBC_2.38 not found")}))
    assert (finding.status, finding.text) == ("fail", "GLIBC_2.38 not found")


def test_opencv_without_gstreamer_is_told_on_a_jetson_alone(fake_pc: Fake, fake_jetson: Fake) -> None:
    assert check_opencv(fake_pc()).text == "4.12.0 with FFmpeg, V4L2, without GStreamer"
    assert check_opencv(fake_pc()).status == "ok"
    finding = check_opencv(fake_jetson(imports={"cv2": Imported("4.12.0", details={"build": NO_GSTREAMER})}))
    assert (finding.status, "sudo apt install nvidia-opencv" in finding.cure) == ("warn", True)


@pytest.mark.parametrize(("lost", "status"), [("FFMPEG:", "ok"), ("v4l/v4l2:", "warn")])
def test_opencv_may_lack_ffmpeg_beside_gstreamer_and_no_camera_interface(fake_pc: Fake, lost: str, status: str) -> None:
    build = ALL_BUILD.replace(f"{lost}    YES", f"{lost}    NO")
    assert check_opencv(fake_pc(imports={"cv2": Imported("4.12.0", details={"build": build})})).status == status


def test_an_opencv_that_wants_a_desktop_is_told_which_library(fake_pc: Fake) -> None:
    error = "libGL.so.1: cannot open shared object file: No such file or directory"
    finding = check_opencv(fake_pc(imports={"cv2": Imported(None, error)}))
    assert finding.text.startswith("cannot load libGL.so.1")
    assert "opencv-python-headless" in finding.cure


# ---- cameras


def test_cameras_are_named_and_nodes_without_pictures_are_left_out(fake_pc: Fake) -> None:
    files = {
        "dev/video0": "",
        "sys/class/video4linux/video0/index": "0\n",
        "sys/class/video4linux/video0/name": "HD Webcam\n",
        "dev/video1": "",
        "sys/class/video4linux/video1/index": "1\n",
        "dev/video10": "",
    }
    assert check_cameras(fake_pc(files=files)).text == "/dev/video0 HD Webcam; /dev/video10"


def test_a_camera_that_this_user_may_not_read_fails_with_the_group(fake_pc: Fake) -> None:
    finding = check_cameras(fake_pc(files={"dev/video0": ""}, accessible=lambda path: path.name != "video0"))
    assert (finding.status, "usermod -aG video" in finding.cure) == ("fail", True)


def test_a_stopped_camera_daemon_is_told(fake_jetson: Fake) -> None:
    finding = check_camera_daemon(fake_jetson(outputs={ARGUS: "failed\n"}))
    assert (finding.status, finding.cure) == ("warn", "sudo systemctl restart nvargus-daemon")


# ---- the machine itself


def test_jetpack_5_is_too_old(fake_jetson: Fake) -> None:
    old = {"etc/nv_tegra_release": L4T.replace("R36", "R35")}
    finding = check_jetpack(fake_jetson(files=old, outputs={JETPACK: "5.1.3"}))
    assert (finding.status, "JetPack 6.1 or newer" in finding.text) == ("fail", True)


def test_a_jetson_without_the_package_of_jetpack_gets_its_command(fake_jetson: Fake) -> None:
    assert check_jetpack(fake_jetson(outputs={JETPACK: ""})).cure == "sudo apt install nvidia-jetpack"


@pytest.mark.parametrize(
    ("total", "free", "swap", "status"),
    [(7800, 5000, 0, "warn"), (7800, 5000, 4000, "ok"), (7800, 500, 4000, "warn"), (64000, 60000, 0, "ok")],
)
def test_little_memory_is_told_and_no_swap_on_a_small_board(
    fake_jetson: Fake, total: int, free: int, swap: int, status: str
) -> None:
    lines = {"MemTotal": total, "MemAvailable": free, "SwapTotal": swap}
    meminfo = "".join(f"{name}:    {1024 * mib} kB\n" for name, mib in lines.items())
    assert check_memory(fake_jetson(files={"proc/meminfo": meminfo})).status == status


@pytest.mark.parametrize(("free", "status"), [(5e10, "ok"), (5e8, "warn"), (5e6, "fail")])
def test_a_full_disk_is_told(fake_pc: Fake, free: float, status: str) -> None:
    assert check_disk(fake_pc(free_bytes=lambda _: int(free))).status == status


@pytest.mark.parametrize(("now", "status"), [(NOON, "ok"), (0.0, "fail"), (NOON - 2e6, "fail")])
def test_a_clock_before_the_installation_is_wrong(fake_pc: Fake, now: float, status: str) -> None:
    assert check_clock(fake_pc(now=now)).status == status


def test_a_clock_that_nothing_sets_is_told(fake_pc: Fake) -> None:
    off = {("timedatectl", "show", "-p", "NTP", "--value"): "no\n"}
    assert check_clock(fake_pc(outputs=off)).cure == "sudo timedatectl set-ntp true"


def test_an_unusual_processor_is_told(fake_pc: Fake) -> None:
    assert check_python(fake_pc(architecture="riscv64")).status == "warn"


def test_heat_is_told_with_the_zone_and_nonsense_is_no_temperature(fake_jetson: Fake) -> None:
    zone = "sys/class/thermal/thermal_zone"
    files = {
        f"{zone}0/temp": "-256000",
        f"{zone}1/temp": "91500",
        f"{zone}1/type": "gpu-thermal\n",
        f"{zone}2/temp": "50000",
    }
    finding = check_temperature(fake_jetson(files=files))
    assert (finding.status, finding.text.partition(":")[0]) == ("warn", "92 °C (gpu-thermal)")


def test_clocks_and_the_watts_of_a_board_are_read(fake_jetson: Fake) -> None:
    files = {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1510400",
        "sys/class/devfreq/17000000.gpu/cur_freq": "624750000",
        "sys/class/hwmon/hwmon3/in1_label": "VDD_IN\n",
        "sys/class/hwmon/hwmon3/in1_input": "5000",
        "sys/class/hwmon/hwmon3/curr1_input": "1500",
    }
    assert check_power(fake_jetson(files=files)).text == "mode MAXN_SUPER, CPU 1510 MHz, GPU 625 MHz, 7.5 W"


def test_a_jetson_whose_power_mode_cannot_be_read_is_told(fake_jetson: Fake) -> None:
    assert check_power(fake_jetson(outputs={("nvpmodel", "-q"): ""})).status == "warn"


# ---- findings


def test_a_finding_has_a_command_exactly_where_something_is_to_be_mended() -> None:
    for status, cure in (("ok", "do"), ("warn", ""), ("fail", "")):
        with pytest.raises(SpecError):
            Finding(name="it", status=status, text="so", cure=cure)  # type: ignore[arg-type]


def test_the_machine_decides_the_exit_code_before_a_file_does() -> None:
    file, machine = fail("a", "so", "do", ModelError), fail("b", "so", "do")
    assert worst([ok("c", "so"), warn("d", "so", "do")]) is None
    assert worst([file, fail("e", "so", "do", EngineError)]) is file
    assert worst([file, machine]) is machine
    assert machine.error is MissingDependency


def test_a_command_stands_below_its_line() -> None:
    assert findings_text([ok("one", "well"), warn("three", "odd", "mend")]) == (
        "ok    one    well\nwarn  three  odd\n             -> mend"
    )


def test_the_block_to_share_names_no_home(fake_pc: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    machine = fake_pc(imports={"usearch": Imported(None, "/home/somebody/venv/lib/u.so: no")})
    block = shareable_block("1.0", machine, [*examine(machine), ok("secret.onnx", "a model")], None)
    assert "~/venv/lib/u.so" in block
    assert "somebody" not in block
    assert "secret" not in block


# ---- this machine, and imports for real


def test_this_machine_answers_every_question() -> None:
    machine = this_machine()
    findings = examine(machine)
    assert len({finding.name for finding in findings}) == len(CHECKS)
    assert abs(machine.now - time.time()) < 3600
    assert machine.version("numpy") == importlib.metadata.version("numpy")
    told = {finding.name: finding for finding in findings}
    assert told["usearch"].text == importlib.metadata.version("usearch")
    assert told["python"].status == "ok"


def test_the_output_of_a_command_is_none_where_it_fails_or_is_not_there() -> None:
    output = this_machine().output
    assert output(("echo", "so")) == "so\n"
    assert output(("false",)) is None
    assert output(("no-such-command",)) is None


def test_a_package_that_is_not_there_is_missing_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = import_here("openvino")
    assert (found.version, found.missing) == (None, True)
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvdla_compiler.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    found = import_here("tensorrt")
    assert (found.version, found.missing) == (None, False)
    assert found.error.startswith("libnvdla_compiler.so")


def test_a_package_that_kills_its_process_is_told_by_its_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    found = import_in_child("cv2")
    assert (found.version, "SIGSEGV" in found.error) == (None, True)
