"""INT8 on processors without VNNI: how they are told, and which file is the faster one."""

from pathlib import Path

import pytest

from deepir.runtime.openvino_vnni import fp32_beside, lacks_vnni

AVX2 = "processor\t: 0\nmodel name\t: some x86\nflags\t\t: fpu sse2 avx avx2 fma\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd42\n"


def root_with(folder: Path, cpuinfo: str) -> Path:
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_text(cpuinfo)
    return folder


@pytest.mark.parametrize(
    ("cpuinfo", "lacks"),
    [
        (AVX2, True),
        (AVX2.replace("fma", "avx512f avx512_bf16"), True),
        (AVX2.replace("fma", "avx_vnni"), False),
        (AVX2.replace("fma", "avx512f avx512_vnni"), False),
        (ARM, False),
        ("", False),
    ],
)
def test_an_x86_processor_lacks_vnni_where_its_flags_do_not_name_it(tmp_path: Path, cpuinfo: str, lacks: bool) -> None:
    assert lacks_vnni(root_with(tmp_path, cpuinfo)) is lacks


def test_where_nobody_says_what_the_processor_is_nothing_is_claimed(tmp_path: Path) -> None:
    assert not lacks_vnni(tmp_path)


def test_the_fp32_form_lies_beside_an_int8_file_under_the_same_name(tmp_path: Path) -> None:
    int8, fp32 = tmp_path / "student.int8.onnx", tmp_path / "student.onnx"
    assert fp32_beside(int8) is None
    fp32.write_bytes(b"")
    assert fp32_beside(int8) == fp32
    assert fp32_beside(fp32) is None
