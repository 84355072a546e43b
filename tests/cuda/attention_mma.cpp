// Checks of attention_mma.cu, against the same double precision as attention.cu's.
#include "attention.hpp"
namespace general {
#include "../../src/ops/gpu/kernels/attention.cu"
}
#undef ATTENTION
#include "../../src/ops/gpu/kernels/attention_mma.cu"

template <int D> struct Kernels;
#define KERNELS(D)                                                                                                   \
    template <> struct Kernels<D> {                                                                                  \
        static constexpr auto forward = attention_mma_forward_##D;                                                   \
        static constexpr auto delta = general::attention_delta_bf16;                                                 \
        static constexpr auto queries = attention_mma_backward_queries_##D;                                          \
        static constexpr auto keys = attention_mma_backward_keys_##D;                                                \
    };
KERNELS(64)
KERNELS(128)

template <int D> void check(const Case& c, double size = 1.0)
{
    // Weights are rounded to bf16 before they are multiplied by values or gradients, and so are the gradients of scores, which are differences:
    // each error is a rounding of one of many terms, so that their sum stays within a rounding of the largest result, two for the gradients.
    const double rounding = NameOf<bf16>::rounding;
    const Tolerances tolerances{rounding, 1e-5, 2 * rounding};
    const Launch how = D == 64 ? Launch{128, 128, 32 << 10, 48 << 10, 48 << 10, 128} : Launch{128, 128, 64 << 10, 96 << 10, 64 << 10, 64};
    check_attention<bf16, Kernels<D>>("attention_mma", c, how, tolerances, size);
}

template <int D> void check_width()
{
    for (int tokens : {1, 2, 63, 64, 65, 130}) check<D>({{tokens}, 0, 1, 1, D, 0, 0});
    check<D>({{200}, 0, 6, 2, D, 0, 8});
    check<D>({{3, 70, 1, 56, 129}, 0, 2, 1, D, 0, 16});
    check<D>({{40, 150}, 17, 2, 2, D, 0, 0});
    check<D>({{65, 5, 200}, 100, 2, 1, D, 0, 8});
    check<D>({{33, 100}, 40, 4, 2, D, 2, 0}, 3.0);
    check<D>({{150}, 0, 1, 1, D, 30, 8}, 10.0);
}

int main()
{
    check_width<64>();
    check_width<128>();
    return finish();
}
