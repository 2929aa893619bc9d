/* FakeLibcuda: stands in for an absent NVIDIA driver. The GPU's memory is the host's, streams compute at once, graphs
   hold copies; calls without a current context are refused as the real driver refuses them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201, INVALID_HANDLE = 400, INVALIDATED = 901 };
typedef struct { void *to; const void *from; size_t size; } Copy;
typedef struct { int count; Copy copies[16]; } Graph;
typedef struct { int capturing, spoiled; Graph noted; } Stream;

static _Thread_local int depth;
static int live[5]; /* memory, pinned memory, streams, graphs, graphs ready to launch */
static int retained, launches, default_waits;
static const char *const names[] = {"memory", "pinned", "streams", "graphs", "executables"};

#define NEED_CONTEXT if (!depth) return NO_CONTEXT

int cuInit(unsigned flags) {
    const char *wish = getenv("FAKE_CUDA_INIT");
    return wish ? atoi(wish) : OK;
}
int cuDriverGetVersion(int *version) { *version = 12060; return OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : OK; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "FakeGPU"); return OK; }
int cuDeviceTotalMem_v2(size_t *size, int device) { *size = (size_t)7620 << 20; return OK; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : which == 76 ? 7 : 0; return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) { retained++; *context = &retained; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return OK; }
int cuCtxPushCurrent_v2(void *context) { if (context != &retained) return NO_CONTEXT; depth++; return OK; }
int cuCtxPopCurrent_v2(void **context) { NEED_CONTEXT; depth--; if (context) *context = &retained; return OK; }
int cuCtxGetDevice(int *device) { NEED_CONTEXT; *device = 0; return OK; }
int cuMemGetInfo_v2(size_t *unused, size_t *all) { NEED_CONTEXT; *unused = (size_t)5000 << 20; *all = (size_t)7620 << 20; return OK; }

static int take(void **pointer, size_t size, int kind) {
    NEED_CONTEXT;
    if (!size) return INVALID_VALUE;
    if (size > (size_t)1 << 36) return OUT_OF_MEMORY;
    *pointer = aligned_alloc(256, (size + 255) / 256 * 256);
    live[kind]++;
    return OK;
}
static int give(void *pointer, int kind) { NEED_CONTEXT; if (!pointer) return INVALID_VALUE; free(pointer); live[kind]--; return OK; }
int cuMemAlloc_v2(void **pointer, size_t size) { return take(pointer, size, 0); }
int cuMemFree_v2(void *pointer) { return give(pointer, 0); }
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) { return take(pointer, size, 1); }
int cuMemFreeHost(void *pointer) { return give(pointer, 1); }

int cuStreamCreate(Stream **stream, unsigned flags) {
    NEED_CONTEXT;
    if (flags != 1) return INVALID_VALUE; /* CU_STREAM_NON_BLOCKING */
    *stream = calloc(1, sizeof **stream);
    live[2]++;
    return OK;
}
int cuStreamDestroy_v2(Stream *stream) { return give(stream, 2); }
int cuStreamSynchronize(Stream *stream) {
    NEED_CONTEXT;
    if ((uintptr_t)stream <= 2) { default_waits++; return OK; } /* CUDA's own streams, such as CU_STREAM_LEGACY */
    if (stream->capturing) { stream->spoiled = 1; return 900; }
    return OK;
}
static int copy(void *to, const void *from, size_t size, Stream *stream) {
    NEED_CONTEXT;
    Copy one = {to, from, size};
    if (stream->capturing) stream->noted.copies[stream->noted.count++] = one;
    else memcpy(to, from, size);
    return OK;
}
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t size, Stream *stream) { return copy(to, from, size, stream); }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t size, Stream *stream) { return copy(to, from, size, stream); }

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    NEED_CONTEXT;
    if (mode != 1 || stream->capturing) return INVALID_VALUE; /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
    memset(stream, 0, sizeof *stream);
    stream->capturing = 1;
    return OK;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
    NEED_CONTEXT;
    *graph = NULL;
    if (!stream->capturing) return INVALID_VALUE;
    stream->capturing = 0;
    if (stream->spoiled) return INVALIDATED;
    *graph = malloc(sizeof **graph);
    **graph = stream->noted;
    live[3]++;
    return OK;
}
int cuGraphInstantiateWithFlags(Graph **ready, Graph *graph, unsigned long long flags) {
    NEED_CONTEXT;
    if (flags) return INVALID_VALUE;
    *ready = malloc(sizeof **ready);
    **ready = *graph;
    live[4]++;
    return OK;
}
int cuGraphLaunch(Graph *ready, Stream *stream) {
    NEED_CONTEXT;
    for (int number = 0; number < ready->count; number++)
        memcpy(ready->copies[number].to, ready->copies[number].from, ready->copies[number].size);
    launches++;
    return OK;
}
int cuGraphDestroy(Graph *graph) { return give(graph, 3); }
int cuGraphExecDestroy(Graph *ready) { return give(ready, 4); }

int cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE"
        : error == NO_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : error == INVALIDATED ? "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
        : "CUDA_ERROR_UNKNOWN";
    return OK;
}

/* how cuda.bindings finds all the others: by the name without _v2 */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    char newest[128];
    snprintf(newest, sizeof newest, "%s_v2", name);
    if (!strcmp(name, "cuGraphInstantiate")) snprintf(newest, sizeof newest, "cuGraphInstantiateWithFlags");
    Dl_info self;
    dladdr((void *)cuInit, &self);
    void *library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *function = dlsym(library, newest);
    if (!*function) *function = dlsym(library, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : 500;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

/* for the tests: how often CUDA's own streams were waited for */
int fake_default_waits(void) { return default_waits; }

/* for the tests: what is still held, how often the context was retained, how many graphs were launched, what is pushed */
void fake_state(char *text, int size) {
    int used = snprintf(text, size, "{");
    for (int kind = 0; kind < 5; kind++) used += snprintf(text + used, size - used, "\"%s\": %d, ", names[kind], live[kind]);
    snprintf(text + used, size - used, "\"retained\": %d, \"launches\": %d, \"pushed\": %d}", retained, launches, depth);
}
