// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the half-split form of Hugging Face checkpoints: with (a, b) the two
// halves of the part of a head that is turned, (a cos - b sin, b cos + a sin). Backward is the rotation by the negative angle: sign -1.

template <typename T, int N, typename Index>
__device__ __forceinline__ void rope_items(const T* x, const float* cosines, const float* sines, T* y, long long items, int heads, int head_dim, int half, float sign)
{
    // N pairs, or N elements beyond the turned part, are an item.
    const Index turned = half / N, per_head = turned + (head_dim - 2 * half) / N;
    for (long long i = grid_start(); i < items; i += grid_step()) {
        const Index item = static_cast<Index>(i), head = item / per_head, in_head = item - head * per_head;
        const Index token = head / static_cast<Index>(heads);
        const long long base = static_cast<long long>(head) * head_dim;
        if (in_head < turned) {
            const int pair = static_cast<int>(in_head) * N;
            const long long angle = static_cast<long long>(token) * half + pair;
            float a[N], b[N], c[N], s[N];
            load<N>(x + base + pair, a);
            load<N>(x + base + half + pair, b);
            load<N>(cosines + angle, c);
            load<N>(sines + angle, s);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float first = a[j] * c[j] - b[j] * s[j] * sign;
                b[j] = b[j] * c[j] + a[j] * s[j] * sign;
                a[j] = first;
            }
            store<N>(y + base + pair, a);
            store<N>(y + base + half + pair, b);
        } else {
            const long long at = base + 2 * half + static_cast<long long>(in_head - turned) * N;
            float rest[N];
            load<N>(x + at, rest);
            store<N>(y + at, rest);
        }
    }
}

// launch: any grid (an item is a thread's: tokens * heads * (head_dim - half), by 8 where bf16 or f16 is aligned, by 4 for f32), 256 threads.
// x, y [tokens, heads * head_dim], may be the same; cosines, sines [tokens, half].
template <typename T>
__device__ __forceinline__ void rope(const T* x, const float* cosines, const float* sines, T* y, int tokens, int heads, int head_dim, int half, float sign)
{
    constexpr int count = Lanes<T>::count;
    const bool wide = half % count == 0 && head_dim % count == 0 && aligned(x) && aligned(y) && aligned(cosines) && aligned(sines);
    const long long items = static_cast<long long>(tokens) * heads * ((head_dim - half) / (wide ? count : 1));
    // Divisions of 64 bits are slow, and hardly any batch needs them.
    const bool small = items < (1ll << 31);
    if (wide && small) {
        rope_items<T, count, unsigned>(x, cosines, sines, y, items, heads, head_dim, half, sign);
    } else if (wide) {
        rope_items<T, count, unsigned long long>(x, cosines, sines, y, items, heads, head_dim, half, sign);
    } else {
        rope_items<T, 1, unsigned long long>(x, cosines, sines, y, items, heads, head_dim, half, sign);
    }
}

#define ROPE(T)                                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) rope_##T(const T* x, const float* cosines, const float* sines, T* y, int tokens,       \
                                                               int heads, int head_dim, int half, float sign)                                \
    {                                                                                                                                        \
        rope(x, cosines, sines, y, tokens, heads, head_dim, half, sign);                                                                     \
    }
ROPE(f32)
ROPE(bf16)
ROPE(f16)
