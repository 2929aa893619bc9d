"""The RoI max pool as machine code for one kind of GPU: compiled on the spot by NVRTC or pycuda, and kept."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from deepir.errors import EngineError, MissingDependency
from deepir.optional import need
from deepir.runtime.cache import cache_folder, keep

KERNEL_FILE = "roi_pool.cu"
KERNEL_NAME = "roi_max_pool"

_ELF = b"\x7fELF"
_DIGEST_BYTES = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compiler:
    """What turns CUDA C into a cubin on this machine.

    Attributes:
        name: The program and its version, such as "NVRTC 12.6".
        compile: Takes the source and the compute capability without its dot (87), gives the cubin.
    """

    name: str
    compile: Callable[[str, int], bytes]


def kernel_source() -> str:
    """The CUDA C text of the kernel."""
    return (resources.files(__package__) / KERNEL_FILE).read_text(encoding="utf-8")


def compile_cubin(sm: int) -> bytes:
    """The kernel for GPUs of one compute capability, from the cache or compiled now (0.1 s).

    Args:
        sm: The compute capability without its dot: 87 for Orin.

    Raises:
        MissingDependency: Neither cuda-python with NVRTC nor pycuda is here.
        EngineError: The compiler does not know this GPU, or failed.
    """
    compiler, source = find_compiler(), kernel_source()
    place = _place(source, sm, compiler.name)
    kept = _kept(place) if place else None
    if kept is not None:
        return kept
    cubin = compiler.compile(source, sm)
    if not cubin.startswith(_ELF):
        message = (
            f"{compiler.name} gave no machine code for sm_{sm}: install another version of it, or use --pool native"
        )
        raise EngineError(message)
    if place:
        keep(place, hashlib.sha256(cubin).digest() + cubin)
    return cubin


def find_compiler() -> Compiler:
    """NVRTC through cuda-python, else pycuda's compiler.

    Raises:
        MissingDependency: Neither is here, or cuda-python finds no NVRTC; says what to install.
    """
    try:
        return _nvrtc_compiler()
    except MissingDependency as without_nvrtc:
        try:
            return _pycuda_compiler()
        except MissingDependency as without_pycuda:
            message = (
                "the pooling kernel is compiled on the device, by cuda-python with NVRTC or by pycuda with nvcc, "
                f"and neither works here ({without_nvrtc.__cause__}; {without_pycuda.__cause__}): "
                "pip install cuda-python nvidia-cuda-nvrtc, or use --pool native"
            )
            raise MissingDependency(message) from without_pycuda


def _place(source: str, sm: int, compiler: str) -> Path | None:
    folder = cache_folder()
    key = hashlib.sha256(f"{compiler}\0{sm}\0{source}".encode()).hexdigest()[:_DIGEST_BYTES]
    return folder and folder / "kernels" / f"{KERNEL_NAME}.sm{sm}.{key}"


def _kept(place: Path) -> bytes | None:
    try:
        content = place.read_bytes()
    except OSError:
        return None
    digest, cubin = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(cubin).digest() == digest and cubin.startswith(_ELF):
        return cubin
    _log.info("%s is damaged and is compiled again", place)
    return None


def _nvrtc_compiler() -> Compiler:
    try:
        nvrtc: Any = need("cuda.bindings.nvrtc")
        major, minor = _checked(nvrtc, nvrtc.nvrtcVersion())
    except (RuntimeError, OSError) as error:  # cuda-python is there and its library is not
        message = f"cuda-python finds no NVRTC: {_one_line(error)}"
        raise MissingDependency(message) from error
    name = f"NVRTC {major}.{minor}"

    def compile_source(source: str, sm: int) -> bytes:
        (known,) = _checked(nvrtc, nvrtc.nvrtcGetSupportedArchs())
        if sm not in known:
            message = (
                f"{name} compiles for GPUs of sm_{', '.join(map(str, known))}, not for this one of sm_{sm}: "
                "install the version that belongs to the GPU's driver, or use --pool native"
            )
            raise EngineError(message)
        return _compile_with_nvrtc(nvrtc, source, sm)

    return Compiler(name, compile_source)


def _compile_with_nvrtc(nvrtc: Any, source: str, sm: int) -> bytes:
    (program,) = _checked(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), KERNEL_FILE.encode(), 0, [], []))
    try:
        options = [f"--gpu-architecture=sm_{sm}".encode()]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            (size,) = _checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
            log = bytearray(size)
            _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
            message = f"NVRTC cannot compile the pooling kernel for sm_{sm} ({_one_line(log)}): use --pool native"
            raise EngineError(message)
        (size,) = _checked(nvrtc, nvrtc.nvrtcGetCUBINSize(program))
        cubin = bytearray(size)
        _checked(nvrtc, nvrtc.nvrtcGetCUBIN(program, cubin))
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _checked(nvrtc: Any, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        message = f"NVRTC fails with {status.name}: install it again, or use --pool native"
        raise EngineError(message)
    return tuple(values)


def _pycuda_compiler() -> Compiler:
    pycuda: Any = need("pycuda.compiler")
    try:
        version = str(pycuda.get_nvcc_version("nvcc"))
    except Exception as error:  # pycuda tells of a missing nvcc by errors of another package
        message = f"pycuda finds no nvcc: {_one_line(error)}"
        raise MissingDependency(message) from error
    # its last line names the build
    name = f"nvcc {_last_line(version)}"

    def compile_source(source: str, sm: int) -> bytes:
        try:
            # extern "C" stands in the source, and the cache is ours
            return bytes(pycuda.compile(source, arch=f"sm_{sm}", no_extern_c=True, cache_dir=False))
        except Exception as error:
            message = f"{name} cannot compile the pooling kernel for sm_{sm} ({_one_line(error)}): use --pool native"
            raise EngineError(message) from error

    return Compiler(name, compile_source)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _one_line(said: object) -> str:
    text = bytes(said).decode(errors="replace") if isinstance(said, bytearray) else str(said)
    return " ".join(text.replace("\0", " ").split()) or type(said).__name__
