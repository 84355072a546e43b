// Cross-entropy of rows of logits, and its gradient in their place: loss = logsumexp(z) - z[target] with z = cap tanh(logits / cap)
// (cap 0: z = logits); gradient = factor (softmax(z) - onehot) (1 - (z / cap)^2).
//
// Maximum and sum of a row are found in one pass (Milakov and Gimelshein 2018, arXiv 1805.02867), the gradient in a second. A row whose
// target is negative has no loss and no gradient. A target beyond the vocabulary gives a loss of NaN and reads nothing.

__device__ __forceinline__ float capped(float x, float softcap) { return softcap > 0.0f ? softcap * tanhf(x / softcap) : x; }

// Takes N logits into a running maximum and a sum of exponentials below it.
template <int N, typename T> __device__ __forceinline__ void take(const T* logits, float softcap, float& max, float& sum)
{
    float z[N];
    load<N>(logits, z);
    float highest = max;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        z[i] = capped(z[i], softcap);
        highest = fmaxf(highest, z[i]);
    }
    sum *= exp2f((max - highest) * LOG2_E);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += exp2f((z[i] - highest) * LOG2_E);
    max = highest;
}

// The gradient of N logits, of which the first has index `at`. `log_sum` is the logarithm of the sum below the maximum.
template <int N, typename T>
__device__ __forceinline__ void differentiate(T* logits, int at, int target, float factor, float softcap, float max, float log_sum)
{
    float z[N];
    load<N>(logits + at, z);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float bent = capped(z[i], softcap);
        // In this order: the maximum may be so large that the logarithm is lost beside it.
        const float probability = exp2f((bent - max - log_sum) * LOG2_E);
        const float slope = softcap > 0.0f ? 1.0f - (bent / softcap) * (bent / softcap) : 1.0f;
        z[i] = factor * (probability - (at + i == target ? 1.0f : 0.0f)) * slope;
    }
    store<N>(logits + at, z);
}

// launch: grid rows, 512 threads. logits [rows, vocab]; losses [rows].
template <typename T>
__device__ __forceinline__ void cross_entropy(T* logits, const int* targets, float* losses, int vocab, float factor, float softcap, bool write_gradient)
{
    constexpr int count = Lanes<T>::count;
    const long long row = blockIdx.x;
    const int target = targets[row], thread = threadIdx.x, threads = blockDim.x;
    logits += row * vocab;
    // A vocabulary of an odd size leaves rows that begin between two multiples of 16 bytes: single elements up to the first and after the last.
    const int past = static_cast<int>(reinterpret_cast<unsigned long long>(logits) % 16 / sizeof(T));
    const int first = past == 0 ? 0 : min(count - past, vocab);
    const int last = first + (vocab - first) / count * count;

    if (target < 0) {
        if (thread == 0) losses[row] = 0.0f;
        if (write_gradient) {
            for (int i = thread; i < vocab; i += threads) logits[i] = from_f32<T>(0.0f);
        }
        return;
    }
    // Read before anything is overwritten: barriers follow.
    const float at_target = thread == 0 && target < vocab ? capped(to_f32(logits[target]), softcap) : NOT_A_NUMBER;
    float max = LOWEST, sum = 0.0f;
    if (thread < first) take<1>(logits + thread, softcap, max, sum);
    for (int i = first + thread * count; i < last; i += threads * count) take<count>(logits + i, softcap, max, sum);
    if (thread < vocab - last) take<1>(logits + last + thread, softcap, max, sum);

    const float highest = block_max(max);
    const float log_sum = logf(block_sum(sum * exp2f((max - highest) * LOG2_E)));
    if (thread == 0) losses[row] = (highest - at_target) + log_sum;
    if (!write_gradient) return;
    if (thread < first) differentiate<1>(logits, thread, target, factor, softcap, highest, log_sum);
    for (int i = first + thread * count; i < last; i += threads * count) {
        differentiate<count>(logits, i, target, factor, softcap, highest, log_sum);
    }
    if (thread < vocab - last) differentiate<1>(logits, last + thread, target, factor, softcap, highest, log_sum);
}

#define CROSS_ENTROPY(T)                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(512) cross_entropy_##T(T* logits, const int* targets, float* losses, int rows, int vocab,   \
                                                                        float factor, float softcap, int write_gradient)                     \
    {                                                                                                                                        \
        if (static_cast<int>(blockIdx.x) < rows) cross_entropy(logits, targets, losses, vocab, factor, softcap, write_gradient != 0);        \
    }
CROSS_ENTROPY(f32)
CROSS_ENTROPY(bf16)
CROSS_ENTROPY(f16)
