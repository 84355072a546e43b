// Checks of attention_cached.cu.
#include "checks.hpp"
#include "../../src/ops/gpu/kernels/attention_cached.cu"

// Sequences with so many cached tokens each, of which the last `fresh` are asked.
template <class T, class K> void check(K kernel, const std::vector<int>& cached, int fresh, int window, int heads, int kv_heads, int head_dim, float softcap)
{
    const int tokens = static_cast<int>(cached.size()) * fresh;
    const auto q = normal<T>(static_cast<size_t>(tokens) * heads * head_dim, softcap > 0 ? 3.0 : 1.0);
    std::vector<std::unique_ptr<Buffer<T>>> k, v;
    std::vector<unsigned long long> key_places, value_places;
    std::vector<int> sequence, first, end;
    for (size_t s = 0; s < cached.size(); ++s) {
        const size_t elements = static_cast<size_t>(cached[s]) * kv_heads * head_dim;
        k.push_back(normal<T>(elements));
        v.push_back(normal<T>(elements));
        key_places.push_back(reinterpret_cast<unsigned long long>(k.back()->get()));
        value_places.push_back(reinterpret_cast<unsigned long long>(v.back()->get()));
        for (int i = 0; i < fresh; ++i) {
            sequence.push_back(static_cast<int>(s));
            end.push_back(cached[s] - fresh + i + 1);
            first.push_back(window > 0 ? std::max(0, end.back() - window) : 0);
        }
    }
    const float scale = static_cast<float>(1 / std::sqrt(double(head_dim)));
    std::vector<double> expected;
    for (int t = 0; t < tokens; ++t) {
        for (int h = 0; h < heads; ++h) {
            const size_t at = static_cast<size_t>(h / (heads / kv_heads)) * head_dim, stride = static_cast<size_t>(kv_heads) * head_dim;
            std::vector<double> weights;
            double sum = 0;
            for (int j = first[t]; j < end[t]; ++j) {
                double score = 0;
                for (int d = 0; d < head_dim; ++d) {
                    score += value(q->get()[(size_t(t) * heads + h) * head_dim + d]) * value(k[sequence[t]]->get()[j * stride + at + d]);
                }
                score *= scale;
                if (softcap > 0) score = softcap * std::tanh(score / softcap);
                weights.push_back(std::exp(score));
                sum += weights.back();
            }
            for (int d = 0; d < head_dim; ++d) {
                double mixed = 0;
                for (int j = first[t]; j < end[t]; ++j) mixed += weights[j - first[t]] / sum * value(v[sequence[t]]->get()[j * stride + at + d]);
                expected.push_back(mixed);
            }
        }
    }
    Buffer<T> o(expected.size());
    const auto keys = copied(key_places), values = copied(value_places);
    const auto sequences = copied(sequence), firsts = copied(first), ends = copied(end);
    const std::string name = join(std::string("attention_cached ") + NameOf<T>::name, "sequences", cached.size(), "fresh", fresh, "window", window, "heads", heads,
                                  "kv", kv_heads, "dim", head_dim, "cap", static_cast<int>(softcap));
    in_all_orders(name, {output(o)}, [&] {
        emulator::launch({static_cast<unsigned>(tokens), static_cast<unsigned>(heads)}, 128, 0, kernel, q->get(), keys->get(), values->get(), sequences->get(),
                         firsts->get(), ends->get(), o.get(), heads, kv_heads, head_dim, scale, softcap);
    });
    // Computed in f32, rounded once to T.
    compare(name, o.values(), expected, sizeof(T) == 4 ? 2e-6 : NameOf<T>::rounding);
}

template <class T, class K> void check_type(K kernel)
{
    check<T>(kernel, {1}, 1, 0, 1, 1, 1, 0);
    check<T>(kernel, {3, 130, 7}, 1, 0, 6, 2, 40, 0);
    check<T>(kernel, {9, 65}, 4, 0, 4, 2, 64, 0);
    check<T>(kernel, {70, 20}, 2, 16, 2, 1, 128, 0);
    check<T>(kernel, {33}, 1, 0, 2, 1, 256, 5);
    check<T>(kernel, {5}, 3, 2, 3, 3, 200, 2);
}

int main()
{
    check_type<float>(attention_cached_f32);
    check_type<bf16>(attention_cached_bf16);
    check_type<f16>(attention_cached_f16);
    return finish();
}
