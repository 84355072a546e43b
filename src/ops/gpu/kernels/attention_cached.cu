// Attention of new tokens to the cached keys and values of their sequences: o = softmax(scale q K^T) V over the keys that a token sees, for
// generation. Every sequence has a cache of its own, wherever it lies. The softmax is taken online (Milakov and Gimelshein 2018, arXiv
// 1805.02867): a warp takes every fourth key, and the four results are joined at the end.

// The widest head is 256: so many elements of it has a lane at most.
#define MOST_OF_LANE 8
#define WARPS 4

template <typename T>
__device__ __forceinline__ void attention_cached(const T* q, const unsigned long long* keys, const unsigned long long* values, const int* sequence,
                                                 const int* first, const int* end, T* o, int heads, int kv_heads, int head_dim, float scale,
                                                 float softcap)
{
    SHARED(float, maxima, WARPS);
    SHARED(float, sums, WARPS);
    SHARED(float, mixed, WARPS * 32 * MOST_OF_LANE);
    const int token = blockIdx.x, head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const long long stride = static_cast<long long>(kv_heads) * head_dim, at = static_cast<long long>(head / (heads / kv_heads)) * head_dim;
    const T* key = reinterpret_cast<const T*>(keys[sequence[token]]) + at;
    const T* value = reinterpret_cast<const T*>(values[sequence[token]]) + at;
    const long long place = (static_cast<long long>(token) * heads + head) * head_dim;
    float query[MOST_OF_LANE], sum_of_values[MOST_OF_LANE];
#pragma unroll
    for (int i = 0; i < MOST_OF_LANE; ++i) {
        const int d = i * 32 + lane;
        query[i] = d < head_dim ? to_f32(q[place + d]) * scale : 0.0f;
        sum_of_values[i] = 0.0f;
    }
    float max = LOWEST, sum = 0.0f;
    for (int j = first[token] + warp; j < end[token]; j += WARPS) {
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < MOST_OF_LANE; ++i) {
            const int d = i * 32 + lane;
            if (d < head_dim) score += query[i] * to_f32(key[j * stride + d]);
        }
        score = warp_sum(score);
        if (softcap > 0.0f) score = softcap * tanhf(score / softcap);
        const float larger = fmaxf(max, score), before = expf(max - larger), weight = expf(score - larger);
        sum = sum * before + weight;
        max = larger;
#pragma unroll
        for (int i = 0; i < MOST_OF_LANE; ++i) {
            const int d = i * 32 + lane;
            if (d < head_dim) sum_of_values[i] = sum_of_values[i] * before + weight * to_f32(value[j * stride + d]);
        }
    }
    if (lane == 0) {
        maxima[warp] = max;
        sums[warp] = sum;
    }
#pragma unroll
    for (int i = 0; i < MOST_OF_LANE; ++i) mixed[(warp * MOST_OF_LANE + i) * 32 + lane] = sum_of_values[i];
    __syncthreads();
    float largest = maxima[0];
    for (int other = 1; other < WARPS; ++other) largest = fmaxf(largest, maxima[other]);
    float total = 0.0f;
    for (int other = 0; other < WARPS; ++other) total += sums[other] * expf(maxima[other] - largest);
    for (int d = threadIdx.x; d < head_dim; d += 32 * WARPS) {
        float joined = 0.0f;
        for (int other = 0; other < WARPS; ++other) joined += mixed[other * MOST_OF_LANE * 32 + d] * expf(maxima[other] - largest);
        o[place + d] = from_f32<T>(joined / total);
    }
}

// launch: grid (tokens, heads), 128 threads. q, o [tokens, heads, head_dim]; of each token its sequence, and first <= j < end are the keys
// that it sees; keys, values: of each sequence the address of [cached, kv_heads, head_dim]. head_dim is at most 256.
#define ATTENTION_CACHED(T)                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                                        \
        attention_cached_##T(const T* q, const unsigned long long* keys, const unsigned long long* values, const int* sequence,              \
                             const int* first, const int* end, T* o, int heads, int kv_heads, int head_dim, float scale, float softcap)       \
    {                                                                                                                                        \
        attention_cached(q, keys, values, sequence, first, end, o, heads, kv_heads, head_dim, scale, softcap);                               \
    }
ATTENTION_CACHED(f32)
ATTENTION_CACHED(bf16)
ATTENTION_CACHED(f16)
