// Checks of elementwise.cu.
#include "checks.hpp"
#include "../../src/ops/gpu/kernels/elementwise.cu"
#include <map>

template <class T> struct Kernels;
#define KERNELS(T)                                                                                                   \
    template <> struct Kernels<T> {                                                                                  \
        static constexpr auto add_to = add_to_##T;                                                                   \
        static constexpr auto embedding_forward = embedding_forward_##T;                                             \
        static constexpr auto embedding_gradient = embedding_gradient_##T;                                           \
        static constexpr auto column_sums = column_sums_##T;                                                         \
        static constexpr auto add_rows = add_rows_##T;                                                               \
        static constexpr auto dropout = dropout_##T;                                                                 \
    };
KERNELS(f32)
KERNELS(bf16)
KERNELS(f16)

template <class T> void check_add(size_t n, unsigned grid, size_t shift)
{
    const std::string name = join(std::string("add_to ") + NameOf<T>::name, "n", n, "grid", grid, "shift", shift);
    auto x = normal<T>(n, 1, 0, shift), other = normal<T>(n, 1, 0, shift);
    Buffer<T> to(n, shift);
    std::memcpy(to.get(), x->get(), n * sizeof(T));
    std::vector<double> expected(n);
    for (size_t i = 0; i < n; ++i) expected[i] = value((*x)[i]) - 0.75 * value((*other)[i]);
    in_all_orders(name, {updated(to)}, [&] { launch(grid, 256, 0, Kernels<T>::add_to, to.get(), other->get(), n, -0.75f); });
    compare_rounded(name, to, expected);
}

template <class T> void check_embedding(int tokens, int vocab, int width, dim3 grid, size_t shift)
{
    const std::string name = join(std::string("embedding ") + NameOf<T>::name, "tokens", tokens, "vocab", vocab, "width", width, "shift", shift);
    auto weight = normal<T>(static_cast<size_t>(vocab) * width, 1, 0, shift), g = normal<T>(static_cast<size_t>(tokens) * width, 1, 0, shift);
    auto before = normal<T>(static_cast<size_t>(vocab) * width);
    std::vector<int> ids(tokens), order, starts{0}, distinct;
    std::map<int, std::vector<int>> by_id;
    for (int i = 0; i < tokens; ++i) {
        ids[i] = static_cast<int>(generator()() % vocab);
        by_id[ids[i]].push_back(i);
    }
    for (const auto& [id, at] : by_id) {
        order.insert(order.end(), at.begin(), at.end());
        starts.push_back(static_cast<int>(order.size()));
        distinct.push_back(id);
    }
    auto ids_ = copied(ids), order_ = copied(order), starts_ = copied(starts), distinct_ = copied(distinct);
    Buffer<T> out(static_cast<size_t>(tokens) * width, shift);
    Buffer<T> dw(static_cast<size_t>(vocab) * width);
    std::memcpy(dw.get(), before->get(), dw.size() * sizeof(T));
    std::vector<double> expected(out.size()), gradient = before->values();
    for (int i = 0; i < tokens; ++i) {
        for (int c = 0; c < width; ++c) {
            expected[static_cast<size_t>(i) * width + c] = value((*weight)[static_cast<size_t>(ids[i]) * width + c]);
            gradient[static_cast<size_t>(ids[i]) * width + c] += value((*g)[static_cast<size_t>(i) * width + c]);
        }
    }
    in_all_orders(name, {output(out)}, [&] { launch(tokens, 256, 0, Kernels<T>::embedding_forward, weight->get(), ids_->get(), out.get(), tokens, width); });
    compare(name + " forward", out.values(), expected, 0);
    const int count = static_cast<int>(distinct.size());
    in_all_orders(name, {updated(dw)}, [&] {
        launch(dim3(count, grid.y), 256, 0, Kernels<T>::embedding_gradient, g->get(), order_->get(), starts_->get(), distinct_->get(), dw.get(), count, width);
    });
    // Summed in f32, added and rounded once.
    compare(name + " gradient", dw.values(), gradient, sizeof(T) == 4 ? 2e-6 : NameOf<T>::rounding);
}

template <class T> void check_rows(int rows, int width, unsigned grid, size_t shift)
{
    const std::string name = join(std::string("rows ") + NameOf<T>::name, "rows", rows, "width", width, "grid", grid, "shift", shift);
    auto x = normal<T>(static_cast<size_t>(rows) * width, 1, 0.3, shift);
    auto bias = normal<float>(width);
    Buffer<T> y(x->size(), shift);
    Buffer<float> sums(width);
    std::memcpy(y.get(), x->get(), x->size() * sizeof(T));
    std::vector<double> expected(x->size()), expected_sums(width);
    for (size_t i = 0; i < x->size(); ++i) {
        expected[i] = value((*x)[i]) + 0.5 * (*bias)[i % width];
        expected_sums[i % width] += 1.5 * value((*x)[i]);
    }
    in_all_orders(name, {updated(y)}, [&] { launch(grid, 256, 0, Kernels<T>::add_rows, y.get(), bias->get(), rows, width, 0.5f); });
    compare_rounded(name + " add", y, expected);
    in_all_orders(name, {output(sums)}, [&] { launch(blocks_of(width, 32), dim3(32, 8), 0, Kernels<T>::column_sums, x->get(), sums.get(), rows, width, 1.5f); });
    compare(name + " sums", sums.values(), expected_sums, 5e-6);
}

template <class T> void check_dropout(long long n, unsigned long long offset, float probability, unsigned grid)
{
    const std::string name = join(std::string("dropout ") + NameOf<T>::name, "n", n, "offset", offset, "p", probability, "grid", grid);
    const unsigned long long seed = 0x299f31d0a4093822ull;
    auto x = normal<T>(n, 0.1, 1.0);
    Buffer<T> y(n), part(n / 2);
    std::vector<double> expected(n);
    long long kept = 0;
    for (long long i = 0; i < n; ++i) {
        // The generator once more, from the paper's description, by another way round the words.
        const unsigned long long at = offset + i;
        uint32_t c[4] = {static_cast<uint32_t>(at / 4), static_cast<uint32_t>(at / 4 >> 32), 0, 0}, k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
        for (int round = 0; round < 10; ++round) {
            const uint64_t a = uint64_t{0xd2511f53} * c[0], b = uint64_t{0xcd9e8d57} * c[2];
            const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(b), static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(a)};
            std::copy(next, next + 4, c);
            k[0] += 0x9e3779b9;
            k[1] += 0xbb67ae85;
        }
        const bool keep = (c[at % 4] >> 8) / 16777216.0 >= probability;
        kept += keep;
        expected[i] = keep ? value((*x)[i]) / (1.0 - probability) : 0;
    }
    in_all_orders(name, {output(y)}, [&] { launch(grid, 256, 0, Kernels<T>::dropout, x->get(), y.get(), n, seed, offset, probability); });
    // Multiplied by a reciprocal that has been rounded.
    compare_rounded(name, y, expected, 3e-7);
    if (n >= 1000) expect(name + ": the share that is kept", std::fabs(kept / double(n) - (1 - probability)) < 4 * std::sqrt(0.25 / double(n)));
    const std::vector<double> whole = y.values();
    in_all_orders(name, {output(part)}, [&] {
        launch(grid, 256, 0, Kernels<T>::dropout, x->get() + n / 2, part.get(), n / 2, seed, offset + n / 2, probability);
    });
    compare(name + " from the middle on", part.values(), std::vector<double>(whole.begin() + n / 2, whole.begin() + n / 2 * 2), 0);
}

template <class T> void check_type()
{
    check_add<T>(1, 1, 0);
    check_add<T>(5003, 2, 0);
    check_add<T>(4096, 7, 0);
    check_add<T>(333, 1, 1);
    check_embedding<T>(1, 3, 1, dim3(1, 1), 0);
    check_embedding<T>(65, 7, 33, dim3(1, 1), 0);
    check_embedding<T>(200, 50, 600, dim3(1, 3), 0);
    check_embedding<T>(20, 5, 264, dim3(1, 1), 1);
    for (int width : {1, 7, 33, 257}) check_rows<T>(width, 3 * width, 2, 0);
    check_rows<T>(1, 4096, 1, 0);
    check_rows<T>(130, 64, 11, 0);
    check_rows<T>(9, 64, 3, 1);
    check_dropout<T>(1, 0, 0.5f, 1);
    check_dropout<T>(10007, 0, 0.1f, 2);
    check_dropout<T>(4096, 3, 0.5f, 5);
    check_dropout<T>(1003, (1ull << 34) - 5, 0.9f, 1);
    check_dropout<T>(100, 2, 0.0f, 1);
    check_dropout<T>(100, 2, 1.0f, 1);
}

int main()
{
    // Vectors of the authors' Random123, kat_vectors.
    const auto is = [](uint4 got, unsigned x, unsigned y, unsigned z, unsigned w) { return got.x == x && got.y == y && got.z == z && got.w == w; };
    expect("philox of zeros as Random123 has it", is(philox(0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
    // An element whose number equals the probability is kept: of probability 0 nothing is dropped.
    check_dropout<float>(4, 0, static_cast<float>(philox(0, 0x299f31d0a4093822ull).x >> 8) * 0x1p-24f, 1);
    check_type<float>();
    check_type<bf16>();
    check_type<f16>();
    return finish();
}
