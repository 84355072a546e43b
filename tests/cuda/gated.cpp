// Checks of gated.cu.
#include "checks.hpp"
#include "../../src/ops/gpu/kernels/gated.cu"

template <class T> struct Kernels;
#define KERNELS(T)                                                                                                   \
    template <> struct Kernels<T> {                                                                                  \
        static constexpr auto forward = gated_forward_##T;                                                           \
        static constexpr auto backward = gated_backward_##T;                                                         \
        static constexpr auto joint_forward = gated_joint_forward_##T;                                               \
        static constexpr auto joint_backward = gated_joint_backward_##T;                                             \
    };
KERNELS(f32)
KERNELS(bf16)
KERNELS(f16)

double function(int kind, double x)
{
    const double tanh_argument = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
    switch (kind) {
    case 0: return x / (1 + std::exp(-x));
    case 1: return 0.5 * x * (1 + std::tanh(tanh_argument));
    case 2: return 0.5 * x * (1 + std::erf(x / std::sqrt(2)));
    default: return std::max(x, 0.0);
    }
}

// By central differences, so that the formula of the derivative stands in the kernel alone.
double slope(int kind, double x)
{
    if (kind == 3) return x > 0;
    const double h = 1e-5;
    return (function(kind, x + h) - function(kind, x - h)) / (2 * h);
}

template <class T> void check(size_t n, int kind, unsigned grid, size_t shift = 0)
{
    const std::string name = join(std::string("gated ") + NameOf<T>::name, "n", n, "kind", kind, "grid", grid, "shift", shift);
    auto gate = normal<T>(n, 2, 0, shift), up = normal<T>(n, 1, 0, shift), g = normal<T>(n, 1, 0, shift);
    std::vector<double> both(n), alone(n), by_gate(n), by_up(n), by_alone(n);
    for (size_t i = 0; i < n; ++i) {
        const double x = value((*gate)[i]), u = value((*up)[i]), gradient = value((*g)[i]);
        alone[i] = function(kind, x);
        both[i] = alone[i] * u;
        by_alone[i] = gradient * slope(kind, x);
        by_gate[i] = by_alone[i] * u;
        by_up[i] = gradient * alone[i];
    }
    Buffer<T> y(n, shift), dgate(n, shift), dup(n, shift), null(0);
    in_all_orders(name, {output(y)}, [&] { launch(grid, 256, 0, Kernels<T>::forward, gate->get(), up->get(), y.get(), n, kind); });
    compare_rounded(name + " forward", y, both);
    in_all_orders(name, {output(y)}, [&] { launch(grid, 256, 0, Kernels<T>::forward, gate->get(), nullptr, y.get(), n, kind); });
    compare_rounded(name + " plain", y, alone);
    in_all_orders(name, {output(y), output(dgate), output(dup)},
                  [&] { launch(grid, 256, 0, Kernels<T>::backward, gate->get(), up->get(), g->get(), dgate.get(), dup.get(), y.get(), n, kind); });
    compare_rounded(name + " value again", y, both);
    compare_rounded(name + " d gate", dgate, by_gate);
    compare_rounded(name + " d up", dup, by_up);
    in_all_orders(name, {output(dgate)},
                  [&] { launch(grid, 256, 0, Kernels<T>::backward, gate->get(), nullptr, g->get(), dgate.get(), nullptr, nullptr, n, kind); });
    compare_rounded(name + " d plain", dgate, by_alone);
    in_all_orders(name, {output(dgate), output(y)},
                  [&] { launch(grid, 256, 0, Kernels<T>::backward, gate->get(), nullptr, g->get(), dgate.get(), nullptr, y.get(), n, kind); });
    compare_rounded(name + " plain again", y, alone);
}

template <class T> void check_joint(int rows, int width, int kind, unsigned grid, bool in_place, size_t shift = 0)
{
    const std::string name = join(std::string("gated joint ") + NameOf<T>::name, "rows", rows, "width", width, "kind", kind, "grid", grid);
    const size_t n = static_cast<size_t>(rows) * width;
    auto joint = normal<T>(2 * n, 2, 0, shift), g = normal<T>(n);
    std::vector<double> values(n), gradients(2 * n);
    for (int row = 0; row < rows; ++row) {
        for (int c = 0; c < width; ++c) {
            const size_t at = static_cast<size_t>(row) * 2 * width + c, out = static_cast<size_t>(row) * width + c;
            const double x = value((*joint)[at]), u = value((*joint)[at + width]), gradient = value((*g)[out]);
            values[out] = function(kind, x) * u;
            gradients[at] = gradient * u * slope(kind, x);
            gradients[at + width] = gradient * function(kind, x);
        }
    }
    Buffer<T> y(n), dj(2 * n, shift);
    in_all_orders(name, {output(y)}, [&] { launch(grid, 256, 0, Kernels<T>::joint_forward, joint->get(), y.get(), rows, width, kind); });
    compare_rounded(name + " forward", y, values);
    std::memcpy(dj.get(), joint->get(), 2 * n * sizeof(T));
    in_all_orders(name, {in_place ? updated(dj) : output(dj), output(y)}, [&] {
        launch(grid, 256, 0, Kernels<T>::joint_backward, in_place ? dj.get() : joint->get(), g->get(), dj.get(), y.get(), rows, width, kind);
    });
    compare_rounded(name + " backward", dj, gradients);
    compare_rounded(name + " value again", y, values);
    in_all_orders(name, {output(dj)},
                  [&] { launch(grid, 256, 0, Kernels<T>::joint_backward, joint->get(), g->get(), dj.get(), nullptr, rows, width, kind); });
    compare_rounded(name + " backward alone", dj, gradients);
}

template <class T> void check_type()
{
    for (int kind : {0, 1, 2, 3}) {
        check<T>(1, kind, 1);
        check<T>(5003, kind, 2);
        check<T>(4096, kind, 9);
        check<T>(777, kind, 3, 1);
        check_joint<T>(1, 1, kind, 1, false);
        check_joint<T>(5, 33, kind, 1, true);
        check_joint<T>(13, 264, kind, 3, kind % 2 == 0);
        check_joint<T>(3, 64, kind, 3, false, 3);
    }
}

int main()
{
    check_type<float>();
    check_type<bf16>();
    check_type<f16>();
    return finish();
}
