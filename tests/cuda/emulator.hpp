// Runs CUDA kernels on the processor, to check them where no GPU is.
//
// The blocks of a launch run one after the other. The threads of a block are fibers: each runs until it waits for others (__syncthreads, or a
// collective of its warp) and another goes on. What real hardware leaves open is varied: the order of the blocks and the order in which threads
// run between two barriers. A result that depends on it shows that a barrier is missing or that blocks depend on each other.
//
// Shared memory is filled with NaN before every block, and a read or write past its end, or past the end of a Buffer, is caught by an
// inaccessible page or a band of known bytes. Copies of cp.async arrive as late as they may, or at once, depending on the order.
//
// One header; the translation units of a program share its machine. The switch of fibers is a few instructions on x86-64; elsewhere ucontext does it, slowly.
#pragma once
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>
// FTREPL_UCONTEXT chooses the slow way everywhere.
#if !defined(__x86_64__) || defined(FTREPL_UCONTEXT)
#define EMULATOR_UCONTEXT 1
#include <ucontext.h>
#endif

#define FTREPL_EMULATED 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};

namespace emulator {

// How what hardware leaves open is decided.
enum class Order { ascending, descending, random };
inline const char* name(Order order) { return order == Order::ascending ? "ascending" : order == Order::descending ? "descending" : "random"; }

inline std::string running = "nothing";

[[noreturn]] inline void fail(const std::string& message)
{
    std::printf("FAILED %s: %s\n", running.c_str(), message.c_str());
    std::fflush(stdout);
    std::_Exit(1);
}

// ---- fibers

#ifndef EMULATOR_UCONTEXT
extern "C" void ftrepl_switch(void** from, void* to);
asm(R"(
.text
.weak ftrepl_switch
.type ftrepl_switch, @function
ftrepl_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size ftrepl_switch, .-ftrepl_switch
)");
#endif

constexpr size_t STACK = 128 * 1024;
constexpr int MOST_THREADS = 1024;

struct Copy {
    void* to;
    const void* from;
    size_t bytes;
};

enum class Wait { none, block, warp };

struct Thread {
    dim3 index;
    int linear = 0, warp = 0, lane = 0;
    bool done = true;
    Wait wait = Wait::none;
    unsigned generation = 0;
    // Copies of cp.async in groups; the last one is not committed yet.
    std::vector<std::vector<Copy>> copies;
#ifndef EMULATOR_UCONTEXT
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
};

struct Warp {
    alignas(16) unsigned char values[2][32][64];
    int arrived = 0;
    unsigned generation = 0;
};

struct SharedArray {
    const void* tag;
    size_t at, bytes;
};

struct Machine {
    Order order = Order::ascending;
    std::mt19937 random{1};
    Thread threads[MOST_THREADS];
    Warp warps[MOST_THREADS / 32];
    Thread* current = nullptr;
    int count = 0, warp_count = 0;
    // Of __syncthreads.
    int arrived = 0, line = 0;
    unsigned generation = 0;
    dim3 block, block_size, grid;
    std::function<void()> body;
    unsigned char* stacks = nullptr;
    unsigned char *shared = nullptr, *dynamic_end = nullptr;
    size_t shared_used = 0, dynamic_bytes = 0;
    std::vector<SharedArray> arrays;
#ifndef EMULATOR_UCONTEXT
    void* scheduler = nullptr;
#else
    ucontext_t scheduler;
#endif
};
inline Machine machine;

constexpr size_t STATIC_SHARED = 48 * 1024, DYNAMIC_SHARED_BYTES = 228 * 1024;

inline void to_scheduler()
{
#ifndef EMULATOR_UCONTEXT
    ftrepl_switch(&machine.current->stack_pointer, machine.scheduler);
#else
    swapcontext(&machine.current->context, &machine.scheduler);
#endif
}

inline void to_thread(Thread& thread)
{
    machine.current = &thread;
#ifndef EMULATOR_UCONTEXT
    ftrepl_switch(&machine.scheduler, thread.stack_pointer);
#else
    swapcontext(&machine.scheduler, &thread.context);
#endif
}

inline void thread_main()
{
    machine.body();
    machine.current->done = true;
    to_scheduler();
    fail("a thread that had ended went on");
}

inline void prepare(Thread& thread)
{
    unsigned char* stack = machine.stacks + STACK * static_cast<size_t>(thread.linear);
#ifndef EMULATOR_UCONTEXT
    auto* top = reinterpret_cast<void**>(stack + STACK);
    // As after a call: the stack is 8 off a multiple of 16 when the function begins.
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&thread_main);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    thread.stack_pointer = top;
#else
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = stack;
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, thread_main, 0);
#endif
}

// ---- barriers and warps

inline void sync_block(int line)
{
    Machine& m = machine;
    if (m.arrived == 0) m.line = line;
    if (m.line != line) fail("threads of a block wait at different barriers, lines " + std::to_string(m.line) + " and " + std::to_string(line));
    if (++m.arrived == m.count) {
        m.arrived = 0;
        ++m.generation;
        // The last to arrive waits as well, so that no order lets a thread run on at once in all cases.
        m.current->generation = m.generation - 1;
    } else {
        m.current->generation = m.generation;
    }
    m.current->wait = Wait::block;
    to_scheduler();
}

// Gives `bytes` of this lane to the warp and returns those of all lanes, 64 bytes apart. Valid until the next but one exchange.
inline const unsigned char* exchange(const void* mine, size_t bytes)
{
    Warp& warp = machine.warps[machine.current->warp];
    const unsigned slot = warp.generation & 1;
    std::memcpy(warp.values[slot][machine.current->lane], mine, bytes);
    machine.current->generation = warp.generation;
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        ++warp.generation;
    }
    machine.current->wait = Wait::warp;
    to_scheduler();
    return &warp.values[slot][0][0];
}

template <class T> T shuffle(T value, int lane)
{
    const unsigned char* all = exchange(&value, sizeof value);
    T result;
    std::memcpy(&result, all + 64 * (lane & 31), sizeof result);
    return result;
}

inline bool ready(const Thread& thread)
{
    switch (thread.wait) {
    case Wait::none: return true;
    case Wait::block: return machine.generation != thread.generation;
    default: return machine.warps[thread.warp].generation != thread.generation;
    }
}

inline void run_block()
{
    Machine& m = machine;
    std::memset(m.shared, 0xff, STATIC_SHARED);
    std::memset(m.dynamic_end - m.dynamic_bytes, 0xff, m.dynamic_bytes);
    m.shared_used = 0;
    m.arrays.clear();
    m.arrived = 0;
    for (int i = 0; i < m.warp_count; ++i) m.warps[i].arrived = 0;
    std::vector<int> order(m.count), warps(m.warp_count);
    for (int i = 0; i < m.count; ++i) {
        Thread& thread = m.threads[i];
        thread.linear = i;
        thread.warp = i / 32;
        thread.lane = i % 32;
        thread.index = dim3(i % m.block_size.x, i / m.block_size.x % m.block_size.y, i / m.block_size.x / m.block_size.y);
        thread.done = false;
        thread.wait = Wait::none;
        thread.copies.assign(1, {});
        prepare(thread);
        order[i] = i;
    }
    for (int i = 0; i < m.warp_count; ++i) warps[i] = m.order == Order::descending ? m.warp_count - 1 - i : i;
    for (int left = m.count; left > 0;) {
        bool progress = false;
        const auto run = [&](int i) {
            Thread& thread = m.threads[i];
            if (thread.done || !ready(thread)) return false;
            thread.wait = Wait::none;
            to_thread(thread);
            if (thread.done) --left;
            return progress = true;
        };
        if (m.order == Order::random) {
            std::shuffle(order.begin(), order.end(), m.random);
            for (int i : order) run(i);
        } else {
            // A warp runs as far as it can before the next begins: what it does too early, all the others see.
            for (int warp : warps) {
                for (bool ran = true; ran;) {
                    ran = false;
                    for (int lane = 0; lane < 32; ++lane) ran = run(m.order == Order::descending ? 32 * warp + 31 - lane : 32 * warp + lane) || ran;
                }
            }
        }
        if (!progress) {
            fail("threads wait for each other: " + std::to_string(m.arrived) + " of " + std::to_string(m.count) + " at a barrier of the block, " +
                 std::to_string(m.count - left) + " have ended");
        }
    }
    if (m.arrived != 0) fail("a block ended with threads at a barrier");
}

inline void crashed(int, siginfo_t* info, void*)
{
    char text[256];
    const int length = std::snprintf(text, sizeof text, "FAILED %s: memory out of bounds at %p (block %u %u, thread %d)\n", running.c_str(), info->si_addr,
                                     machine.block.x, machine.block.y, machine.current != nullptr ? machine.current->linear : -1);
    if (write(1, text, static_cast<size_t>(length)) < 0) std::_Exit(2);
    std::_Exit(1);
}

inline unsigned char* pages(size_t bytes)
{
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) fail("no memory");
    return static_cast<unsigned char*>(p);
}

inline void start()
{
    Machine& m = machine;
    if (m.stacks != nullptr) return;
    m.stacks = pages(STACK * MOST_THREADS);
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    m.shared = pages(STATIC_SHARED + page);
    mprotect(m.shared + STATIC_SHARED, page, PROT_NONE);
    m.dynamic_end = pages(DYNAMIC_SHARED_BYTES + page) + DYNAMIC_SHARED_BYTES;
    mprotect(m.dynamic_end, page, PROT_NONE);
    static unsigned char signal_stack[64 * 1024];
    stack_t stack{};
    stack.ss_sp = signal_stack;
    stack.ss_size = sizeof signal_stack;
    sigaltstack(&stack, nullptr);
    struct sigaction action {};
    action.sa_sigaction = crashed;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}

// Launches a kernel and waits for it. `dynamic` is its dynamic shared memory in bytes.
template <class... P, class... A> void launch(dim3 grid, dim3 block, size_t dynamic, void (*kernel)(P...), A... arguments)
{
    start();
    Machine& m = machine;
    m.grid = grid;
    m.block_size = block;
    m.count = static_cast<int>(block.x * block.y * block.z);
    m.warp_count = m.count / 32;
    if (m.count % 32 != 0 || m.count > MOST_THREADS) fail("a block must be of whole warps, 1024 threads at most");
    m.dynamic_bytes = dynamic;
    if (dynamic > DYNAMIC_SHARED_BYTES || dynamic % 16 != 0) fail("dynamic shared memory of this size does not exist");
    m.body = [&] { kernel(static_cast<P>(arguments)...); };
    std::vector<size_t> blocks(static_cast<size_t>(grid.x) * grid.y * grid.z);
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
    if (m.order == Order::descending) std::reverse(blocks.begin(), blocks.end());
    if (m.order == Order::random) std::shuffle(blocks.begin(), blocks.end(), m.random);
    for (size_t i : blocks) {
        m.block = dim3(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y), static_cast<unsigned>(i / grid.x / grid.y));
        run_block();
    }
    m.current = nullptr;
}

// ---- shared memory

// The array of one declaration: the same memory every time that the declaration is passed, as in CUDA.
template <class T> T* shared_array(const void* tag, size_t count)
{
    Machine& m = machine;
    for (const SharedArray& array : m.arrays) {
        if (array.tag == tag) return reinterpret_cast<T*>(m.shared + array.at);
    }
    const size_t bytes = (count * sizeof(T) + 15) / 16 * 16;
    if (m.shared_used + bytes > STATIC_SHARED) fail("more than 48 KiB of static shared memory");
    m.arrays.push_back({tag, m.shared_used, bytes});
    m.shared_used += bytes;
    return reinterpret_cast<T*>(m.shared + m.shared_used - bytes);
}

// Ends at an inaccessible page.
template <class T> T* dynamic_array() { return reinterpret_cast<T*>(machine.dynamic_end - machine.dynamic_bytes); }

inline void check_shared(const void* p, size_t bytes)
{
    const auto* at = static_cast<const unsigned char*>(p);
    const bool dynamic = at >= machine.dynamic_end - machine.dynamic_bytes && at + bytes <= machine.dynamic_end;
    if (!dynamic && !(at >= machine.shared && at + bytes <= machine.shared + STATIC_SHARED)) fail("an address outside the shared memory of the block");
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0) fail("an address in shared memory that is not aligned");
}

// ---- cp.async: 16 bytes from global to shared memory, or zeros

inline void copy_async(void* to, const void* from, bool exists)
{
    check_shared(to, 16);
    if (exists && reinterpret_cast<uintptr_t>(from) % 16 != 0) fail("cp.async from an address that is not aligned");
    const Copy copy{to, exists ? from : nullptr, 16};
    auto& copies = machine.current->copies;
    copies.back().push_back(copy);
    // Descending order: arrives at once. The others: not before it is waited for.
    if (machine.order == Order::descending) {
        if (copy.from != nullptr) std::memcpy(to, from, 16);
        else std::memset(to, 0, 16);
    }
}

inline void copy_commit() { machine.current->copies.emplace_back(); }

inline void copy_wait(size_t newest)
{
    auto& copies = machine.current->copies;
    // Those not committed are waited for by nobody.
    while (copies.size() > newest + 1) {
        if (machine.order != Order::descending) {
            for (const Copy& copy : copies.front()) {
                if (copy.from != nullptr) std::memcpy(copy.to, copy.from, copy.bytes);
                else std::memset(copy.to, 0, copy.bytes);
            }
        }
        copies.erase(copies.begin());
    }
}

// ---- what the tensor cores and ldmatrix do, as the PTX manual lays it out

inline float bf16_to_f32(unsigned bits)
{
    bits <<= 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline void load_matrices(unsigned (&to)[4], const unsigned char* row, bool transposed)
{
    check_shared(row, 16);
    const int lane = machine.current->lane;
    const unsigned char* all = exchange(&row, sizeof row);
    for (int matrix = 0; matrix < 4; ++matrix) {
        const auto element = [&](int r, int c) {
            const unsigned char* at;
            std::memcpy(&at, all + 64 * (8 * matrix + r), sizeof at);
            uint16_t bits;
            std::memcpy(&bits, at + 2 * c, 2);
            return unsigned{bits};
        };
        const int r = lane / 4, c = lane % 4 * 2;
        to[matrix] = transposed ? element(c, r) | element(c + 1, r) << 16 : element(r, c) | element(r, c + 1) << 16;
    }
}

inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
    const unsigned mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const int lane = machine.current->lane;
    const unsigned char* all = exchange(mine, sizeof mine);
    // Word `word` of a lane.
    const auto word = [&](int of, int at) {
        unsigned bits;
        std::memcpy(&bits, all + 64 * of + 4 * at, 4);
        return bits;
    };
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4, half = i / 2, column = lane % 4 * 2 + i % 2;
        float sum = 0;
        for (int pair = 0; pair < 8; ++pair) {
            // The pair's elements lie in lane `pair % 4` of the row's, or the column's, four; the second eight in the next registers.
            const unsigned left = word(row * 4 + pair % 4, half + pair / 4 * 2), right = word(column * 4 + pair % 4, 4 + pair / 4);
            sum += bf16_to_f32(left & 0xffff) * bf16_to_f32(right & 0xffff) + bf16_to_f32(left >> 16) * bf16_to_f32(right >> 16);
        }
        c[i] += sum;
    }
}

// ---- f16

inline float f16_to_f32(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const float magnitude = exponent == 31 ? (fraction != 0 ? NAN : INFINITY)
                            : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                            : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    return (h & 0x8000) != 0 ? -magnitude : magnitude;
}

inline uint16_t f32_to_f16(float x)
{
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float magnitude = std::fabs(x);
    if (std::isnan(x)) return sign | 0x7e00;
    if (magnitude == 0.0f) return sign;
    if (magnitude >= 65520.0f) return sign | 0x7c00;
    int exponent;
    std::frexp(magnitude, &exponent);
    exponent = std::max(exponent, -13);
    // To the nearest, ties to even: the processor's own rounding.
    const auto steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 11 - exponent)));
    return static_cast<uint16_t>(sign + (static_cast<uint32_t>(exponent + 13) << 10) + steps);
}

} // namespace emulator

// ---- what kernels use

#define threadIdx (emulator::machine.current->index)
#define blockIdx (emulator::machine.block)
#define blockDim (emulator::machine.block_size)
#define gridDim (emulator::machine.grid)
#define __syncthreads() emulator::sync_block(__LINE__)

inline void __syncwarp(unsigned = 0xffffffffu)
{
    const char nothing = 0;
    emulator::exchange(&nothing, 1);
}
template <class T> T __shfl_sync(unsigned, T value, int lane) { return emulator::shuffle(value, lane); }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) { return emulator::shuffle(value, emulator::machine.current->lane ^ mask); }
template <class T> T __shfl_down_sync(unsigned, T value, int delta)
{
    const int lane = emulator::machine.current->lane + delta;
    return emulator::shuffle(value, lane < 32 ? lane : emulator::machine.current->lane);
}
inline int __any_sync(unsigned, bool holds)
{
    const unsigned char* all = emulator::exchange(&holds, sizeof holds);
    for (int lane = 0; lane < 32; ++lane) {
        if (all[64 * lane] != 0) return 1;
    }
    return 0;
}
inline float __uint_as_float(unsigned bits)
{
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline unsigned __float_as_uint(float x)
{
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
using std::max;
using std::min;

#include "../../src/ops/gpu/kernels/common.cuh"
