// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) and the norm of gradients, over many tensors in one launch: a block takes a chunk of
// 4096 elements of one tensor, whichever the table of chunks names, so that a model of hundreds of small tensors costs one launch.
//
// As torch.optim.AdamW, in f32: w -= lr decay w; m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g^2;
// w -= lr / correction1 m / (sqrt(v) / correction2 + eps). Clipping as torch.nn.utils.clip_grad_norm_.

struct Tensor_ {
    void* p;
    const void* g;
    float* m;
    float* v;
    // The parameter in f32 where p is rounded; null where p is f32.
    float* master;
    unsigned long long n;
};

struct Chunk {
    unsigned tensor;
    // In units of CHUNK elements.
    unsigned start;
};

static constexpr int CHUNK = 4096;

// Calls f.at<N>(index) for the elements of a chunk: N = 8 at a time where every pointer allows it, else one by one. A struct, not a lambda:
// NVRTC takes the body of a generic lambda for a function of the host.
template <typename F> __device__ __forceinline__ void over_chunk(const Tensor_& tensor, const Chunk& chunk, bool wide, F& f)
{
    const unsigned long long start = static_cast<unsigned long long>(chunk.start) * CHUNK;
    const int count = static_cast<int>(min(tensor.n - start, static_cast<unsigned long long>(CHUNK)));
    const int end = wide ? count / 8 * 8 : 0;
    for (int i = threadIdx.x * 8; i < end; i += blockDim.x * 8) f.template at<8>(start + i);
    for (int i = end + threadIdx.x; i < count; i += blockDim.x) f.template at<1>(start + i);
}

template <typename G> struct Squares {
    const G* g;
    float sum;
    template <int N> __device__ __forceinline__ void at(unsigned long long i)
    {
        float gradients[N];
        load<N>(g + i, gradients);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += gradients[j] * gradients[j];
    }
};

// launch: grid chunks, 256 threads. partial [chunks].
template <typename G> __device__ __forceinline__ void squared_norm(const Tensor_* tensors, const Chunk* chunks, float* partial)
{
    const Chunk chunk = chunks[blockIdx.x];
    const Tensor_ tensor = tensors[chunk.tensor];
    Squares<G> squares{static_cast<const G*>(tensor.g), 0.0f};
    over_chunk(tensor, chunk, aligned(tensor.g), squares);
    const float sum = block_sum(squares.sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// launch: grid 1, any whole number of warps up to 1024 threads (1024 is best). result: norm times grad_scale, factor for gradients. broken, which
// may be null, is 0 before the first step and stays 1 from the first norm on that is not finite: the factor is NaN then.
extern "C" __global__ void __launch_bounds__(1024)
    norm_finish(const float* partial, int count, float max_norm, float grad_scale, float* result, float* broken)
{
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    const float norm = sqrtf(sum) * fabsf(grad_scale);
    float factor = grad_scale;
    if (max_norm > 0.0f) factor *= fminf(1.0f, max_norm / (norm + 1e-6f));
    // Nobody waits for the norm: whoever reads it later finds the parameters as they were before the step that went wrong.
    const bool bad = !(norm < INFINITE) || (broken != nullptr && broken[0] != 0.0f);
    if (bad) factor = NOT_A_NUMBER;
    if (bad && broken != nullptr) broken[0] = 1.0f;
    result[0] = norm;
    result[1] = factor;
}

template <typename P, typename G> struct Step {
    P* p;
    const G* g;
    float *m, *v, *master;
    // Of the gradients; the shares of the new gradient and of its square; lr decay; lr / correction1.
    float factor, share1, beta2, share2, decay, step, correction2, eps;
    template <int N> __device__ __forceinline__ void at(unsigned long long i)
    {
        float values[N], gradients[N], means[N], squares[N];
        if (master != nullptr) {
            load<N>(master + i, values);
        } else {
            load<N>(p + i, values);
        }
        load<N>(g + i, gradients);
        load<N>(m + i, means);
        load<N>(v + i, squares);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float gradient = gradients[j] * factor;
            means[j] += share1 * (gradient - means[j]);
            squares[j] = beta2 * squares[j] + share2 * gradient * gradient;
            values[j] -= decay * values[j];
            values[j] -= step * (means[j] / (sqrtf(squares[j]) / correction2 + eps));
        }
        store<N>(m + i, means);
        store<N>(v + i, squares);
        if (master != nullptr) store<N>(master + i, values);
        store<N>(p + i, values);
    }
};

// launch: grid chunks, 256 threads. clip: the result of norm_finish, or null. A factor of NaN changes nothing. share1, share2: 1 - beta1, 1 - beta2;
// taken from a beta in f32, 1 - 0.999 would be off by 1e-5.
template <typename P, typename G>
__device__ __forceinline__ void adamw(const Tensor_* tensors, const Chunk* chunks, const float* clip, float lr, float share1, float share2, float eps,
                                      float weight_decay, float correction1, float correction2)
{
    if (clip != nullptr && !(clip[1] == clip[1])) return;
    const Chunk chunk = chunks[blockIdx.x];
    const Tensor_ t = tensors[chunk.tensor];
    Step<P, G> step{static_cast<P*>(t.p), static_cast<const G*>(t.g), t.m, t.v, t.master, clip != nullptr ? clip[1] : 1.0f,
                    share1, 1.0f - share2, share2, lr * weight_decay, lr / correction1, correction2, eps};
    over_chunk(t, chunk, aligned(t.p) && aligned(t.g) && aligned(t.m) && aligned(t.v) && aligned(t.master), step);
}

template <typename G> struct Scale {
    G* g;
    float factor;
    template <int N> __device__ __forceinline__ void at(unsigned long long i)
    {
        float gradients[N];
        load<N>(g + i, gradients);
#pragma unroll
        for (int j = 0; j < N; ++j) gradients[j] *= factor;
        store<N>(g + i, gradients);
    }
};

// launch: grid chunks, 256 threads. clip: the result of norm_finish.
template <typename G> __device__ __forceinline__ void scale_gradients(const Tensor_* tensors, const Chunk* chunks, const float* clip)
{
    const Chunk chunk = chunks[blockIdx.x];
    const Tensor_ tensor = tensors[chunk.tensor];
    Scale<G> scale{static_cast<G*>(const_cast<void*>(tensor.g)), clip[1]};
    over_chunk(tensor, chunk, aligned(tensor.g), scale);
}

#define GRADIENTS(G)                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) squared_norm_##G(const Tensor_* tensors, const Chunk* chunks, float* partial)          \
    {                                                                                                                                        \
        squared_norm<G>(tensors, chunks, partial);                                                                                           \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) scale_gradients_##G(const Tensor_* tensors, const Chunk* chunks, const float* clip)    \
    {                                                                                                                                        \
        scale_gradients<G>(tensors, chunks, clip);                                                                                           \
    }
GRADIENTS(f32)
GRADIENTS(bf16)

#define ADAMW(P, G)                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) adamw_##P##_##G(const Tensor_* tensors, const Chunk* chunks, const float* clip,        \
                                                                      float lr, float share1, float share2, float eps, float weight_decay,   \
                                                                      float correction1, float correction2)                                  \
    {                                                                                                                                        \
        adamw<P, G>(tensors, chunks, clip, lr, share1, share2, eps, weight_decay, correction1, correction2);                                 \
    }
ADAMW(f32, f32)
ADAMW(bf16, f32)
ADAMW(bf16, bf16)
