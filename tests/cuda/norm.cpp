// Checks of norm.cu.
#include "checks.hpp"
#include "../../src/ops/gpu/kernels/norm.cu"

template <class T> struct Kernels;
#define KERNELS(T)                                                                                                   \
    template <> struct Kernels<T> {                                                                                  \
        static constexpr auto forward = norm_forward_##T;                                                            \
        static constexpr auto backward = norm_backward_##T;                                                          \
        static constexpr auto scale_gradient = norm_scale_gradient_##T;                                              \
    };
KERNELS(f32)
KERNELS(bf16)
KERNELS(f16)

template <class T> void check(int rows, int width, int kind, bool residual, size_t shift = 0)
{
    const std::string name = join(std::string("norm ") + NameOf<T>::name, "rows", rows, "width", width, "kind", kind, "shift", shift);
    const double eps = 1e-5;
    const size_t n = static_cast<size_t>(rows) * width;
    auto x = normal<T>(n, 1.5, kind == 2 ? 3.0 : 0.2, shift), g = normal<T>(n, 1, 0, shift), r = normal<T>(n, 1, 0, shift);
    auto w = normal<float>(width, 0.3, 1.0), b = normal<float>(width);
    Buffer<T> y(n, shift), dx(n, shift);
    Buffer<float> stats(2 * rows), dw(width), db(width);

    std::vector<double> means(rows), reciprocals(rows), expected(n), gradient(n), scales(width), biases(width), exact_stats(2 * rows);
    for (int row = 0; row < rows; ++row) {
        double mean = 0, square = 0, mean_h = 0, mean_hn = 0;
        const size_t at = static_cast<size_t>(row) * width;
        if (kind == 2) {
            for (int c = 0; c < width; ++c) mean += value((*x)[at + c]) / width;
        }
        for (int c = 0; c < width; ++c) square += std::pow(value((*x)[at + c]) - mean, 2) / width;
        const double reciprocal = 1 / std::sqrt(square + eps);
        exact_stats[2 * row] = mean;
        exact_stats[2 * row + 1] = reciprocal;
        const auto weight = [&](int c) { return kind == 0 ? as<T>((*w)[c]) : kind == 1 ? 1.0 + (*w)[c] : (*w)[c]; };
        for (int c = 0; c < width; ++c) {
            const double normalised = (value((*x)[at + c]) - mean) * reciprocal, h = value((*g)[at + c]) * weight(c);
            expected[at + c] = kind == 0 ? as<T>(normalised) * weight(c) : kind == 1 ? normalised * weight(c) : normalised * weight(c) + (*b)[c];
            mean_h += kind == 2 ? h / width : 0;
            mean_hn += h * normalised / width;
            scales[c] += value((*g)[at + c]) * normalised;
            biases[c] += value((*g)[at + c]);
        }
        for (int c = 0; c < width; ++c) {
            const double normalised = (value((*x)[at + c]) - mean) * reciprocal, h = value((*g)[at + c]) * weight(c);
            gradient[at + c] = reciprocal * (h - mean_h - normalised * mean_hn) + (residual ? value((*r)[at + c]) : 0);
        }
    }
    in_all_orders(name, {output(y), output(stats)}, [&] {
        launch(rows, 256, 0, Kernels<T>::forward, x->get(), w->get(), kind == 2 ? b->get() : nullptr, y.get(), stats.get(), rows, width, 1e-5f, kind);
    });
    // Kind 0 rounds twice: an error of f32 may tip the first rounding over, which is a whole step of T before the second.
    if (kind == 0 && sizeof(T) == 2) {
        compare(name + " forward", y.values(), expected, 3 * NameOf<T>::rounding, 0.01);
        size_t equal = 0;
        for (size_t i = 0; i < n; ++i) equal += value(y[i]) == as<T>(expected[i]);
        expect(name + " forward: nearly all elements are rounded as transformers rounds them", equal >= 0.99 * n);
    } else {
        compare_rounded(name + " forward", y, expected);
    }
    compare(name + " stats", stats.values(), exact_stats, 1e-6);
    in_all_orders(name, {output(dx)}, [&] {
        launch(rows, 256, 0, Kernels<T>::backward, x->get(), w->get(), g->get(), stats.get(), residual ? r->get() : nullptr, dx.get(), rows, width, kind);
    });
    // The gradient of a single element is a difference of equal numbers, of which f32 keeps no digit.
    if (width > 1 || residual) compare_rounded(name + " backward", dx, gradient);
    in_all_orders(name, {output(dw), output(db)}, [&] {
        launch(blocks_of(width, 32), dim3(32, 8), 0, Kernels<T>::scale_gradient, x->get(), g->get(), stats.get(), dw.get(), db.get(), rows, width, kind);
    });
    compare(name + " scale", dw.values(), scales, 2e-5);
    compare(name + " bias", db.values(), biases, 2e-5);
    in_all_orders(name, {output(dw)}, [&] {
        launch(blocks_of(width, 32), dim3(32, 8), 0, Kernels<T>::scale_gradient, x->get(), g->get(), stats.get(), dw.get(), nullptr, rows, width, kind);
    });
    compare(name + " scale alone", dw.values(), scales, 2e-5);
}

template <class T> void check_type()
{
    for (int kind : {0, 1, 2}) {
        check<T>(1, 1, kind, false);
        check<T>(1, 7, kind, true);
        check<T>(3, 33, kind, false);
        check<T>(35, 257, kind, true);
        check<T>(9, 4096, kind, kind != 1);
        check<T>(2, 64, kind, true, 1);
    }
    check<T>(1, 16384, 0, true);
}

int main()
{
    check_type<float>();
    check_type<bf16>();
    check_type<f16>();
    return finish();
}
