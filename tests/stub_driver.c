/* A CUDA driver whose devices are the host's memory: it does the copies and notes the launches.
 * What needs a context fails without one, and so does what leaves the memory that it was given. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, NOT_FOUND = 500, HOST = 1, DEVICE = 2, MOST = 4096 };
typedef uint64_t address;

static struct { address begin; size_t size; int kind, device; } pieces[MOST];
static int count, contexts[2];
static __thread int *stack[16];
static __thread int depth;

#define IN_CONTEXT if (!depth) return INVALID_CONTEXT
#define NOTE(...) (printf(__VA_ARGS__), fflush(stdout))

static int current(void) { return (int)(stack[depth - 1] - contexts); }

static int within(address begin, size_t size, int kind) {
    for (int i = 0; i < count; i++)
        if (pieces[i].kind == kind && begin >= pieces[i].begin && begin + size <= pieces[i].begin + pieces[i].size)
            return kind == HOST || pieces[i].device == current();
    return 0;
}

static address allocated(size_t size, int kind) {
    address begin = (address)aligned_alloc(512, (size + 511) / 512 * 512);
    pieces[count].begin = begin, pieces[count].size = size, pieces[count].device = current();
    pieces[count++].kind = kind;
    return begin;
}

static int freed(address begin, int kind) {
    for (int i = 0; i < count; i++)
        if (pieces[i].begin == begin && pieces[i].kind == kind && pieces[i].device == current()) {
            pieces[i].kind = 0;
            free((void *)begin);
            return SUCCESS;
        }
    return INVALID_VALUE;
}

int cuInit(unsigned flags) { return SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = atoi(getenv("STUB_VERSION")), SUCCESS; }
int cuDeviceGetCount(int *number) { return *number = 2, SUCCESS; }
int cuDeviceGetAttribute(int *value, int name, int device) {
    return *value = name == 75 ? 9 : name == 76 ? 0 : 132, SUCCESS;
}
int cuDevicePrimaryCtxRetain(int **context, int device) { return *context = contexts + device, SUCCESS; }
int cuCtxPushCurrent_v2(int *context) { return stack[depth++] = context, SUCCESS; }
int cuCtxPopCurrent_v2(int **context) {
    IN_CONTEXT;
    *context = stack[--depth];
    return SUCCESS;
}
int cuCtxGetCurrent(int **context) { return *context = depth ? stack[depth - 1] : 0, SUCCESS; }
int cuCtxSynchronize(void) {
    IN_CONTEXT;
    return SUCCESS;
}
int cuMemAlloc_v2(address *begin, size_t size) {
    IN_CONTEXT;
    return *begin = allocated(size, DEVICE), SUCCESS;
}
int cuMemFree_v2(address begin) {
    IN_CONTEXT;
    return freed(begin, DEVICE);
}
int cuMemHostAlloc(address *begin, size_t size, unsigned flags) {
    IN_CONTEXT;
    return *begin = allocated(size, HOST), flags == 1 ? SUCCESS : INVALID_VALUE;
}
int cuMemFreeHost(address begin) {
    IN_CONTEXT;
    return freed(begin, HOST);
}
int cuMemcpyHtoDAsync_v2(address target, address source, size_t size, void *stream) {
    IN_CONTEXT;
    if (!within(target, size, DEVICE) || !within(source, size, HOST)) return INVALID_VALUE;
    return memcpy((void *)target, (void *)source, size), SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *target, address source, size_t size, void *stream) {
    IN_CONTEXT;
    if (!within(source, size, DEVICE)) return INVALID_VALUE;
    return memcpy(target, (void *)source, size), SUCCESS;
}
int cuMemcpyDtoDAsync_v2(address target, address source, size_t size, void *stream) {
    IN_CONTEXT;
    if (!within(target, size, DEVICE) || !within(source, size, DEVICE)) return INVALID_VALUE;
    return memcpy((void *)target, (void *)source, size), SUCCESS;
}
int cuPointerGetAttribute(int *value, int name, address place) {
    for (int i = 0; i < count; i++)
        if (pieces[i].kind && place >= pieces[i].begin && place < pieces[i].begin + pieces[i].size)
            return *value = name == 2 ? pieces[i].kind : pieces[i].device, SUCCESS;
    return INVALID_VALUE;
}
int cuStreamSynchronize(void *stream) {
    IN_CONTEXT;
    return SUCCESS;
}
int cuStreamIsCapturing(intptr_t stream, int *status) {
    IN_CONTEXT;
    return *status = stream == 99, SUCCESS;
}
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    IN_CONTEXT;
    return NOTE("wait %ld\n", (long)stream), SUCCESS;
}
int cuEventCreate(intptr_t *event, unsigned flags) {
    IN_CONTEXT;
    return *event = 5, flags == 2 ? SUCCESS : INVALID_VALUE;
}
int cuEventRecord(void *event, void *stream) {
    IN_CONTEXT;
    return NOTE("record %ld\n", (long)stream), SUCCESS;
}
int cuEventQuery(void *event) {
    IN_CONTEXT;
    return SUCCESS;
}
int cuEventDestroy_v2(void *event) {
    IN_CONTEXT;
    return SUCCESS;
}
int cuModuleLoadData(const void **module, const void *image) {
    IN_CONTEXT;
    return *module = image, memcmp(image, "\177ELF", 4) ? INVALID_VALUE : SUCCESS;
}
int cuModuleGetFunction(char **function, void *module, const char *name) {
    IN_CONTEXT;
    return *function = strdup(name), SUCCESS;
}
int cuLaunchKernel(char *name, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned of_y, unsigned of_z,
                   unsigned shared, void *stream, int64_t **parameters, void **extra) {
    IN_CONTEXT;
    address table = *parameters[0], items = *parameters[1];
    if (!within(table, 8, DEVICE) || !within(items, 8 * *parameters[2], DEVICE) || extra) return INVALID_VALUE;
    NOTE("%s %u %u %u, %u %u %u, %u, stream %ld\n", name, x, y, z, threads, of_y, of_z, shared, (long)stream);
    return SUCCESS;
}
int cuGetErrorName(int status, const char **name) { return *name = "STUB_ERROR", SUCCESS; }
int cuGetErrorString(int status, const char **text) { return *text = "see stub_driver.c", SUCCESS; }

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    char second[64];
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    snprintf(second, sizeof second, "%s_v2", name);
    *function = dlsym(self, second);
    if (!*function) *function = dlsym(self, name);
    if (status) *status = !*function;
    return *function ? SUCCESS : NOT_FOUND;
}
