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
