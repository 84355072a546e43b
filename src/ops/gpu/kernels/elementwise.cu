// What a training step needs beside matrix products, norms and attention: sums, biases, embeddings, dropout.

// launch: any grid, 256 threads; a thread takes 8 elements at a time where bf16 or f16 is aligned, 4 for f32. to += factor * other.
template <typename T> __device__ __forceinline__ void add_to(T* to, const T* other, long long n, float factor)
{
    constexpr int count = Lanes<T>::count;
    const long long wide = aligned(to) && aligned(other) ? n / count : 0;
    for (long long i = grid_start(); i < wide; i += grid_step()) {
        float sums[count], others[count];
        load<count>(static_cast<const T*>(to) + i * count, sums);
        load<count>(other + i * count, others);
#pragma unroll
        for (int j = 0; j < count; ++j) sums[j] += factor * others[j];
        store<count>(to + i * count, sums);
    }
    for (long long i = wide * count + grid_start(); i < n; i += grid_step()) to[i] = from_f32<T>(to_f32(to[i]) + factor * to_f32(other[i]));
}

// launch: grid tokens, 256 threads (fewer for narrow rows). weight [vocab, width]; out [tokens, width].
template <typename T> __device__ __forceinline__ void embedding_forward(const T* weight, const int* ids, T* out, int tokens, int width)
{
    constexpr int count = Lanes<T>::count;
    for (long long token = blockIdx.x; token < tokens; token += gridDim.x) {
        const T* from = weight + static_cast<long long>(ids[token]) * width;
        T* to = out + token * width;
        const int wide = aligned(from) && aligned(to) ? width / count : 0;
        for (int i = threadIdx.x; i < wide; i += blockDim.x) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
        for (int i = wide * count + threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
    }
}

// launch: grid (distinct, any: ceil(width / 256) is best), 256 threads. order: indices of tokens, sorted by id; those of the distinct id d are
// order[starts[d]..starts[d + 1]]. A block sums the rows of one id in the order of its tokens, so the result never depends on chance.
template <typename T>
__device__ __forceinline__ void embedding_gradient(const T* g, const int* order, const int* starts, const int* ids, T* dw, int width)
{
    const int first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    dw += static_cast<long long>(ids[blockIdx.x]) * width;
    for (int c = blockIdx.y * blockDim.x + threadIdx.x; c < width; c += gridDim.y * blockDim.x) {
        float sum = 0.0f;
#pragma unroll 4
        for (int i = first; i < end; ++i) sum += to_f32(g[static_cast<long long>(order[i]) * width + c]);
        dw[c] = from_f32<T>(to_f32(dw[c]) + sum);
    }
}

// launch: grid ceil(width / 32), threads (32, 8). A block has 32 columns and all rows: the order of the sum never changes.
template <typename T> __device__ __forceinline__ void column_sums(const T* g, float* out, int rows, int width, float factor)
{
    SHARED(float, sums, 8 * 32);
    const int lane = threadIdx.x, group = threadIdx.y, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (int row = group; row < rows; row += 8) sum += to_f32(g[static_cast<long long>(row) * width + column]);
    }
    sums[group * 32 + lane] = sum;
    __syncthreads();
    if (group != 0 || column >= width) return;
    for (int other = 1; other < 8; ++other) sum += sums[other * 32 + lane];
    out[column] = factor * sum;
}

// launch: grid any, 256 threads, a row is a block's. y[r, c] += factor * bias[c].
template <typename T> __device__ __forceinline__ void add_rows(T* y, const float* bias, int rows, int width, float factor)
{
    constexpr int count = Lanes<T>::count;
    const int wide = width % count == 0 && aligned(y) && aligned(bias) ? width / count * count : 0;
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        T* to = y + row * width;
        for (int c = threadIdx.x * count; c < wide; c += blockDim.x * count) {
            float values[count], biases[count];
            load<count>(static_cast<const T*>(to) + c, values);
            load<count>(bias + c, biases);
#pragma unroll
            for (int j = 0; j < count; ++j) values[j] += factor * biases[j];
            store<count>(to + c, values);
        }
        for (int c = wide + threadIdx.x; c < width; c += blockDim.x) to[c] = from_f32<T>(to_f32(to[c]) + factor * bias[c]);
    }
}

// Four random words for a counter and a key: Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
__device__ __forceinline__ uint4 philox(unsigned long long counter, unsigned long long key)
{
    unsigned key0 = static_cast<unsigned>(key), key1 = static_cast<unsigned>(key >> 32);
    uint4 words{static_cast<unsigned>(counter), static_cast<unsigned>(counter >> 32), 0u, 0u};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long first = 0xd2511f53ull * words.x, second = 0xcd9e8d57ull * words.z;
        words = uint4{static_cast<unsigned>(second >> 32) ^ words.y ^ key0, static_cast<unsigned>(second),
                      static_cast<unsigned>(first >> 32) ^ words.w ^ key1, static_cast<unsigned>(first)};
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    return words;
}

// launch: any grid, 256 threads (a thread takes 4 elements at a time). y = keep ? x / (1 - p) : 0. Element i is decided by word
// (offset + i) % 4 of the counter (offset + i) / 4: the same numbers give the same mask again in the backward pass. y may be x.
template <typename T>
__device__ __forceinline__ void dropout(const T* x, T* y, long long n, unsigned long long seed, unsigned long long offset, float probability)
{
    const float scale = 1.0f / (1.0f - probability);
    const unsigned long long first = offset / 4, last = (offset + static_cast<unsigned long long>(n) + 3) / 4;
    for (unsigned long long i = grid_start(); i < last - first; i += grid_step()) {
        const unsigned long long counter = first + i;
        const uint4 random = philox(counter, seed);
        const unsigned words[4] = {random.x, random.y, random.z, random.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const long long at = static_cast<long long>(counter * 4 + j - offset);
            if (at < 0 || at >= n) continue;
            // 24 bits are a number in [0, 1) that f32 holds exactly.
            const bool keep = static_cast<float>(words[j] >> 8) * 0x1p-24f >= probability;
            y[at] = from_f32<T>(keep ? to_f32(x[at]) * scale : 0.0f);
        }
    }
}

#define ELEMENTWISE(T)                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) add_to_##T(T* to, const T* other, long long n, float factor)                           \
    {                                                                                                                                        \
        add_to(to, other, n, factor);                                                                                                        \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) embedding_forward_##T(const T* weight, const int* ids, T* out, int tokens, int width)  \
    {                                                                                                                                        \
        embedding_forward(weight, ids, out, tokens, width);                                                                                  \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) embedding_gradient_##T(const T* g, const int* order, const int* starts,                \
                                                                             const int* ids, T* dw, int distinct, int width)                 \
    {                                                                                                                                        \
        if (static_cast<int>(blockIdx.x) < distinct) embedding_gradient(g, order, starts, ids, dw, width);                                   \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) column_sums_##T(const T* g, float* out, int rows, int width, float factor)             \
    {                                                                                                                                        \
        column_sums(g, out, rows, width, factor);                                                                                            \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) add_rows_##T(T* y, const float* bias, int rows, int width, float factor)               \
    {                                                                                                                                        \
        add_rows(y, bias, rows, width, factor);                                                                                              \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) dropout_##T(const T* x, T* y, long long n, unsigned long long seed,                    \
                                                                  unsigned long long offset, float probability)                              \
    {                                                                                                                                        \
        dropout(x, y, n, seed, offset, probability);                                                                                         \
    }
ELEMENTWISE(f32)
ELEMENTWISE(bf16)
ELEMENTWISE(f16)
