// Checks of cross_entropy.cu.
#include "checks.hpp"
#include "../../src/ops/gpu/kernels/cross_entropy.cu"

template <class T> auto kernel();
template <> auto kernel<float>() { return cross_entropy_f32; }
template <> auto kernel<bf16>() { return cross_entropy_bf16; }
template <> auto kernel<f16>() { return cross_entropy_f16; }

enum class Logits { normal, huge, ties, masked };

template <class T> void check(int rows, int vocab, float softcap, Logits logits, size_t shift = 0)
{
    const std::string name = join(std::string("cross_entropy ") + NameOf<T>::name, "rows", rows, "vocab", vocab, "softcap", softcap, "logits",
                                  static_cast<int>(logits), "shift", shift);
    const size_t n = static_cast<size_t>(rows) * vocab;
    const float factor = 0.37f;
    Buffer<T> z(n, shift), gradients(n, shift);
    Buffer<int> targets(rows);
    Buffer<float> losses(rows);
    std::normal_distribution<double> normal(0, logits == Logits::huge ? 1e4 : 3);
    for (size_t i = 0; i < n; ++i) {
        z[i] = from_f32<T>(logits == Logits::ties ? 2.5f : static_cast<float>(normal(generator())));
        // A vocabulary of which a part is excluded, the first elements too.
        if (logits == Logits::masked && i % 3 != 1) z[i] = from_f32<T>(-INFINITY);
    }
    std::vector<double> expected_losses(rows), expected(n);
    for (int row = 0; row < rows; ++row) {
        const T* at = z.get() + static_cast<size_t>(row) * vocab;
        // The last element, the first, one in the middle, none.
        targets[row] = row % 4 == 0 ? vocab - 1 : row % 4 == 1 ? 0 : row % 4 == 2 ? vocab / 2 : -100;
        while (targets[row] >= 0 && value(at[targets[row]]) == -INFINITY) targets[row] = (targets[row] + 1) % vocab;
        const auto bent = [&](int c) { return softcap > 0 ? softcap * std::tanh(value(at[c]) / softcap) : value(at[c]); };
        double max = -INFINITY, sum = 0;
        for (int c = 0; c < vocab; ++c) max = std::max(max, bent(c));
        for (int c = 0; c < vocab; ++c) sum += std::exp(bent(c) - max);
        if (targets[row] < 0) continue;
        expected_losses[row] = max + std::log(sum) - bent(targets[row]);
        for (int c = 0; c < vocab; ++c) {
            const double slope = softcap > 0 ? 1 - std::pow(bent(c) / softcap, 2) : 1;
            expected[static_cast<size_t>(row) * vocab + c] = factor * (std::exp(bent(c) - max) / sum - (c == targets[row])) * slope;
        }
    }
    targets.freeze();
    in_all_orders(name, {updated(z), output(losses)}, [&] { launch(rows, 512, 0, kernel<T>(), z.get(), targets.get(), losses.get(), rows, vocab, factor, softcap, 1); });
    compare(name + " loss", losses.values(), expected_losses, 2e-6);
    // A logit of 1e4 has an error of 5e-4 in f32 after its cap or its multiplication by log2 e.
    compare_rounded(name + " gradient", z, expected, logits == Logits::huge ? 1e-3 : 2e-5);
}

template <class T> void check_loss_alone(int vocab)
{
    const std::string name = join(std::string("cross_entropy alone ") + NameOf<T>::name, "vocab", vocab);
    auto z = normal<T>(vocab);
    Buffer<int> targets(1);
    Buffer<float> losses(1);
    targets[0] = vocab / 3;
    double sum = 0;
    for (double x : z->values()) sum += std::exp(x);
    // The logits are frozen: a write would end the check.
    in_all_orders(name, {output(losses)}, [&] { launch(1, 512, 0, kernel<T>(), z->get(), targets.get(), losses.get(), 1, vocab, 1.0f, 0.0f, 0); });
    compare(name, losses.values(), {std::log(sum) - value((*z)[targets[0]])}, 2e-6);
    targets[0] = vocab;
    in_all_orders(name, {output(losses)}, [&] { launch(1, 512, 0, kernel<T>(), z->get(), targets.get(), losses.get(), 1, vocab, 1.0f, 0.0f, 0); });
    expect(name + ": a target beyond the vocabulary has a loss of NaN", std::isnan(losses[0]));
}

template <class T> void check_type()
{
    for (float softcap : {0.0f, 4.0f}) {
        check<T>(1, 1, softcap, Logits::normal);
        check<T>(5, 7, softcap, Logits::normal);
        check<T>(9, 257, softcap, Logits::normal);
        check<T>(4, 4096, softcap, Logits::normal);
        check<T>(3, 4099, softcap, Logits::normal, 3);
        check<T>(3, 1000, softcap, Logits::ties);
    }
    check<T>(5, 50257, 0, Logits::normal);
    check<T>(8, 515, 0, Logits::huge);
    check<T>(4, 5000, 0, Logits::masked);
    check_loss_alone<T>(1003);
}

int main()
{
    check_type<float>();
    check_type<bf16>();
    check_type<f16>();
    return finish();
}
