// Kernels of ours, run by the emulator. Compiled once for every file of src/ops/gpu/kernels, which FILE names: they are apart at run time too.
#include "../emulator.hpp"
#include "standin.hpp"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

namespace FILE_ {
#include TEXT(../../../src/ops/gpu/kernels/FILE_.cu)

template <class... P> standin::Kernel emulated(void (*kernel)(P...))
{
    const auto run = [kernel](const standin::Launch& launch, void** parameters) {
        const dim3 grid(launch.grid[0], launch.grid[1], launch.grid[2]), block(launch.block[0], launch.block[1], launch.block[2]);
        // The emulator wants multiples of 16 bytes.
        const size_t shared = (launch.shared + 15) / 16 * 16;
        standin::call<P...>([&](P... given) { emulator::launch(grid, block, shared, kernel, given...); }, parameters);
    };
    return standin::Kernel{run, {sizeof(P)...}};
}

static const bool known = [] {
    auto& kernels = standin::kernels()[TEXT(FILE_)];
#define K(name) kernels[#name] = emulated(name);
#define OF_ALL(name) K(name##_f32) K(name##_bf16) K(name##_f16)
#if defined(FILE_norm)
    OF_ALL(norm_forward) OF_ALL(norm_backward) OF_ALL(norm_scale_gradient)
#elif defined(FILE_rope)
    OF_ALL(rope)
#elif defined(FILE_gated)
    OF_ALL(gated_forward) OF_ALL(gated_backward) OF_ALL(gated_joint_forward) OF_ALL(gated_joint_backward)
#elif defined(FILE_attention)
    OF_ALL(attention_forward) OF_ALL(attention_delta) OF_ALL(attention_backward_queries) OF_ALL(attention_backward_keys)
#elif defined(FILE_attention_mma)
    K(attention_mma_forward_64) K(attention_mma_backward_queries_64) K(attention_mma_backward_keys_64)
    K(attention_mma_forward_128) K(attention_mma_backward_queries_128) K(attention_mma_backward_keys_128)
#elif defined(FILE_attention_cached)
    OF_ALL(attention_cached)
#elif defined(FILE_cross_entropy)
    OF_ALL(cross_entropy)
#elif defined(FILE_adamw)
    K(norm_finish) K(squared_norm_f32) K(squared_norm_bf16) K(scale_gradients_f32) K(scale_gradients_bf16)
    K(adamw_f32_f32) K(adamw_bf16_f32) K(adamw_bf16_bf16)
#elif defined(FILE_elementwise)
    OF_ALL(add_to) OF_ALL(embedding_forward) OF_ALL(embedding_gradient) OF_ALL(column_sums) OF_ALL(add_rows) OF_ALL(dropout)
#else
#error "a file of kernels that is not listed here"
#endif
    return true;
}();

} // namespace FILE_
