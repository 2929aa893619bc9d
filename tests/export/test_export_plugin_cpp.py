"""The C++ plugin: builds from TensorRT's headers alone, links nothing of TensorRT, and answers as its Python twin.

The headers are NVIDIA's and are not in this repository: DEEPIR_TENSORRT_INCLUDE names a folder with NvInferRuntime.h.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepir.runtime.roi_plugin import PLUGIN_NAME, PLUGIN_VERSION

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "export" / "plugin_cpp"

HARNESS = r"""
// Loads the library as TensorRT does and asks it what TensorRT asks; prints the answers.
#include <NvInferRuntime.h>
#include <cstdio>
#include <dlfcn.h>
using namespace nvinfer1;

static PluginTensorDesc described(DataType type, TensorFormat format = TensorFormat::kLINEAR)
{
    PluginTensorDesc tensor{};
    tensor.type = type;
    tensor.format = format;
    return tensor;
}

static void taken(
    char const* name, IPluginV3OneBuild* build, PluginTensorDesc x, PluginTensorDesc rois, PluginTensorDesc y)
{
    DynamicPluginTensorDesc tensors[3]{};
    tensors[0].desc = x;
    tensors[1].desc = rois;
    tensors[2].desc = y;
    std::printf("%s", name);
    for (int position = 0; position < 3; ++position)
        std::printf(" %d", (int)build->supportsFormatCombination(position, tensors, 2, 1));
    std::printf("\n");
}

int main(int, char** words)
{
    void* library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) { std::printf("%s\n", dlerror()); return 1; }
    auto finder = (void (*)(ILoggerFinder*))dlsym(library, "setLoggerFinder");
    auto creators = (IPluginCreatorInterface* const* (*)(int32_t&))dlsym(library, "getCreators");
    finder(nullptr);
    int32_t count = 0;
    auto* creator = static_cast<IPluginCreatorV3One*>(creators(count)[0]);
    std::printf("creators %d %s\n", count, creator->getInterfaceInfo().kind);
    std::printf("creator %s %s [%s] %d\n", creator->getPluginName(), creator->getPluginVersion(),
        creator->getPluginNamespace(), creator->getFieldNames()->nbFields);

    PluginFieldCollection const none{};
    IPluginV3* first = creator->createPlugin("node", &none, TensorRTPhase::kBUILD);
    IPluginV3* plugin = first->clone();
    std::printf("clone %d\n", plugin != nullptr && plugin != first);
    delete first;
    auto* core = static_cast<IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
    auto* build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    auto* runtime = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    std::printf("plugin %s %s [%s] %d\n", core->getPluginName(), core->getPluginVersion(), core->getPluginNamespace(),
        build->getNbOutputs());

    auto F = described(DataType::kFLOAT), H = described(DataType::kHALF), I = described(DataType::kINT32);
    taken("single", build, F, I, F);
    taken("half", build, H, I, H);
    taken("mixed", build, F, I, H);
    taken("int8", build, described(DataType::kINT8), I, described(DataType::kINT8));
    taken("windows", build, F, F, F);
    taken("wide", build, described(DataType::kFLOAT, TensorFormat::kCHW32), I, F);

    DimsExprs shapes[2]{};
    shapes[0].nbDims = 4;
    shapes[1].nbDims = 2;
    for (long i = 0; i < 6; ++i) shapes[i / 4].d[i % 4] = reinterpret_cast<IDimensionExpr const*>(16 + i);
    DimsExprs result{};
    auto* builder = reinterpret_cast<IExprBuilder*>(shapes);
    int status = build->getOutputShapes(shapes, 2, nullptr, 0, &result, 1, *builder);
    auto const* d = result.d;
    std::printf("shape %d %d %ld %ld %ld\n", status, result.nbDims, (long)d[0], (long)d[1], (long)d[2]);
    shapes[0].nbDims = 3;
    std::printf("wrong rank %d\n", build->getOutputShapes(shapes, 2, nullptr, 0, &result, 1, *builder) != 0);

    DataType const types[2]{DataType::kHALF, DataType::kINT32};
    DataType type{};
    status = build->getOutputDataTypes(&type, 1, types, 2);
    std::printf("type %d %d\n", status, type == DataType::kHALF);
    std::printf("fields %d tactics %d\n", runtime->getFieldsToSerialize()->nbFields, build->getNbTactics());

    IPluginV3* attached = runtime->attachToContext(nullptr);
    std::printf("attached %d\n", attached != nullptr && attached != plugin);
    delete attached;
    F.dims = Dims{3, {0, 2, 3}};
    I.dims = Dims{2, {5, 4}};
    PluginTensorDesc inputs[2]{F, I};
    void const* from[2]{};
    void* to[1]{};
    std::printf("refused %d\n", runtime->enqueue(inputs, &F, from, to, nullptr, nullptr) != 0);
    inputs[0].dims = Dims{4, {0, 2, 3, 3}};
    std::printf("nothing to do %d\n", runtime->enqueue(inputs, &F, from, to, nullptr, nullptr));
    delete plugin;
}
"""

ANSWERS = f"""\
creators 1 PLUGIN CREATOR_V3ONE
creator {PLUGIN_NAME} {PLUGIN_VERSION} [] 0
clone 1
plugin {PLUGIN_NAME} {PLUGIN_VERSION} [] 1
single 1 1 1
half 1 1 1
mixed 1 1 0
int8 0 1 1
windows 1 0 1
wide 0 1 1
shape 0 3 16 20 17
wrong rank 1
type 0 1
fields 0 tactics 0
attached 1
refused 1
nothing to do 0
"""

LOAD_IN_RTX = """
import sys
import tensorrt_rtx_bindings as trt
registry = trt.get_plugin_registry()
before = {creator.name for creator in registry.all_creators}
assert registry.load_library(sys.argv[1]) is not None
new = [creator for creator in registry.all_creators if creator.name not in before]
print([(creator.name, creator.plugin_version, creator.plugin_namespace) for creator in new])
"""


def told(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def headers() -> Path:
    folder = Path(os.environ.get("DEEPIR_TENSORRT_INCLUDE", ""))
    if not (folder / "NvInferRuntime.h").is_file():
        pytest.skip("DEEPIR_TENSORRT_INCLUDE names no folder with TensorRT's NvInferRuntime.h")
    for program in ("cmake", "nvcc", "nm"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} to build the C++ plugin")
    return folder


@pytest.fixture(scope="session")
def library(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin_cpp")
    strict = "-DCMAKE_CUDA_FLAGS=-Xcompiler -Wall,-Wextra,-Werror"
    told("cmake", "-S", SOURCE, "-B", folder, f"-DTENSORRT_INCLUDE={headers}", strict)
    told("cmake", "--build", folder)
    return folder / "libdeepir_roi_plugin.so"


@pytest.mark.slow
def test_the_library_needs_nothing_of_tensorrt_and_exports_two_functions(library: Path) -> None:
    undefined = told("nm", "-D", "--undefined-only", library)
    exported = [line.split()[-1] for line in told("nm", "-D", "--defined-only", library).splitlines()]
    assert re.findall(r"nvinfer|Plugin|Infer|cuda[A-Z]", undefined) == []
    assert sorted(exported) == ["getCreators", "setLoggerFinder"]


@pytest.mark.slow
def test_the_library_answers_as_the_python_plugin_does(library: Path, headers: Path, tmp_path: Path) -> None:
    (tmp_path / "harness.cpp").write_text(HARNESS, encoding="utf-8")
    told("nvcc", f"-I{headers}", "harness.cpp", "-ldl", "-o", "harness", cwd=tmp_path)
    assert told(tmp_path / "harness", library) == ANSWERS


@pytest.mark.slow
@pytest.mark.rtx
def test_a_real_registry_lists_the_creator(library: Path) -> None:
    # TensorRT-RTX takes no plugin into an engine, and its registry reads such libraries all the same
    assert told(sys.executable, "-c", LOAD_IN_RTX, library) == f"{[(PLUGIN_NAME, PLUGIN_VERSION, '')]}\n"


def test_the_folder_builds_from_the_one_kernel() -> None:
    assert [file.name for file in SOURCE.rglob("*.cu")] == []
    assert '#include "roi_pool.cu"' in (SOURCE / "roi_plugin.cpp").read_text(encoding="utf-8")


def test_the_names_are_those_of_the_python_plugin() -> None:
    text = (SOURCE / "roi_plugin.cpp").read_text(encoding="utf-8")
    assert f'kName = "{PLUGIN_NAME}"' in text
    assert f'kVersion = "{PLUGIN_VERSION}"' in text
    assert 'kNamespace = ""' in text
