// The stand-in for libcuda: a device, its memory, streams and events, and what belongs to launches. See standin.hpp.
#include "../emulator.hpp"
#include "memory.hpp"
#include "modules.hpp"
#include "standin.hpp"
#include <cuda.h>
#include <deque>
#include <map>
#include <mutex>

#define API extern "C" __attribute__((visibility("default"))) CUresult CUDAAPI

namespace {

// One at a time: the emulator has one machine, and tests run in many threads.
std::recursive_mutex one_at_a_time;

struct Work {
    std::string what;
    std::function<void()> run;
};

// What a late device has not done yet, of all streams in the order in which it was asked for.
std::deque<Work> waiting;
bool late = false, initialised = false;

thread_local bool in_context = false;

// Streams, events, the context and the pool are addresses of these, so that what is none is noticed.
struct Thing {
    enum Kind { dead, context, pool, stream, event } kind;
    bool recorded = false;
};
Thing the_context{Thing::context}, the_pool{Thing::pool};

Thing* thing(const void* handle, Thing::Kind kind, const char* of)
{
    auto* found = static_cast<Thing*>(const_cast<void*>(handle));
    if (found == nullptr || found->kind != kind) standin::die(std::string(of) + " was given a handle that is none, or no longer");
    return found;
}

// Destroyed things stay in memory, dead: who uses one is told so.
template <class H> H make(Thing::Kind kind) { return reinterpret_cast<H>(new Thing{kind}); }

void run(const Work& work)
{
    emulator::running = work.what;
    work.run();
    emulator::running = "outside of the device's work";
}

void finish()
{
    while (!waiting.empty()) {
        const Work work = std::move(waiting.front());
        waiting.pop_front();
        run(work);
    }
}

struct Locked {
    std::lock_guard<std::recursive_mutex> lock{one_at_a_time};
    explicit Locked(const char* of)
    {
        if (!initialised) standin::die(std::string(of) + " was called before cuInit");
    }
};

// Pages of memory that the device can copy from and to at any time.
std::map<const unsigned char*, size_t> pinned;

bool is_pinned(const void* start)
{
    const auto* at = static_cast<const unsigned char*>(start);
    auto next = pinned.upper_bound(at);
    return next != pinned.begin() && at < (--next)->first + next->second;
}

void* address(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

} // namespace

namespace standin {

void die(const std::string& message) { emulator::fail(message); }

void expect_memory(const void* start, size_t bytes, const std::string& what)
{
    const std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
    memory::expect(start, bytes, what);
}

void submit(const std::string& what, std::function<void()> work)
{
    const std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
    waiting.push_back({what, std::move(work)});
    if (!late) finish();
}

} // namespace standin

// ---- the device and its context

API cuInit(unsigned flags)
{
    const std::lock_guard<std::recursive_mutex> lock(one_at_a_time);
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (!initialised) {
        emulator::start();
        const char* wanted = std::getenv("FTREPL_EMULATE_LATE");
        late = wanted != nullptr && std::strcmp(wanted, "0") != 0;
        initialised = true;
        emulator::running = "outside of the device's work";
    }
    return CUDA_SUCCESS;
}

API cuDeviceGet(CUdevice* device, int ordinal)
{
    Locked locked("cuDeviceGet");
    if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

API cuDeviceGetCount(int* count)
{
    Locked locked("cuDeviceGetCount");
    *count = 1;
    return CUDA_SUCCESS;
}

API cuDeviceGetName(char* name, int length, CUdevice)
{
    Locked locked("cuDeviceGetName");
    std::snprintf(name, static_cast<size_t>(length), "a stand-in on the processor");
    return CUDA_SUCCESS;
}

API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice)
{
    Locked locked("cuDeviceGetAttribute");
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = modules::MOST_SHARED; break;
    default: standin::die("cuDeviceGetAttribute: attribute " + std::to_string(attribute) + " is not implemented");
    }
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice)
{
    Locked locked("cuDevicePrimaryCtxRetain");
    *context = reinterpret_cast<CUcontext>(&the_context);
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(CUdevice)
{
    Locked locked("cuDevicePrimaryCtxRelease_v2");
    finish();
    return CUDA_SUCCESS;
}

API cuCtxGetCurrent(CUcontext* context)
{
    Locked locked("cuCtxGetCurrent");
    *context = in_context ? reinterpret_cast<CUcontext>(&the_context) : nullptr;
    return CUDA_SUCCESS;
}

API cuCtxSetCurrent(CUcontext context)
{
    Locked locked("cuCtxSetCurrent");
    if (context != nullptr) thing(context, Thing::context, "cuCtxSetCurrent");
    in_context = context != nullptr;
    return CUDA_SUCCESS;
}

API cuCtxSynchronize()
{
    Locked locked("cuCtxSynchronize");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    finish();
    return CUDA_SUCCESS;
}

API cuGetErrorString(CUresult error, const char** text)
{
    switch (error) {
    case CUDA_SUCCESS: *text = "no error"; break;
    case CUDA_ERROR_INVALID_VALUE: *text = "invalid argument"; break;
    case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
    case CUDA_ERROR_INVALID_DEVICE: *text = "invalid device ordinal"; break;
    case CUDA_ERROR_INVALID_CONTEXT: *text = "invalid device context"; break;
    case CUDA_ERROR_NOT_FOUND: *text = "named symbol not found"; break;
    case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: *text = "too many resources requested for launch"; break;
    default: *text = "an error without a name"; break;
    }
    return CUDA_SUCCESS;
}

// NVRTC asks for tables of the driver's insides, and does without.
API cuGetExportTable(const void** table, const CUuuid*)
{
    *table = nullptr;
    return CUDA_ERROR_NOT_FOUND;
}

// ---- streams and events: all streams are one

API cuStreamCreate(CUstream* stream, unsigned)
{
    Locked locked("cuStreamCreate");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    *stream = make<CUstream>(Thing::stream);
    return CUDA_SUCCESS;
}

API cuStreamDestroy_v2(CUstream stream)
{
    Locked locked("cuStreamDestroy_v2");
    thing(stream, Thing::stream, "cuStreamDestroy_v2")->kind = Thing::dead;
    return CUDA_SUCCESS;
}

API cuStreamSynchronize(CUstream stream)
{
    Locked locked("cuStreamSynchronize");
    thing(stream, Thing::stream, "cuStreamSynchronize");
    finish();
    return CUDA_SUCCESS;
}

API cuStreamWaitEvent(CUstream stream, CUevent event, unsigned)
{
    Locked locked("cuStreamWaitEvent");
    thing(stream, Thing::stream, "cuStreamWaitEvent");
    thing(event, Thing::event, "cuStreamWaitEvent");
    return CUDA_SUCCESS;
}

API cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status)
{
    Locked locked("cuStreamIsCapturing");
    thing(stream, Thing::stream, "cuStreamIsCapturing");
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

API cuEventCreate(CUevent* event, unsigned)
{
    Locked locked("cuEventCreate");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    *event = make<CUevent>(Thing::event);
    return CUDA_SUCCESS;
}

API cuEventDestroy_v2(CUevent event)
{
    Locked locked("cuEventDestroy_v2");
    // Not kept: there are two of every tensor. The allocator may give the place to another thing, which is why a wrong use may go unseen here.
    Thing* found = thing(event, Thing::event, "cuEventDestroy_v2");
    found->kind = Thing::dead;
    delete found;
    return CUDA_SUCCESS;
}

API cuEventRecord(CUevent event, CUstream stream)
{
    Locked locked("cuEventRecord");
    thing(stream, Thing::stream, "cuEventRecord");
    thing(event, Thing::event, "cuEventRecord")->recorded = true;
    return CUDA_SUCCESS;
}

API cuEventSynchronize(CUevent event)
{
    Locked locked("cuEventSynchronize");
    // One that was never recorded is not waited for.
    if (thing(event, Thing::event, "cuEventSynchronize")->recorded) finish();
    return CUDA_SUCCESS;
}

// ---- memory

API cuMemAlloc_v2(CUdeviceptr* start, size_t bytes)
{
    Locked locked("cuMemAlloc_v2");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    void* memory = memory::allocate(bytes);
    if (memory == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    *start = reinterpret_cast<CUdeviceptr>(memory);
    return CUDA_SUCCESS;
}

API cuMemFree_v2(CUdeviceptr start)
{
    Locked locked("cuMemFree_v2");
    finish();
    if (start != 0) memory::release(address(start));
    return CUDA_SUCCESS;
}

API cuMemAllocAsync(CUdeviceptr* start, size_t bytes, CUstream stream)
{
    Locked locked("cuMemAllocAsync");
    thing(stream, Thing::stream, "cuMemAllocAsync");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    *start = 0;
    if (bytes == 0) return CUDA_SUCCESS;
    void* memory = memory::allocate(bytes);
    if (memory == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    *start = reinterpret_cast<CUdeviceptr>(memory);
    return CUDA_SUCCESS;
}

API cuMemFreeAsync(CUdeviceptr start, CUstream stream)
{
    Locked locked("cuMemFreeAsync");
    thing(stream, Thing::stream, "cuMemFreeAsync");
    if (start == 0) return CUDA_SUCCESS;
    memory::release_later(address(start));
    standin::submit("cuMemFreeAsync", [start] { memory::release(address(start)); });
    return CUDA_SUCCESS;
}

API cuMemGetInfo_v2(size_t* free, size_t* total)
{
    Locked locked("cuMemGetInfo_v2");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    *total = memory::TOTAL;
    *free = memory::TOTAL - memory::used();
    return CUDA_SUCCESS;
}

API cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice)
{
    Locked locked("cuDeviceGetDefaultMemPool");
    *pool = reinterpret_cast<CUmemoryPool>(&the_pool);
    return CUDA_SUCCESS;
}

API cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value)
{
    Locked locked("cuMemPoolSetAttribute");
    thing(pool, Thing::pool, "cuMemPoolSetAttribute");
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        if (*static_cast<cuuint64_t*>(value) != 0) return CUDA_ERROR_INVALID_VALUE;
        memory::most_used() = memory::used();
        return CUDA_SUCCESS;
    default: standin::die("cuMemPoolSetAttribute: attribute " + std::to_string(attribute) + " is not implemented");
    }
}

API cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value)
{
    Locked locked("cuMemPoolGetAttribute");
    thing(pool, Thing::pool, "cuMemPoolGetAttribute");
    auto* number = static_cast<cuuint64_t*>(value);
    switch (attribute) {
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *number = memory::used(); break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *number = memory::most_used(); break;
    default: standin::die("cuMemPoolGetAttribute: attribute " + std::to_string(attribute) + " is not implemented");
    }
    return CUDA_SUCCESS;
}

API cuMemPoolTrimTo(CUmemoryPool pool, size_t)
{
    Locked locked("cuMemPoolTrimTo");
    thing(pool, Thing::pool, "cuMemPoolTrimTo");
    return CUDA_SUCCESS;
}

API cuMemHostAlloc(void** start, size_t bytes, unsigned)
{
    Locked locked("cuMemHostAlloc");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (posix_memalign(start, 4096, bytes) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(*start, 0xff, bytes);
    pinned[static_cast<unsigned char*>(*start)] = bytes;
    return CUDA_SUCCESS;
}

API cuMemFreeHost(void* start)
{
    Locked locked("cuMemFreeHost");
    if (pinned.erase(static_cast<unsigned char*>(start)) == 0) standin::die("cuMemFreeHost: this is no page-locked memory");
    finish();
    std::free(start);
    return CUDA_SUCCESS;
}

API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream)
{
    Locked locked("cuMemcpyHtoDAsync_v2");
    thing(stream, Thing::stream, "cuMemcpyHtoDAsync_v2");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_SUCCESS;
    standin::expect_memory(address(to), bytes, "cuMemcpyHtoDAsync_v2, to");
    if (is_pinned(from)) {
        // Read when it is time.
        standin::submit("cuMemcpyHtoDAsync_v2", [=] { std::memcpy(address(to), from, bytes); });
    } else {
        const auto* first = static_cast<const unsigned char*>(from);
        standin::submit("cuMemcpyHtoDAsync_v2", [to, values = std::vector<unsigned char>(first, first + bytes)] {
            std::memcpy(address(to), values.data(), values.size());
        });
    }
    return CUDA_SUCCESS;
}

API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    Locked locked("cuMemcpyDtoHAsync_v2");
    thing(stream, Thing::stream, "cuMemcpyDtoHAsync_v2");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_SUCCESS;
    standin::expect_memory(address(from), bytes, "cuMemcpyDtoHAsync_v2, from");
    const bool at_any_time = is_pinned(to);
    standin::submit("cuMemcpyDtoHAsync_v2", [=] { std::memcpy(to, address(from), bytes); });
    // To ordinary memory the call returns when the copy has been made.
    if (!at_any_time) finish();
    return CUDA_SUCCESS;
}

API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    Locked locked("cuMemcpyDtoDAsync_v2");
    thing(stream, Thing::stream, "cuMemcpyDtoDAsync_v2");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_SUCCESS;
    standin::expect_memory(address(to), bytes, "cuMemcpyDtoDAsync_v2, to");
    standin::expect_memory(address(from), bytes, "cuMemcpyDtoDAsync_v2, from");
    if (to < from + bytes && from < to + bytes) standin::die("cuMemcpyDtoDAsync_v2: the two overlap");
    standin::submit("cuMemcpyDtoDAsync_v2", [=] { std::memcpy(address(to), address(from), bytes); });
    return CUDA_SUCCESS;
}

API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)
{
    Locked locked("cuMemsetD8Async");
    thing(stream, Thing::stream, "cuMemsetD8Async");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_SUCCESS;
    standin::expect_memory(address(to), bytes, "cuMemsetD8Async");
    standin::submit("cuMemsetD8Async", [=] { std::memset(address(to), value, bytes); });
    return CUDA_SUCCESS;
}

// ---- modules and launches

API cuModuleLoadData(CUmodule* module, const void* image)
{
    Locked locked("cuModuleLoadData");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    *module = reinterpret_cast<CUmodule>(modules::load(static_cast<const char*>(image)));
    return CUDA_SUCCESS;
}

// Handles stay valid: there are few, and a launch that is still waiting may need them.
API cuModuleUnload(CUmodule)
{
    Locked locked("cuModuleUnload");
    return CUDA_SUCCESS;
}

API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name)
{
    Locked locked("cuModuleGetFunction");
    modules::Function* found = modules::find(reinterpret_cast<modules::Module*>(module), name);
    if (found == nullptr) return CUDA_ERROR_NOT_FOUND;
    *function = reinterpret_cast<CUfunction>(found);
    return CUDA_SUCCESS;
}

API cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
    Locked locked("cuFuncSetAttribute");
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        standin::die("cuFuncSetAttribute: attribute " + std::to_string(attribute) + " is not implemented");
    }
    auto* f = reinterpret_cast<modules::Function*>(function);
    if (value < 0 || static_cast<size_t>(value) + f->shared > modules::MOST_SHARED) return CUDA_ERROR_INVALID_VALUE;
    f->most_dynamic = static_cast<size_t>(value);
    return CUDA_SUCCESS;
}

API cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                   unsigned shared, CUstream stream, void** parameters, void** extra)
{
    Locked locked("cuLaunchKernel");
    thing(stream, Thing::stream, "cuLaunchKernel");
    if (!in_context) return CUDA_ERROR_INVALID_CONTEXT;
    if (extra != nullptr) standin::die("cuLaunchKernel: parameters in one buffer are not implemented");
    const auto* f = reinterpret_cast<const modules::Function*>(function);
    const uint64_t threads = uint64_t{block_x} * block_y * block_z;
    if (grid_x == 0 || grid_y == 0 || grid_z == 0 || threads == 0 || threads > 1024 || block_z > 64) return CUDA_ERROR_INVALID_VALUE;
    if (grid_x > 0x7fffffffu || grid_y > 65535 || grid_z > 65535) return CUDA_ERROR_INVALID_VALUE;
    if (shared > f->most_dynamic) return CUDA_ERROR_INVALID_VALUE;
    if (threads > f->most_threads) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    const standin::Launch launch{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared};
    // The parameters are read now, as the driver does.
    std::vector<std::vector<unsigned char>> values;
    for (size_t i = 0; i < f->sizes.size(); ++i) {
        const auto* first = static_cast<const unsigned char*>(parameters[i]);
        values.emplace_back(first, first + f->sizes[i]);
    }
    standin::submit("kernel " + f->name, [f, launch, values]() mutable {
        std::vector<void*> places;
        for (auto& value : values) places.push_back(value.data());
        f->kernel->run(launch, places.data());
    });
    return CUDA_SUCCESS;
}
