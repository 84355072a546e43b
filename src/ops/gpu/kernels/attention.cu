// Causal attention over sequences laid end to end, for every type and head width up to 256: scores live a tile at a time, and backward
// computes them again from the saved log-sum-exp (Dao et al. 2022, arXiv 2205.14135). Token i sees the keys first[i]..=i.
//
// With S = scale Q K^T (with a soft cap: cap tanh(S / cap)), P = softmax(S), O = P V and D = rowsum(dO * O): dV = P^T dO,
// dS = P (dO V^T - D) (times 1 - (S / cap)^2), dQ = scale dS K, dK = scale dS^T Q.
//
// Several neighbouring threads own a row and hold every so many'th group of four of its elements in registers: 32 elements a thread at
// most. Rows of the other side pass through shared memory, in f32, and are read by all rows of a warp at once. Everything is f32.

struct AttentionSizes {
    int tokens, heads, kv_heads, head_dim, q_stride, k_stride, v_stride, o_stride;
    float scale, softcap;
};

// Rows of the other side that are in shared memory at once.
static constexpr int TILE = 32;
// Rows that a block owns.
static constexpr int ROWS = 64;

// How a block of 256 threads shares the rows: D is head_dim rounded up.
template <int D> struct Split {
    // Threads that share a row.
    static constexpr int threads = D <= 128 ? 4 : 8;
    // Elements of a row that a thread has.
    static constexpr int count = D / threads;
    // Rows that a block owns at a time.
    static constexpr int rows = 256 / threads;
};

// The place in the row of the group of four elements with this index.
template <int D> __device__ __forceinline__ int element(int part, int group) { return (group * Split<D>::threads + part) * 4; }

// The thread's part of a row; zeros beyond head_dim.
template <int D, typename T> __device__ __forceinline__ void load_part(const T* row, bool exists, int part, int head_dim, float (&out)[Split<D>::count])
{
#pragma unroll
    for (int group = 0; group < Split<D>::count / 4; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = element<D>(part, group) + i;
            out[group * 4 + i] = exists && at < head_dim ? to_f32(row[at]) : 0.0f;
        }
    }
}

template <int D, typename T> __device__ __forceinline__ void store_part(T* row, int part, int head_dim, float factor, const float (&in)[Split<D>::count])
{
#pragma unroll
    for (int group = 0; group < Split<D>::count / 4; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = element<D>(part, group) + i;
            if (at < head_dim) row[at] = from_f32<T>(in[group * 4 + i] * factor);
        }
    }
}

// Brings TILE rows from `first` on into shared memory [TILE, D]; zeros beyond head_dim and beyond the tokens.
template <int D, typename T> __device__ __forceinline__ void load_tile(const T* from, long long stride, int first, int tokens, int head_dim, float* tile)
{
    constexpr int count = Lanes<T>::count;
    if (head_dim % count == 0 && stride % count == 0 && aligned(from)) {
        for (int i = threadIdx.x; i < TILE * (D / count); i += 256) {
            const int row = i / (D / count), at = i % (D / count) * count;
            float values[count];
            if (first + row < tokens && at < head_dim) {
                load<count>(from + (first + row) * stride + at, values);
            } else {
#pragma unroll
                for (int j = 0; j < count; ++j) values[j] = 0.0f;
            }
            store<count>(tile + row * D + at, values);
        }
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < TILE * D; i += 256) {
            const int row = i / D, at = i % D;
            tile[i] = first + row < tokens && at < head_dim ? to_f32(from[(first + row) * stride + at]) : 0.0f;
        }
    }
}

// The thread's part of the product of its row with a row in shared memory.
template <int D> __device__ __forceinline__ float dot_part(const float (&mine)[Split<D>::count], const float* row, int part)
{
    float sum = 0.0f;
#pragma unroll
    for (int group = 0; group < Split<D>::count / 4; ++group) {
        const float4 other = *reinterpret_cast<const float4*>(row + element<D>(part, group));
        sum += mine[group * 4] * other.x;
        sum += mine[group * 4 + 1] * other.y;
        sum += mine[group * 4 + 2] * other.z;
        sum += mine[group * 4 + 3] * other.w;
    }
    return sum;
}

// to += factor * row, for the thread's part.
template <int D> __device__ __forceinline__ void add_part(float (&to)[Split<D>::count], float factor, const float* row, int part)
{
#pragma unroll
    for (int group = 0; group < Split<D>::count / 4; ++group) {
        const float4 other = *reinterpret_cast<const float4*>(row + element<D>(part, group));
        to[group * 4] += factor * other.x;
        to[group * 4 + 1] += factor * other.y;
        to[group * 4 + 2] += factor * other.z;
        to[group * 4 + 3] += factor * other.w;
    }
}

// The sum over the threads that share a row, in each of them.
template <int D> __device__ __forceinline__ float row_sum(float x)
{
#pragma unroll
    for (int distance = Split<D>::threads / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

// A score from a product, in powers of two; `slope` is what the cap multiplies its derivative by.
__device__ __forceinline__ float score(float product, float scale, float softcap, float& slope)
{
    if (softcap > 0.0f) {
        const float bent = tanhf(product * scale / softcap);
        slope = 1.0f - bent * bent;
        return softcap * LOG2_E * bent;
    }
    slope = 1.0f;
    return product * (scale * LOG2_E);
}

template <int D, typename T>
__device__ __forceinline__ void forward_blocks(const T* q, const T* k, const T* v, T* o, float* lse, const int* first, const AttentionSizes& z)
{
    DYNAMIC_SHARED(float, keys);
    float* const values = keys + TILE * D;
    // Keys whose scores are taken together: one rescaling of the sums for all of them.
    constexpr int step = 4;
    const int head = blockIdx.y, kv_head = head / (z.heads / z.kv_heads);
    const int part = threadIdx.x % Split<D>::threads, row = threadIdx.x / Split<D>::threads;
    k += kv_head * z.head_dim;
    v += kv_head * z.head_dim;
    for (int block = blockIdx.x * ROWS; block < min(static_cast<int>(blockIdx.x) * ROWS + ROWS, z.tokens); block += Split<D>::rows) {
        const int query = block + row;
        const bool exists = query < z.tokens;
        float mine[Split<D>::count], sums[Split<D>::count];
        load_part<D>(q + static_cast<long long>(query) * z.q_stride + head * z.head_dim, exists, part, z.head_dim, mine);
#pragma unroll
        for (int i = 0; i < Split<D>::count; ++i) sums[i] = 0.0f;
        float max = LOWEST, total = 0.0f;
        // A query beyond the tokens sees no key.
        const int from = exists ? first[query] : z.tokens, last_query = min(block + Split<D>::rows, z.tokens) - 1;
        for (int tile = first[block]; tile <= last_query; tile += TILE) {
            __syncthreads();
            load_tile<D>(k, z.k_stride, tile, z.tokens, z.head_dim, keys);
            load_tile<D>(v, z.v_stride, tile, z.tokens, z.head_dim, values);
            __syncthreads();
#pragma unroll 1
            for (int at = 0; at < TILE && tile + at <= last_query; at += step) {
                float scores[step], highest = max, slope;
#pragma unroll
                for (int i = 0; i < step; ++i) {
                    const int key = tile + at + i;
                    const float product = row_sum<D>(dot_part<D>(mine, keys + (at + i) * D, part));
                    scores[i] = key >= from && key <= query ? score(product, z.scale, z.softcap, slope) : -INFINITE;
                    highest = fmaxf(highest, scores[i]);
                }
                const float shrink = exp2f(max - highest);
                max = highest;
                total *= shrink;
#pragma unroll
                for (int i = 0; i < Split<D>::count; ++i) sums[i] *= shrink;
#pragma unroll
                for (int i = 0; i < step; ++i) {
                    const float p = exp2f(scores[i] - max);
                    total += p;
                    add_part<D>(sums, p, values + (at + i) * D, part);
                }
            }
        }
        if (exists) {
            store_part<D>(o + static_cast<long long>(query) * z.o_stride + head * z.head_dim, part, z.head_dim, 1.0f / total, sums);
            if (part == 0) lse[static_cast<long long>(head) * z.tokens + query] = (max + log2f(total)) * LN_2;
        }
    }
}

template <int D, typename T>
__device__ __forceinline__ void queries_blocks(const T* q, const T* k, const T* v, const T* go, const float* lse, const float* delta, const int* first, T* dq,
                                               int dq_stride, const AttentionSizes& z)
{
    DYNAMIC_SHARED(float, keys);
    float* const values = keys + TILE * D;
    const int head = blockIdx.y, kv_head = head / (z.heads / z.kv_heads);
    const int part = threadIdx.x % Split<D>::threads, row = threadIdx.x / Split<D>::threads;
    k += kv_head * z.head_dim;
    v += kv_head * z.head_dim;
    for (int block = blockIdx.x * ROWS; block < min(static_cast<int>(blockIdx.x) * ROWS + ROWS, z.tokens); block += Split<D>::rows) {
        const int query = block + row;
        const bool exists = query < z.tokens;
        float mine[Split<D>::count], gradient[Split<D>::count], sums[Split<D>::count];
        load_part<D>(q + static_cast<long long>(query) * z.q_stride + head * z.head_dim, exists, part, z.head_dim, mine);
        load_part<D>(go + static_cast<long long>(query) * z.o_stride + head * z.head_dim, exists, part, z.head_dim, gradient);
#pragma unroll
        for (int i = 0; i < Split<D>::count; ++i) sums[i] = 0.0f;
        const long long at_query = static_cast<long long>(head) * z.tokens + query;
        const float log_sum = exists ? lse[at_query] * LOG2_E : 0.0f, minus = exists ? delta[at_query] : 0.0f;
        const int from = exists ? first[query] : z.tokens, last_query = min(block + Split<D>::rows, z.tokens) - 1;
        for (int tile = first[block]; tile <= last_query; tile += TILE) {
            __syncthreads();
            load_tile<D>(k, z.k_stride, tile, z.tokens, z.head_dim, keys);
            load_tile<D>(v, z.v_stride, tile, z.tokens, z.head_dim, values);
            __syncthreads();
#pragma unroll 2
            for (int at = 0; at < min(TILE, last_query - tile + 1); ++at) {
                const int key = tile + at;
                const float product = row_sum<D>(dot_part<D>(mine, keys + at * D, part));
                const float weight_gradient = row_sum<D>(dot_part<D>(gradient, values + at * D, part));
                float slope;
                const float bent = score(product, z.scale, z.softcap, slope);
                const float p = key >= from && key <= query ? exp2f(bent - log_sum) : 0.0f;
                add_part<D>(sums, p * (weight_gradient - minus) * slope, keys + at * D, part);
            }
        }
        if (exists) store_part<D>(dq + static_cast<long long>(query) * dq_stride + head * z.head_dim, part, z.head_dim, z.scale, sums);
    }
}

template <int D, typename T>
__device__ __forceinline__ void keys_blocks(const T* q, const T* k, const T* v, const T* go, const float* lse, const float* delta, const int* first,
                                            const int* last, T* dk, T* dv, int dk_stride, int dv_stride, const AttentionSizes& z)
{
    DYNAMIC_SHARED(float, queries);
    float* const gradients = queries + TILE * D;
    SHARED(float, log_sums, TILE);
    SHARED(float, deltas, TILE);
    SHARED(int, firsts, TILE);
    const int kv_head = blockIdx.y, group = z.heads / z.kv_heads;
    const int part = threadIdx.x % Split<D>::threads, row = threadIdx.x / Split<D>::threads;
    for (int block = blockIdx.x * ROWS; block < min(static_cast<int>(blockIdx.x) * ROWS + ROWS, z.tokens); block += Split<D>::rows) {
        const int key = block + row;
        const bool exists = key < z.tokens;
        float mine[Split<D>::count], value[Split<D>::count], key_sums[Split<D>::count], value_sums[Split<D>::count];
        load_part<D>(k + static_cast<long long>(key) * z.k_stride + kv_head * z.head_dim, exists, part, z.head_dim, mine);
        load_part<D>(v + static_cast<long long>(key) * z.v_stride + kv_head * z.head_dim, exists, part, z.head_dim, value);
#pragma unroll
        for (int i = 0; i < Split<D>::count; ++i) key_sums[i] = value_sums[i] = 0.0f;
        // The last query that sees a key never lies before that of an earlier key.
        const int last_query = last[min(block + Split<D>::rows, z.tokens) - 1];
        for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            for (int tile = block; tile <= last_query; tile += TILE) {
                __syncthreads();
                load_tile<D>(q + head * z.head_dim, z.q_stride, tile, z.tokens, z.head_dim, queries);
                load_tile<D>(go + head * z.head_dim, z.o_stride, tile, z.tokens, z.head_dim, gradients);
                if (threadIdx.x < TILE) {
                    const int query = tile + threadIdx.x;
                    const long long at = static_cast<long long>(head) * z.tokens + query;
                    log_sums[threadIdx.x] = query < z.tokens ? lse[at] * LOG2_E : 0.0f;
                    deltas[threadIdx.x] = query < z.tokens ? delta[at] : 0.0f;
                    firsts[threadIdx.x] = query < z.tokens ? first[query] : z.tokens;
                }
                __syncthreads();
#pragma unroll 2
                for (int at = 0; at < min(TILE, last_query - tile + 1); ++at) {
                    const int query = tile + at;
                    const float product = row_sum<D>(dot_part<D>(mine, queries + at * D, part));
                    const float weight_gradient = row_sum<D>(dot_part<D>(value, gradients + at * D, part));
                    float slope;
                    const float bent = score(product, z.scale, z.softcap, slope);
                    const float p = key >= firsts[at] && key <= query ? exp2f(bent - log_sums[at]) : 0.0f;
                    add_part<D>(value_sums, p, gradients + at * D, part);
                    add_part<D>(key_sums, p * (weight_gradient - deltas[at]) * slope, queries + at * D, part);
                }
            }
        }
        if (exists) {
            store_part<D>(dk + static_cast<long long>(key) * dk_stride + kv_head * z.head_dim, part, z.head_dim, z.scale, key_sums);
            store_part<D>(dv + static_cast<long long>(key) * dv_stride + kv_head * z.head_dim, part, z.head_dim, 1.0f, value_sums);
        }
    }
}

// launch: any grid, 256 threads; a warp takes a head of a token. delta [heads, tokens]: the sum of o * go.
template <typename T> __device__ __forceinline__ void attention_delta(const T* o, const T* go, float* delta, int tokens, int heads, int head_dim, int o_stride)
{
    const int lane = threadIdx.x % 32;
    const long long all = static_cast<long long>(tokens) * heads, step = grid_step() / 32;
    for (long long i = grid_start() / 32; i < all; i += step) {
        const long long token = i / heads, head = i % heads, at = token * o_stride + head * head_dim;
        float sum = 0.0f;
        for (int c = lane; c < head_dim; c += 32) sum += to_f32(o[at + c]) * to_f32(go[at + c]);
        sum = warp_sum(sum);
        if (lane == 0) delta[head * tokens + token] = sum;
    }
}

// Calls f<D> with D the head's width rounded up to 32, 64, 128 or 256.
#define BY_WIDTH(f, ...)                  \
    if (head_dim <= 32) {                 \
        f<32>(__VA_ARGS__);               \
    } else if (head_dim <= 64) {          \
        f<64>(__VA_ARGS__);               \
    } else if (head_dim <= 128) {         \
        f<128>(__VA_ARGS__);              \
    } else {                              \
        f<256>(__VA_ARGS__);              \
    }

// shared: 256 * D bytes, D = head_dim rounded up to 32, 64, 128 or 256 (64 KiB at most): two tiles [32, D] of f32.
//
// launch: attention_forward, attention_backward_queries: grid (ceil(tokens / 64), heads), 256 threads;
//         attention_backward_keys: grid (ceil(tokens / 64), kv_heads), 256 threads; all with the shared memory above.
// lse, delta [heads, tokens]; first, last [tokens]: the first key that a token sees, the last token that sees a key. Gradients of the output
// are laid out as the output (o_stride).
#define ATTENTION(T)                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                                                       \
        attention_forward_##T(const T* q, const T* k, const T* v, T* o, float* lse, const int* first, int tokens, int heads, int kv_heads,   \
                              int head_dim, int q_stride, int k_stride, int v_stride, int o_stride, float scale, float softcap)              \
    {                                                                                                                                        \
        const AttentionSizes sizes{tokens, heads, kv_heads, head_dim, q_stride, k_stride, v_stride, o_stride, scale, softcap};               \
        BY_WIDTH(forward_blocks, q, k, v, o, lse, first, sizes)                                                                              \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                                        \
        attention_delta_##T(const T* o, const T* go, float* delta, int tokens, int heads, int head_dim, int o_stride)                        \
    {                                                                                                                                        \
        attention_delta(o, go, delta, tokens, heads, head_dim, o_stride);                                                                    \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                                        \
        attention_backward_queries_##T(const T* q, const T* k, const T* v, const T* go, const float* lse, const float* delta,                \
                                       const int* first, T* dq, int tokens, int heads, int kv_heads, int head_dim, int q_stride,             \
                                       int k_stride, int v_stride, int o_stride, int dq_stride, float scale, float softcap)                  \
    {                                                                                                                                        \
        const AttentionSizes sizes{tokens, heads, kv_heads, head_dim, q_stride, k_stride, v_stride, o_stride, scale, softcap};               \
        BY_WIDTH(queries_blocks, q, k, v, go, lse, delta, first, dq, dq_stride, sizes)                                                       \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                                        \
        attention_backward_keys_##T(const T* q, const T* k, const T* v, const T* go, const float* lse, const float* delta, const int* first, \
                                    const int* last, T* dk, T* dv, int tokens, int heads, int kv_heads, int head_dim, int q_stride,          \
                                    int k_stride, int v_stride, int o_stride, int dk_stride, int dv_stride, float scale, float softcap)      \
    {                                                                                                                                        \
        const AttentionSizes sizes{tokens, heads, kv_heads, head_dim, q_stride, k_stride, v_stride, o_stride, scale, softcap};               \
        BY_WIDTH(keys_blocks, q, k, v, go, lse, delta, first, last, dk, dv, dk_stride, dv_stride, sizes)                                     \
    }

// Compiling all takes NVRTC a dozen seconds: who knows the types that will be used leaves out the others, by -DWITHOUT_F16 and the like.
#ifndef WITHOUT_F32
ATTENTION(f32)
#endif
#ifndef WITHOUT_BF16
ATTENTION(bf16)
#endif
#ifndef WITHOUT_F16
ATTENTION(f16)
#endif
