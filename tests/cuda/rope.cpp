// Checks of rope.cu.
#include "checks.hpp"
#include "../../src/ops/gpu/kernels/rope.cu"

template <class T> auto kernel();
template <> auto kernel<float>() { return rope_f32; }
template <> auto kernel<bf16>() { return rope_bf16; }
template <> auto kernel<f16>() { return rope_f16; }

template <class T> void check(int tokens, int heads, int half, int rest, float sign, unsigned grid, bool in_place, size_t shift = 0)
{
    const int head_dim = 2 * half + rest;
    const std::string name = join(std::string("rope ") + NameOf<T>::name, "tokens", tokens, "heads", heads, "half", half, "rest", rest, "grid", grid,
                                  "in_place", in_place, "shift", shift);
    const size_t n = static_cast<size_t>(tokens) * heads * head_dim;
    auto x = normal<T>(n, 1, 0, shift);
    Buffer<float> cosines(tokens * half), sines(tokens * half);
    for (int i = 0; i < tokens * half; ++i) {
        cosines[i] = static_cast<float>(std::cos(0.37 * i));
        sines[i] = static_cast<float>(std::sin(0.37 * i));
    }
    cosines.freeze();
    sines.freeze();
    std::vector<double> expected = x->values();
    for (int token = 0; token < tokens; ++token) {
        for (int head = 0; head < heads; ++head) {
            for (int pair = 0; pair < half; ++pair) {
                const size_t a = (static_cast<size_t>(token) * heads + head) * head_dim + pair, b = a + half;
                const double c = cosines[token * half + pair], s = static_cast<double>(sines[token * half + pair]) * sign;
                expected[a] = value((*x)[a]) * c - value((*x)[b]) * s;
                expected[b] = value((*x)[b]) * c + value((*x)[a]) * s;
            }
        }
    }
    Buffer<T> y(n, shift);
    if (in_place) std::memcpy(y.get(), x->get(), n * sizeof(T));
    in_all_orders(name, {in_place ? updated(y) : output(y)}, [&] {
        launch(grid, 256, 0, kernel<T>(), in_place ? y.get() : x->get(), cosines.get(), sines.get(), y.get(), tokens, heads, head_dim, half, sign);
    });
    compare_rounded(name, y, expected);
}

template <class T> void check_type()
{
    check<T>(1, 1, 1, 0, 1, 1, false);
    check<T>(3, 2, 4, 0, -1, 1, true);
    check<T>(35, 3, 5, 3, 1, 7, false);
    check<T>(65, 2, 32, 0, 1, 3, false);
    check<T>(64, 3, 64, 0, -1, 96, true);
    check<T>(7, 6, 16, 32, 1, 2, true);
    check<T>(7, 2, 16, 8, 1, 1, false, 1);
    check<T>(7, 2, 16, 3, 1, 1, false);
}

int main()
{
    check_type<float>();
    check_type<bf16>();
    check_type<f16>();
    return finish();
}
