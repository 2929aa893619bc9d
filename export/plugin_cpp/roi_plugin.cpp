// RoIMaxPool as a library for trtexec, Triton and C++ robots: the Python plugin's twin, around the same kernel.
//
// TensorRT finds getCreators when it loads the library; nothing of TensorRT is linked, so that one build serves every
// 10.x and 11.x whose headers it was compiled against or that came later.
#include <NvInferRuntime.h>

#include <cstdint>
#include <limits>
#include <new>

#include "roi_pool.cu"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace
{
using namespace nvinfer1;

constexpr char const* kName = "RoIMaxPool";
constexpr char const* kVersion = "1";
constexpr char const* kNamespace = "";

enum Position : int32_t
{
    kMap = 0,
    kWindows = 1,
    kResult = 2
};

constexpr int64_t kThreads = 256;
constexpr int32_t kSectorBytes = 32;

class RoIMaxPool final : public IPluginV3,
                         public IPluginV3OneCore,
                         public IPluginV3OneBuild,
                         public IPluginV3OneRuntime
{
public:
    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override
    {
        switch (type)
        {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    // the plugin holds no state, so every copy is a new one
    IPluginV3* clone() noexcept override
    {
        return new (std::nothrow) RoIMaxPool;
    }

    IPluginV3* attachToContext(IPluginResourceContext*) noexcept override
    {
        return clone();
    }

    char const* getPluginName() const noexcept override
    {
        return kName;
    }

    char const* getPluginVersion() const noexcept override
    {
        return kVersion;
    }

    char const* getPluginNamespace() const noexcept override
    {
        return kNamespace;
    }

    int32_t getNbOutputs() const noexcept override
    {
        return 1;
    }

    int32_t getOutputDataTypes(
        DataType* outputTypes, int32_t outputs, DataType const* inputTypes, int32_t inputs) const noexcept override
    {
        if (inputs != 2 || outputs != 1)
        {
            return 1;
        }
        outputTypes[0] = inputTypes[kMap];
        return 0;
    }

    int32_t getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const*, int32_t, DimsExprs* outputs,
        int32_t outputCount, IExprBuilder&) noexcept override
    {
        if (inputCount != 2 || outputCount != 1 || inputs[kMap].nbDims != 4 || inputs[kWindows].nbDims != 2)
        {
            return 1;
        }
        outputs[0].nbDims = 3;
        outputs[0].d[0] = inputs[kMap].d[0];
        outputs[0].d[1] = inputs[kWindows].d[0];
        outputs[0].d[2] = inputs[kMap].d[1];
        return 0;
    }

    bool supportsFormatCombination(
        int32_t position, DynamicPluginTensorDesc const* tensors, int32_t, int32_t) noexcept override
    {
        PluginTensorDesc const& tensor = tensors[position].desc;
        if (tensor.format != TensorFormat::kLINEAR)
        {
            return false;
        }
        switch (position)
        {
        case kMap: return tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF;
        case kWindows: return tensor.type == DataType::kINT32;
        case kResult: return tensor.type == tensors[kMap].desc.type;
        default: return false;
        }
    }

    int32_t configurePlugin(
        DynamicPluginTensorDesc const*, int32_t, DynamicPluginTensorDesc const*, int32_t) noexcept override
    {
        return 0;
    }

    int32_t onShapeChange(PluginTensorDesc const*, int32_t, PluginTensorDesc const*, int32_t) noexcept override
    {
        return 0;
    }

    PluginFieldCollection const* getFieldsToSerialize() noexcept override
    {
        static PluginFieldCollection const none{};
        return &none;
    }

    int32_t enqueue(PluginTensorDesc const* inputs, PluginTensorDesc const*, void const* const* inputsAt,
        void* const* outputsAt, void*, cudaStream_t stream) noexcept override
    {
        Dims const& map = inputs[kMap].dims;
        Dims const& windows = inputs[kWindows].dims;
        if (map.nbDims != 4 || windows.nbDims != 2 || windows.d[1] != 4)
        {
            return 1;
        }
        bool const half = inputs[kMap].type == DataType::kHALF;
        // as many neighbouring cells as a sector of memory holds
        int32_t const lanes = kSectorBytes / (half ? 2 : 4);
        int64_t const threads = map.d[0] * map.d[1] * windows.d[0] * lanes;
        int64_t const imageCells = map.d[1] * map.d[2] * map.d[3];
        constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
        if (threads > kMost || imageCells > kMost)
        {
            return 1;
        }
        if (threads == 0)
        {
            return 0;
        }
        auto const size = [&map](int32_t axis) { return static_cast<int>(map.d[axis]); };
        int const mapCells = size(2) * size(3);
        roi_max_pool<<<static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
            inputsAt[kMap], static_cast<int const*>(inputsAt[kWindows]), size(0), size(1), size(2), size(3),
            static_cast<int>(windows.d[0]), static_cast<int>(imageCells), mapCells, size(3), 1, half, lanes,
            outputsAt[0]);
        return cudaGetLastError() == cudaSuccess ? 0 : 1;
    }
};

class Creator final : public IPluginCreatorV3One
{
public:
    IPluginV3* createPlugin(char const*, PluginFieldCollection const*, TensorRTPhase) noexcept override
    {
        return new (std::nothrow) RoIMaxPool;
    }

    PluginFieldCollection const* getFieldNames() noexcept override
    {
        static PluginFieldCollection const none{};
        return &none;
    }

    char const* getPluginName() const noexcept override
    {
        return kName;
    }

    char const* getPluginVersion() const noexcept override
    {
        return kVersion;
    }

    char const* getPluginNamespace() const noexcept override
    {
        return kNamespace;
    }
};
} // namespace

// TensorRT offers its logger; the plugin has nothing to say.
EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

EXPORTED nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    static Creator creator;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
    count = 1;
    return creators;
}
