// The largest value over each window of a map: x[N,C,H,W] and rois int32[R,4] give y[N,R,C] (method.md 1.3).
//
// Windows are y0, x0, y1, x1 in cells, ends exclusive, clipped to the map; an empty one gives 0; a NaN stays NaN.
// A maximum is exact in either type, so the result has the bits of the numpy reference (core/pooling.py).
//
// No header is included: NVRTC then needs no include path. With HOST_EMULATION a C++ compiler takes the same text;
// it must bring threadIdx, blockIdx, blockDim, __shfl_xor_sync, widen and narrow (tests/runtime/conftest.py).

typedef unsigned short HalfBits;

#ifndef HOST_EMULATION
static __device__ __forceinline__ float widen(HalfBits bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

static __device__ __forceinline__ HalfBits narrow(float value)
{
    HalfBits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

static __device__ __forceinline__ float widen(float value)
{
    return value;
}

// numpy's maximum: the first NaN wins, which fmaxf would drop
static __device__ __forceinline__ float larger(float largest, float value)
{
    return value > largest || value != value ? value : largest;
}

static __device__ __forceinline__ int clip(int corner, int limit)
{
    return corner < 0 ? 0 : corner > limit ? limit : corner;
}

// The maximum over the cells lane, lane + lanes, lane + 2 * lanes ... of a window, counted row by row.
template <typename Cell>
static __device__ __forceinline__ float largest_of_lane(
    const Cell* window, int rows, int columns, int row_stride, int column_stride, int lane, int lanes)
{
    // a lane without a cell of its own takes the first one, which changes no maximum
    float largest = widen(window[0]);
    const int cells = rows * columns;
    // one division for each window instead of one for each cell
    const int column_step = lanes % columns;
    const int step = lanes / columns * row_stride + column_step * column_stride;
    const int wrap = row_stride - columns * column_stride;
    int column = lane % columns;
    int place = lane / columns * row_stride + column * column_stride;
#pragma unroll 4
    for (int cell = lane; cell < cells; cell += lanes)
    {
        largest = larger(largest, widen(window[place]));
        place += step;
        column += column_step;
        if (column >= columns)
        {
            column -= columns;
            place += wrap;
        }
    }
    return largest;
}

// One group of `lanes` threads (1, 2, 4 ... 32) computes one value of y; neighbouring groups take neighbouring channels.
// So a map whose channels lie side by side (NHWC) is read and y is written in whole rows with lanes = 1, and a map whose
// columns lie side by side (NCHW) is read in whole sectors with lanes = 8 (32-bit cells) or 16 (16-bit cells).
// Strides count cells of x. The order of the parameters is inputs, 32-bit integers, outputs: TensorRT's for kernels
// that are compiled ahead.
extern "C" __global__ void roi_max_pool(const void* x, const int* rois, int batch, int channels, int height, int width,
    int regions, int batch_stride, int channel_stride, int row_stride, int column_stride, int half, int lanes, void* y)
{
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned output = thread / lanes;
    if (output >= (unsigned)batch * regions * channels)
    {
        return;
    }
    const int lane = thread % lanes;
    const int channel = output % channels;
    const int region = output / channels % regions;
    const int image = output / channels / regions;

    const int top = clip(rois[4 * region], height);
    const int left = clip(rois[4 * region + 1], width);
    const int rows = clip(rois[4 * region + 2], height) - top;
    const int columns = clip(rois[4 * region + 3], width) - left;
    const long long start = (long long)image * batch_stride + (long long)channel * channel_stride
        + (long long)top * row_stride + (long long)left * column_stride;

    float largest = 0;
    if (rows > 0 && columns > 0)
    {
        largest = half
            ? largest_of_lane((const HalfBits*)x + start, rows, columns, row_stride, column_stride, lane, lanes)
            : largest_of_lane((const float*)x + start, rows, columns, row_stride, column_stride, lane, lanes);
    }
    // a group lies within one warp, and all its lanes come here
    for (int distance = lanes / 2; distance > 0; distance /= 2)
    {
        largest = larger(largest, __shfl_xor_sync(0xffffffff, largest, distance));
    }
    if (lane == 0)
    {
        if (half)
        {
            ((HalfBits*)y)[output] = narrow(largest);
        }
        else
        {
            ((float*)y)[output] = largest;
        }
    }
}
