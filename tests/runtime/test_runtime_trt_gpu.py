"""Real engines on a real GPU: the same descriptors as ONNX Runtime, whatever runs beside, and no memory that grows."""

import dataclasses
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepir.calib.onnx_file import write_onnx
from deepir.distill.checkpoint import Model
from deepir.errors import MissingDependency
from deepir.export.engine import BuildConfig, build_engine
from deepir.export.graph import build_onnx
from deepir.runtime.cuda import open_cuda
from deepir.runtime.ort import OnnxBackend
from deepir.runtime.roi_plugin import plugin_problem
from deepir.runtime.sidecar import read_record, write_record
from deepir.runtime.tensorrt_library import Flavour, load_tensorrt
from deepir.runtime.trt import TensorRTBackend

pytestmark = pytest.mark.gpu

SIDE = 64
ROUTES = {"tensorrt": "native", "tensorrt with the plugin": "plugin", "rtx": "native"}


@pytest.fixture(scope="module", params=ROUTES)
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Model]
) -> tuple[Path, Path]:
    """A tiny model as ONNX file and as engine for one to four pictures."""
    flavour = Flavour(request.param.partition(" ")[0])
    try:
        trt = load_tensorrt(flavour)
        open_cuda()
    except MissingDependency as error:
        pytest.skip(str(error))
    pool = ROUTES[request.param]
    problem = plugin_problem(trt) if pool == "plugin" else None
    if problem:
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp(flavour.value)
    onnx, engine = folder / "tiny.onnx", folder / "tiny.engine"
    write_onnx(build_onnx(make_model(dim=6, sizes=((SIDE, SIDE),))), onnx)
    build_engine(onnx, engine, BuildConfig(flavour=flavour, pool=pool, batch=(1, 2, 4)), lambda line: None)
    return onnx, engine


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def free_mib() -> int:
    cuda = open_cuda()
    with cuda.current():
        return cuda.free_mib()


def test_the_engine_gives_what_onnx_runtime_gives(files: tuple[Path, Path]) -> None:
    onnx, engine = files
    with OnnxBackend(onnx, "cpu") as reference, TensorRTBackend(engine) as backend:
        for count in (1, 1, 1, 3, 4, 9, 9):
            seen = pictures(count, seed=count)
            expected_nd, given_nd = reference.run(seen), backend.run(seen)
            # convolutions may use TF32 (10 bits of mantissa) where the GPU has it
            assert np.einsum("nd,nd->n", expected_nd, given_nd).min() > 0.999


def test_graphs_change_no_bit(files: tuple[Path, Path]) -> None:
    with TensorRTBackend(files[1]) as captured, TensorRTBackend(files[1], graph=False) as ordinary:
        for number in range(12):
            seen = pictures(1 + number % 3, seed=number)
            np.testing.assert_array_equal(captured.run(seen), ordinary.run(seen))
        assert captured._session.captures == 3
        assert ordinary._session.captures == 0


def test_threads_share_an_engine_that_another_thread_opened(files: tuple[Path, Path]) -> None:
    failures: list[BaseException] = []
    with TensorRTBackend(files[1]) as backend:
        expected = [backend.run(pictures(1 + seed, seed)) for seed in range(3)]

        def work(seed: int) -> None:
            try:
                for _ in range(50):
                    np.testing.assert_allclose(backend.run(pictures(1 + seed, seed)), expected[seed], atol=1e-6)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_two_engines_run_side_by_side(files: tuple[Path, Path]) -> None:
    with TensorRTBackend(files[1]) as one, TensorRTBackend(files[1]) as other:
        for number in range(6):
            seen = pictures(2, number)
            np.testing.assert_array_equal(one.run(seen), other.run(seen))


def test_memory_does_not_grow_over_a_thousand_runs(files: tuple[Path, Path]) -> None:
    with TensorRTBackend(files[1]) as backend:
        for number in range(50):
            backend.run(pictures(1 + number % 4))
        before, host = free_mib(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(1000):
            backend.run(pictures(1 + number % 4))
        assert before - free_mib() <= 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - host < 16 * 1024


def test_opening_again_and_again_takes_no_more_memory(files: tuple[Path, Path]) -> None:
    def cycle() -> None:
        with TensorRTBackend(files[1]) as backend:
            for _ in range(3):
                backend.run(pictures(2))

    cycle()
    cycle()
    before = free_mib()
    for _ in range(10):
        cycle()
    assert before - free_mib() <= 8


def test_it_works_beside_torch_in_one_context(files: tuple[Path, Path]) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch does not use the GPU")
    weights = torch.randn(256, 256, device="cuda")
    with TensorRTBackend(files[1]) as backend:
        expected = backend.run(pictures(2))
        for _ in range(5):
            product = weights @ weights
            np.testing.assert_allclose(backend.run(pictures(2)), expected, atol=1e-6)
            assert torch.isfinite(product).all()
    assert torch.isfinite(weights @ weights).all()


def test_a_stale_engine_is_really_built_again(files: tuple[Path, Path], tmp_path: Path) -> None:
    onnx, engine = (tmp_path / path.name for path in files)
    onnx.write_bytes(files[0].read_bytes())
    engine.write_bytes(files[1].read_bytes())
    write_record(engine, dataclasses.replace(read_record(files[1]), tensorrt_version="9.9.9"))
    lines: list[str] = []
    with TensorRTBackend(engine, report=lines.append) as backend, TensorRTBackend(files[1]) as before:
        np.testing.assert_allclose(backend.run(pictures(2)), before.run(pictures(2)), atol=1e-2)
    assert engine.with_name("tiny.engine.bak").is_file()
    assert lines[-1].endswith("the old one is tiny.engine.bak")
