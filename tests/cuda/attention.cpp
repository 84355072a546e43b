// Checks of attention.cu.
#include "attention.hpp"
#include "../../src/ops/gpu/kernels/attention.cu"

template <class T> struct Kernels;
#define KERNELS(T)                                                                                                   \
    template <> struct Kernels<T> {                                                                                  \
        static constexpr auto forward = attention_forward_##T;                                                       \
        static constexpr auto delta = attention_delta_##T;                                                           \
        static constexpr auto queries = attention_backward_queries_##T;                                              \
        static constexpr auto keys = attention_backward_keys_##T;                                                    \
    };
KERNELS(f32)
KERNELS(bf16)
KERNELS(f16)

template <class T> void check(const Case& c, double size = 1.0)
{
    const int width = c.head_dim <= 32 ? 32 : c.head_dim <= 64 ? 64 : c.head_dim <= 128 ? 128 : 256;
    const size_t shared = 256 * static_cast<size_t>(width);
    // f32 alone computes; the results are rounded to T, and the gradients of the scores take delta from the rounded output, whose errors are
    // those of its elements times the root of their number.
    const double rounding = NameOf<T>::rounding;
    const Tolerances tolerances = sizeof(T) == 4 ? Tolerances{2e-5, 5e-6, 2e-5} : Tolerances{rounding, 5e-6, 2 * rounding};
    check_attention<T, Kernels<T>>("attention", c, {64, 256, shared, shared, shared, 64}, tolerances, size);
}

template <class T> void check_type()
{
    // What depends on the type alone is loading and storing; the rest is checked in f32.
    if (sizeof(T) == 4) {
        for (int tokens : {1, 2, 63, 64, 65, 130}) check<T>({{tokens}, 0, 2, 1, 40, 0, 0});
        check<T>({{200}, 0, 6, 2, 64, 0, 8});
        check<T>({{40, 90}, 17, 3, 3, 96, 0, 0});
    }
    check<T>({{3, 70, 1, 56}, 0, 6, 2, 8, 0, 3});
    check<T>({{65, 5, 60}, 33, 2, 1, 128, 0, 5});
    check<T>({{70, 10}, 0, 2, 1, 256, 0, 0});
    check<T>({{33, 64}, 40, 4, 2, 64, 2, 0}, 3.0);
    check<T>({{70}, 0, 2, 2, 200, 5, 1}, 3.0);
    check<T>({{37}, 1, 1, 1, 1, 0, 0});
}

int main()
{
    check_type<float>();
    check_type<bf16>();
    check_type<f16>();
    return finish();
}
