// What all kernels share: number types, loads and stores of 16 bytes, sums over warps and blocks.
//
// Every kernel file is compiled alone by NVRTC behind this text, and NVRTC has no headers: nothing is included here. The checks in
// tests/cuda compile the same text as C++ for the processor (FTREPL_EMULATED), where tests/cuda/emulator.hpp stands in for CUDA.

#ifdef FTREPL_EMULATED
// An array in the shared memory of the block. Through the emulator, which fills it with NaN before every block.
#define SHARED(type, name, count) type* const name = emulator::shared_array<type>([] { static char tag; return &tag; }(), count)
#define DYNAMIC_SHARED(type, name) type* const name = emulator::dynamic_array<type>()
#else
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(dynamic_shared)
#endif

// Numbers of 16 bits, kept as their bits: a sign, 8 bits of exponent and 7 of fraction.
struct bf16 {
    unsigned short bits;
};

// A sign, 5 bits of exponent and 10 of fraction.
struct f16 {
    unsigned short bits;
};

// The types by the names that end the entry points': f32, bf16, f16.
typedef float f32;

// Macros, since the compiler warns of constants that a file does not use.
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f
#define INFINITE __uint_as_float(0x7f800000u)
#define NOT_A_NUMBER __uint_as_float(0x7fc00000u)
// Below every score and far from overflow: a maximum starts here rather than at minus infinity, whose difference with itself is NaN.
#define LOWEST (-1e30f)

__device__ __forceinline__ float to_f32(float x) { return x; }

__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

__device__ __forceinline__ float to_f32(f16 x)
{
#ifdef FTREPL_EMULATED
    return emulator::f16_to_f32(x.bits);
#else
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#endif
}

template <typename T> __device__ __forceinline__ T from_f32(float x);

template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }

// To the nearest, ties to even; NaN stays NaN.
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x)
{
#if !defined(FTREPL_EMULATED) && __CUDA_ARCH__ >= 800
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bf16{bits};
#else
    const unsigned bits = __float_as_uint(x);
    // Rounding could carry the fraction of a NaN into its exponent.
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<unsigned short>((bits >> 16) | 0x40u)};
    return bf16{static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}

template <> __device__ __forceinline__ f16 from_f32<f16>(float x)
{
#ifdef FTREPL_EMULATED
    return f16{emulator::f32_to_f16(x)};
#else
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return f16{bits};
#endif
}

// x as it is when it has been stored as T.
template <typename T> __device__ __forceinline__ float rounded(float x) { return to_f32(from_f32<T>(x)); }

// How many elements a load of 16 bytes brings.
template <typename T> struct Lanes {
    static constexpr int count = 16 / static_cast<int>(sizeof(T));
};

__device__ __forceinline__ bool aligned(const void* p) { return (reinterpret_cast<unsigned long long>(p) & 15u) == 0; }

// N elements from p as f32. N is 1, or p is a multiple of 16 bytes and so are N elements.
template <int N, typename T> __device__ __forceinline__ void load(const T* p, float (&out)[N])
{
    if constexpr (N == 1) {
        out[0] = to_f32(*p);
    } else {
        constexpr int count = Lanes<T>::count;
#pragma unroll
        for (int i = 0; i < N / count; ++i) {
            const uint4 bits = *reinterpret_cast<const uint4*>(p + i * count);
            const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
            for (int word = 0; word < 4; ++word) {
                if constexpr (sizeof(T) == 4) {
                    out[i * count + word] = __uint_as_float(words[word]);
                } else {
                    out[i * count + 2 * word] = to_f32(T{static_cast<unsigned short>(words[word] & 0xffffu)});
                    out[i * count + 2 * word + 1] = to_f32(T{static_cast<unsigned short>(words[word] >> 16)});
                }
            }
        }
    }
}

// Stores N elements, rounded to T; the same conditions as for load.
template <int N, typename T> __device__ __forceinline__ void store(T* p, const float (&in)[N])
{
    if constexpr (N == 1) {
        *p = from_f32<T>(in[0]);
    } else {
        constexpr int count = Lanes<T>::count;
#pragma unroll
        for (int i = 0; i < N / count; ++i) {
            unsigned words[4];
#pragma unroll
            for (int word = 0; word < 4; ++word) {
                if constexpr (sizeof(T) == 4) {
                    words[word] = __float_as_uint(in[i * count + word]);
                } else {
                    words[word] = static_cast<unsigned>(from_f32<T>(in[i * count + 2 * word]).bits) |
                                  static_cast<unsigned>(from_f32<T>(in[i * count + 2 * word + 1]).bits) << 16;
                }
            }
            *reinterpret_cast<uint4*>(p + i * count) = uint4{words[0], words[1], words[2], words[3]};
        }
    }
}

__device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// The sum over the block, the same bits in every thread. Blocks are of whole warps in one dimension.
__device__ __forceinline__ float block_sum(float x)
{
    SHARED(float, sums, 32);
    const int warps = blockDim.x / 32;
    x = warp_sum(x);
    // A thread may still be reading the sums of the call before.
    __syncthreads();
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < warps; ++warp) sum += sums[warp];
    return sum;
}

__device__ __forceinline__ float block_max(float x)
{
    SHARED(float, maxima, 32);
    const int warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = x;
    __syncthreads();
    float max = maxima[0];
    for (int warp = 1; warp < warps; ++warp) max = fmaxf(max, maxima[warp]);
    return max;
}

// Where a grid-stride loop starts and how far it jumps.
__device__ __forceinline__ long long grid_start() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ long long grid_step() { return static_cast<long long>(gridDim.x) * blockDim.x; }

// ---- tensor cores and asynchronous copies: compute capability 8.0 and newer

#if defined(FTREPL_EMULATED) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

#ifdef FTREPL_EMULATED
typedef unsigned char* shared_address;
__device__ __forceinline__ shared_address address_of(void* p) { return static_cast<unsigned char*>(p); }
#else
// Of 32 bits: half the arithmetic of a pointer's 64.
typedef unsigned shared_address;
__device__ __forceinline__ shared_address address_of(void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }
#endif

// Four matrices of 8 by 8 elements of 16 bits; lane i names row i % 8 of matrix i / 8. In matrix m a lane gets elements 2 (lane % 4) and the next of
// row lane / 4.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], shared_address row)
{
#ifdef FTREPL_EMULATED
    emulator::load_matrices(to, row, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
#endif
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], shared_address row)
{
#ifdef FTREPL_EMULATED
    emulator::load_matrices(to, row, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
#endif
}

// c [16, 8] += a [16, 16] b [16, 8], spread over the warp. With g = lane / 4 and t = 2 (lane % 4): c holds (g, t), (g, t + 1), (g + 8, t),
// (g + 8, t + 1); a holds pairs (g, t), (g + 8, t), (g, t + 8), (g + 8, t + 8); b holds pairs along the column g: t and t + 8.
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
#ifdef FTREPL_EMULATED
    emulator::multiply_add(c, a, b0, b1);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Two numbers rounded to bf16, the first in the lower half.
__device__ __forceinline__ unsigned pack(float low, float high)
{
#ifdef FTREPL_EMULATED
    return static_cast<unsigned>(from_f32<bf16>(low).bits) | static_cast<unsigned>(from_f32<bf16>(high).bits) << 16;
#else
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#endif
}

// Copies 16 bytes to shared memory while the thread goes on; zeros where there is nothing to copy.
__device__ __forceinline__ void copy_async(shared_address to, const void* from, bool exists)
{
#ifdef FTREPL_EMULATED
    emulator::copy_async(to, from, exists);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(exists ? 16 : 0) : "memory");
#endif
}

__device__ __forceinline__ void copy_commit()
{
#ifdef FTREPL_EMULATED
    emulator::copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's copies but for those of the newest `newest` groups.
template <int newest> __device__ __forceinline__ void copy_wait()
{
#ifdef FTREPL_EMULATED
    emulator::copy_wait(newest);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
#endif
}

// The same number, of which the compiler forgets how it came about: what follows from it is computed again rather than kept in registers.
__device__ __forceinline__ unsigned forget(unsigned x)
{
#ifndef FTREPL_EMULATED
    asm volatile("" : "+r"(x));
#endif
    return x;
}

// 16 bytes from and to shared memory.
__device__ __forceinline__ uint4 load_shared(shared_address from)
{
#ifdef FTREPL_EMULATED
    emulator::check_shared(from, 16);
    return *reinterpret_cast<const uint4*>(from);
#else
    uint4 x;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(from) : "memory");
    return x;
#endif
}

__device__ __forceinline__ void store_shared(shared_address to, unsigned x)
{
#ifdef FTREPL_EMULATED
    emulator::check_shared(to, 4);
    *reinterpret_cast<unsigned*>(to) = x;
#else
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
#endif
}

#endif

// 2^x to about 2 units in the last place; results below the smallest normal number are zero.
__device__ __forceinline__ float exp2_fast(float x)
{
#ifdef FTREPL_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// With an error of 1e-7, not relative: enough where it is multiplied by a cap of some tens.
__device__ __forceinline__ float tanh_fast(float x)
{
#ifdef FTREPL_EMULATED
    return 1.0f - 2.0f / (1.0f + exp2f(x * (2.0f * LOG2_E)));
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0f + exp2_fast(x * (2.0f * LOG2_E))));
    return 1.0f - 2.0f * y;
#endif
}
