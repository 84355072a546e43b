// The activation of a decoder's inner layer, alone or as a gate on a second half: y = f(gate) up (Shazeer 2020, arXiv 2002.05202).
// Backward: d up = g f(gate), d gate = g up f'(gate).
//
//   kind 0: silu, x sigmoid(x)
//   kind 1: GELU's approximation by tanh (Hendrycks and Gimpel 2016, arXiv 1606.08415): x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))
//   kind 2: GELU, x times the normal distribution function
//   kind 3: relu

enum Activation { SILU = 0, GELU_TANH = 1, GELU = 2, RELU = 3 };

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The function's value and derivative. A derivative that nobody reads costs nothing: the compiler drops it.
__device__ __forceinline__ void activation(int kind, float x, float& value, float& derivative)
{
    constexpr float cube = 0.044715f, doubled_scale = 1.5957691216057308f;
    if (kind == SILU) {
        const float s = sigmoid(x);
        value = x * s;
        derivative = s * (1.0f + x * (1.0f - s));
    } else if (kind == GELU_TANH) {
        const float s = sigmoid(doubled_scale * (x + cube * x * x * x));
        value = x * s;
        derivative = s + x * s * (1.0f - s) * doubled_scale * (1.0f + 3.0f * cube * x * x);
    } else if (kind == GELU) {
        // By erfc, which keeps its digits where the distribution function is small.
        const float s = 0.5f * erfcf(-0.7071067811865476f * x);
        value = x * s;
        derivative = s + x * 0.3989422804014327f * expf(-0.5f * x * x);
    } else {
        value = x <= 0.0f ? 0.0f : x;
        derivative = x <= 0.0f ? 0.0f : 1.0f;
    }
}

// Element `at` of the two halves and of what belongs to them. dup and y may be null, and up for a plain activation.
template <typename T, int N> __device__ __forceinline__ void forward_at(const T* gate, const T* up, T* y, int kind)
{
    float gates[N], ups[N] = {};
    load<N>(gate, gates);
    if (up != nullptr) load<N>(up, ups);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        float value, derivative;
        activation(kind, gates[i], value, derivative);
        gates[i] = up != nullptr ? value * ups[i] : value;
    }
    store<N>(y, gates);
}

template <typename T, int N>
__device__ __forceinline__ void backward_at(const T* gate, const T* up, const T* g, T* dgate, T* dup, T* y, int kind)
{
    float gates[N], ups[N] = {}, gradients[N], values[N];
    load<N>(gate, gates);
    load<N>(g, gradients);
    if (up != nullptr) load<N>(up, ups);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        float derivative;
        activation(kind, gates[i], values[i], derivative);
        gates[i] = gradients[i] * derivative;
        if (up != nullptr) {
            gates[i] *= ups[i];
            ups[i] *= values[i];
            values[i] *= gradients[i];
        } else {
            ups[i] = values[i];
        }
    }
    store<N>(dgate, gates);
    if (dup != nullptr) store<N>(dup, values);
    if (y != nullptr) store<N>(y, ups);
}

// launch: any grid, 256 threads; a thread takes 8 elements at a time where bf16 or f16 is aligned, 4 for f32. y may be gate or up.
template <typename T> __device__ __forceinline__ void gated_forward(const T* gate, const T* up, T* y, long long n, int kind)
{
    constexpr int count = Lanes<T>::count;
    const long long wide = aligned(gate) && aligned(up) && aligned(y) ? n / count : 0;
    for (long long i = grid_start(); i < wide; i += grid_step()) {
        forward_at<T, count>(gate + i * count, up != nullptr ? up + i * count : nullptr, y + i * count, kind);
    }
    for (long long i = wide * count + grid_start(); i < n; i += grid_step()) {
        forward_at<T, 1>(gate + i, up != nullptr ? up + i : nullptr, y + i, kind);
    }
}

// launch: as gated_forward. y may be null; dup is null where up is.
template <typename T>
__device__ __forceinline__ void gated_backward(const T* gate, const T* up, const T* g, T* dgate, T* dup, T* y, long long n, int kind)
{
    constexpr int count = Lanes<T>::count;
    const bool both = up != nullptr, value = y != nullptr;
    const bool fits = aligned(gate) && aligned(up) && aligned(g) && aligned(dgate) && aligned(dup) && aligned(y);
    const long long wide = fits ? n / count : 0;
    for (long long i = grid_start(); i < wide; i += grid_step()) {
        const long long at = i * count;
        backward_at<T, count>(gate + at, both ? up + at : nullptr, g + at, dgate + at, both ? dup + at : nullptr, value ? y + at : nullptr, kind);
    }
    for (long long at = wide * count + grid_start(); at < n; at += grid_step()) {
        backward_at<T, 1>(gate + at, both ? up + at : nullptr, g + at, dgate + at, both ? dup + at : nullptr, value ? y + at : nullptr, kind);
    }
}

template <typename T, int N, typename F> __device__ __forceinline__ void over_rows(int rows, int width, F f)
{
    const unsigned per_row = width / N;
    const long long items = static_cast<long long>(rows) * per_row;
    for (long long i = grid_start(); i < items; i += grid_step()) {
        // Divisions of 64 bits are slow; the branch is the same for all threads.
        const long long row = items < (1ll << 31) ? static_cast<unsigned>(i) / per_row : i / per_row;
        const long long column = (i - row * per_row) * N;
        f(row * 2 * width + column, row * width + column);
    }
}

// launch: as gated_forward. joint [rows, 2 * width]: gate, then up; y [rows, width].
template <typename T> __device__ __forceinline__ void gated_joint_forward(const T* joint, T* y, int rows, int width, int kind)
{
    constexpr int count = Lanes<T>::count;
    if (width % count == 0 && aligned(joint) && aligned(y)) {
        over_rows<T, count>(rows, width, [&](long long in, long long out) { forward_at<T, count>(joint + in, joint + in + width, y + out, kind); });
    } else {
        over_rows<T, 1>(rows, width, [&](long long in, long long out) { forward_at<T, 1>(joint + in, joint + in + width, y + out, kind); });
    }
}

// launch: as gated_forward. djoint may be joint; y may be null.
template <typename T>
__device__ __forceinline__ void gated_joint_backward(const T* joint, const T* g, T* djoint, T* y, int rows, int width, int kind)
{
    constexpr int count = Lanes<T>::count;
    if (width % count == 0 && aligned(joint) && aligned(g) && aligned(djoint) && aligned(y)) {
        over_rows<T, count>(rows, width, [&](long long in, long long out) {
            backward_at<T, count>(joint + in, joint + in + width, g + out, djoint + in, djoint + in + width, y != nullptr ? y + out : nullptr, kind);
        });
    } else {
        over_rows<T, 1>(rows, width, [&](long long in, long long out) {
            backward_at<T, 1>(joint + in, joint + in + width, g + out, djoint + in, djoint + in + width, y != nullptr ? y + out : nullptr, kind);
        });
    }
}

#define GATED(T)                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) gated_forward_##T(const T* gate, const T* up, T* y, long long n, int kind)             \
    {                                                                                                                                        \
        gated_forward(gate, up, y, n, kind);                                                                                                 \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) gated_backward_##T(const T* gate, const T* up, const T* g, T* dgate, T* dup, T* y,     \
                                                                         long long n, int kind)                                              \
    {                                                                                                                                        \
        gated_backward(gate, up, g, dgate, dup, y, n, kind);                                                                                 \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) gated_joint_forward_##T(const T* joint, T* y, int rows, int width, int kind)           \
    {                                                                                                                                        \
        gated_joint_forward(joint, y, rows, width, kind);                                                                                    \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) gated_joint_backward_##T(const T* joint, const T* g, T* djoint, T* y, int rows,        \
                                                                               int width, int kind)                                          \
    {                                                                                                                                        \
        gated_joint_backward(joint, g, djoint, y, rows, width, kind);                                                                        \
    }
GATED(f32)
GATED(bf16)
GATED(f16)
