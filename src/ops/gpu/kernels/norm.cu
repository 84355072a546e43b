// Normalisation of rows: RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467) and layer norm (Ba et al. 2016, arXiv 1607.06450).
//
//   kind 0: y = w n, n = x r, r = 1 / sqrt(mean(x^2) + eps); n and w are rounded to the type of x before they are multiplied, as
//           transformers' LlamaRMSNorm does.
//   kind 1: y = (1 + w) n in f32, as Gemma's.
//   kind 2: y = w n + b, n = (x - mean) r, r = 1 / sqrt(mean((x - mean)^2) + eps), in f32, as torch.nn.LayerNorm.
//
// Backward, with h = g w (kind 1: g (1 + w)): dx = r (h - n mean(h n)), for layer norm r (h - mean(h) - n mean(h n));
// dw = sum over rows of g n, db = sum over rows of g.

enum NormKind { RMS = 0, RMS_PLUS_ONE = 1, LAYER = 2 };

// The factor of the normalised value.
template <typename T> __device__ __forceinline__ float norm_weight(float w, int kind)
{
    return kind == RMS ? rounded<T>(w) : kind == RMS_PLUS_ONE ? 1.0f + w : w;
}

template <typename T, int N>
__device__ __forceinline__ void norm_forward_rows(const T* x, const float* w, const float* b, T* y, float* stats, int width, float eps, int kind)
{
    const long long row = blockIdx.x;
    x += row * width;
    y += row * width;
    const int first = threadIdx.x * N, step = blockDim.x * N;

    float mean = 0.0f;
    if (kind == LAYER) {
        float sum = 0.0f;
        for (int c = first; c < width; c += step) {
            float values[N];
            load<N>(x + c, values);
#pragma unroll
            for (int i = 0; i < N; ++i) sum += values[i];
        }
        mean = block_sum(sum) / width;
    }
    // The variance from differences to the mean: the difference of E[x^2] and E[x]^2 loses digits where the mean is large.
    float sum = 0.0f;
    for (int c = first; c < width; c += step) {
        float values[N];
        load<N>(x + c, values);
#pragma unroll
        for (int i = 0; i < N; ++i) sum += (values[i] - mean) * (values[i] - mean);
    }
    const float reciprocal = 1.0f / sqrtf(block_sum(sum) / width + eps);
    if (threadIdx.x == 0) {
        stats[2 * row] = mean;
        stats[2 * row + 1] = reciprocal;
    }
    for (int c = first; c < width; c += step) {
        float values[N], weights[N];
        load<N>(x + c, values);
        load<N>(w + c, weights);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float n = (values[i] - mean) * reciprocal, weight = norm_weight<T>(weights[i], kind);
            if (kind == RMS) {
                values[i] = rounded<T>(n) * weight;
            } else if (kind == RMS_PLUS_ONE) {
                values[i] = n * weight;
            } else {
                values[i] = n * weight + b[c + i];
            }
        }
        store<N>(y + c, values);
    }
}

// launch: grid rows, 256 threads. w [width], b [width] (null unless layer norm), stats [rows, 2]: mean (0 unless layer norm), reciprocal.
template <typename T>
__device__ __forceinline__ void norm_forward(const T* x, const float* w, const float* b, T* y, float* stats, int width, float eps, int kind)
{
    constexpr int count = Lanes<T>::count;
    if (width % count == 0 && aligned(x) && aligned(y) && aligned(w)) {
        norm_forward_rows<T, count>(x, w, b, y, stats, width, eps, kind);
    } else {
        norm_forward_rows<T, 1>(x, w, b, y, stats, width, eps, kind);
    }
}

template <typename T, int N>
__device__ __forceinline__ void norm_backward_rows(const T* x, const float* w, const T* g, const float* stats, const T* residual, T* dx, int width, int kind)
{
    const long long row = blockIdx.x;
    x += row * width;
    g += row * width;
    dx += row * width;
    if (residual != nullptr) residual += row * width;
    const float mean = stats[2 * row], reciprocal = stats[2 * row + 1];
    const int first = threadIdx.x * N, step = blockDim.x * N;

    float sum = 0.0f, sum_n = 0.0f;
    for (int c = first; c < width; c += step) {
        float values[N], weights[N], gradients[N];
        load<N>(x + c, values);
        load<N>(w + c, weights);
        load<N>(g + c, gradients);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float h = gradients[i] * norm_weight<T>(weights[i], kind);
            sum += h;
            sum_n += h * ((values[i] - mean) * reciprocal);
        }
    }
    const float mean_h = kind == LAYER ? block_sum(sum) / width : 0.0f;
    const float mean_hn = block_sum(sum_n) / width;
    for (int c = first; c < width; c += step) {
        float values[N], weights[N], gradients[N], others[N];
        load<N>(x + c, values);
        load<N>(w + c, weights);
        load<N>(g + c, gradients);
        if (residual != nullptr) load<N>(residual + c, others);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float n = (values[i] - mean) * reciprocal, h = gradients[i] * norm_weight<T>(weights[i], kind);
            const float gradient = reciprocal * (h - mean_h - n * mean_hn);
            values[i] = residual != nullptr ? others[i] + gradient : gradient;
        }
        store<N>(dx + c, values);
    }
}

// launch: grid rows, 256 threads. dx may be g or residual.
template <typename T>
__device__ __forceinline__ void norm_backward(const T* x, const float* w, const T* g, const float* stats, const T* residual, T* dx, int width, int kind)
{
    constexpr int count = Lanes<T>::count;
    if (width % count == 0 && aligned(x) && aligned(w) && aligned(g) && aligned(residual) && aligned(dx)) {
        norm_backward_rows<T, count>(x, w, g, stats, residual, dx, width, kind);
    } else {
        norm_backward_rows<T, 1>(x, w, g, stats, residual, dx, width, kind);
    }
}

// launch: grid ceil(width / 32), threads (32, 8). A block has 32 columns and all rows, so that the order of the sum never changes.
template <typename T>
__device__ __forceinline__ void norm_scale_gradient(const T* x, const T* g, const float* stats, float* dw, float* db, int rows, int width)
{
    SHARED(float, weights, 8 * 32);
    SHARED(float, biases, 8 * 32);
    const int lane = threadIdx.x, group = threadIdx.y, column = blockIdx.x * 32 + lane;
    float weight = 0.0f, bias = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (int row = group; row < rows; row += 8) {
            const long long at = static_cast<long long>(row) * width + column;
            const float gradient = to_f32(g[at]);
            weight += gradient * ((to_f32(x[at]) - stats[2ll * row]) * stats[2ll * row + 1]);
            bias += gradient;
        }
    }
    weights[group * 32 + lane] = weight;
    biases[group * 32 + lane] = bias;
    __syncthreads();
    if (group != 0 || column >= width) return;
    for (int other = 1; other < 8; ++other) {
        weight += weights[other * 32 + lane];
        bias += biases[other * 32 + lane];
    }
    dw[column] = weight;
    if (db != nullptr) db[column] = bias;
}

#define NORM(T)                                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) norm_forward_##T(const T* x, const float* w, const float* b, T* y,   \
                                                                       float* stats, int rows, int width, float eps, int kind)               \
    {                                                                                                                                        \
        if (static_cast<int>(blockIdx.x) < rows) norm_forward(x, w, b, y, stats, width, eps, kind);                                          \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) norm_backward_##T(const T* x, const float* w, const T* g,            \
                                                                        const float* stats, const T* residual, T* dx,      \
                                                                        int rows, int width, int kind)                                       \
    {                                                                                                                                        \
        if (static_cast<int>(blockIdx.x) < rows) norm_backward(x, w, g, stats, residual, dx, width, kind);                                   \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) norm_scale_gradient_##T(const T* x, const T* g, const float* stats,  \
                                                                              float* dw, float* db, int rows, int width, int /*kind*/)       \
    {                                                                                                                                        \
        norm_scale_gradient(x, g, stats, dw, db, rows, width);                                                                               \
    }
NORM(f32)
NORM(bf16)
NORM(f16)
