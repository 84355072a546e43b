// What the checks of both attention files share: batches of sequences, and attention in double precision.
#pragma once
#include "checks.hpp"

struct Case {
    // Lengths of the sequences; a window of 0 is none.
    std::vector<int> sequences;
    int window, heads, kv_heads, head_dim;
    float softcap;
    // How much wider than their contents the rows are.
    int padding;
};

inline std::string describe(const std::string& name, const Case& c)
{
    int tokens = 0;
    for (int length : c.sequences) tokens += length;
    return join(name, "tokens", tokens, "sequences", c.sequences.size(), "window", c.window, "heads", c.heads, "kv", c.kv_heads, "dim", c.head_dim, "cap",
                static_cast<int>(c.softcap), "pad", c.padding);
}

// A batch with its exact results.
template <class T> struct Batch {
    int tokens = 0, q_stride, k_stride, v_stride, o_stride;
    float scale;
    std::vector<int> first_, last_;
    std::unique_ptr<Buffer<T>> q, k, v, go;
    std::unique_ptr<Buffer<int>> first, last;
    std::vector<double> o, lse, delta, dq, dk, dv;

    // Queries of `size` make scores of about that standard deviation. The padding holds values that would be noticed.
    explicit Batch(const Case& c, double size)
    {
        for (int length : c.sequences) {
            for (int i = 0; i < length; ++i) first_.push_back(tokens + (c.window > 0 ? std::max(0, i + 1 - c.window) : 0));
            tokens += length;
        }
        last_.resize(tokens);
        for (int i = 0; i < tokens; ++i) {
            for (int j = first_[i]; j <= i; ++j) last_[j] = i;
        }
        first = copied(first_);
        last = copied(last_);
        q_stride = o_stride = c.heads * c.head_dim + c.padding;
        k_stride = c.kv_heads * c.head_dim + c.padding;
        v_stride = c.kv_heads * c.head_dim + 2 * c.padding;
        scale = static_cast<float>(1 / std::sqrt(double(c.head_dim)));
        q = normal<T>(static_cast<size_t>(tokens) * q_stride, size);
        k = normal<T>(static_cast<size_t>(tokens) * k_stride);
        v = normal<T>(static_cast<size_t>(tokens) * v_stride);
        go = normal<T>(static_cast<size_t>(tokens) * o_stride);
        exact(c);
    }

    void exact(const Case& c)
    {
        const int width = c.head_dim, group = c.heads / c.kv_heads;
        const size_t rows = tokens;
        o.assign(rows * c.heads * width, 0);
        dq = o;
        dk.assign(rows * c.kv_heads * width, 0);
        dv = dk;
        lse.assign(rows * c.heads, 0);
        delta = lse;
        std::vector<double> p(rows), slopes(rows);
        for (int head = 0; head < c.heads; ++head) {
            const int kv = head / group;
            for (int i = 0; i < tokens; ++i) {
                const T *query = q->get() + size_t(i) * q_stride + head * width, *gradient = go->get() + size_t(i) * o_stride + head * width;
                double max = -INFINITY, sum = 0;
                for (int j = first_[i]; j <= i; ++j) {
                    const T* key = k->get() + size_t(j) * k_stride + kv * width;
                    double s = 0;
                    for (int d = 0; d < width; ++d) s += value(query[d]) * value(key[d]);
                    s *= scale;
                    slopes[j] = 1;
                    if (c.softcap > 0) {
                        slopes[j] = 1 - std::pow(std::tanh(s / c.softcap), 2);
                        s = c.softcap * std::tanh(s / c.softcap);
                    }
                    p[j] = s;
                    max = std::max(max, s);
                }
                for (int j = first_[i]; j <= i; ++j) sum += p[j] = std::exp(p[j] - max);
                lse[head * rows + i] = max + std::log(sum);
                double* out = &o[(size_t(i) * c.heads + head) * width];
                for (int j = first_[i]; j <= i; ++j) {
                    p[j] /= sum;
                    const T* row = v->get() + size_t(j) * v_stride + kv * width;
                    for (int d = 0; d < width; ++d) out[d] += p[j] * value(row[d]);
                }
                double& together = delta[head * rows + i];
                for (int d = 0; d < width; ++d) together += out[d] * value(gradient[d]);
                for (int j = first_[i]; j <= i; ++j) {
                    const T *key = k->get() + size_t(j) * k_stride + kv * width, *row = v->get() + size_t(j) * v_stride + kv * width;
                    double dp = 0;
                    for (int d = 0; d < width; ++d) dp += value(gradient[d]) * value(row[d]);
                    const double ds = p[j] * (dp - together) * slopes[j] * scale;
                    for (int d = 0; d < width; ++d) {
                        dq[(size_t(i) * c.heads + head) * width + d] += ds * value(key[d]);
                        dk[(size_t(j) * c.kv_heads + kv) * width + d] += ds * value(query[d]);
                        dv[(size_t(j) * c.kv_heads + kv) * width + d] += p[j] * value(gradient[d]);
                    }
                }
            }
        }
    }
};

struct Tolerances {
    double output, sums, gradients;
};

// Rows of an output of which the padding must be left alone.
template <class T> std::vector<double> contents(const std::string& name, Buffer<T>& buffer, int rows, int stride, int width)
{
    std::vector<double> out;
    bool untouched = true;
    for (int row = 0; row < rows; ++row) {
        for (int c = 0; c < stride; ++c) {
            const T* at = buffer.get() + static_cast<size_t>(row) * stride + c;
            if (c < width) {
                out.push_back(value(*at));
            } else {
                for (size_t byte = 0; byte < sizeof(T); ++byte) untouched = untouched && reinterpret_cast<const unsigned char*>(at)[byte] == 0xff;
            }
        }
    }
    if (!untouched) expect(name + ": nothing is written between the rows", false);
    return out;
}

// How the kernels of a file are launched.
struct Launch {
    unsigned rows, threads;
    size_t forward_shared, queries_shared, keys_shared;
    // Rows of a block of the gradient of keys and values.
    unsigned key_rows;
};

template <class T, class K> void check_attention(const std::string& kind, const Case& c, const Launch& how, const Tolerances& tolerances, double size = 1.0)
{
    const std::string name = describe(kind + " " + NameOf<T>::name, c);
    Batch<T> b(c, size);
    const int tokens = b.tokens, width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
    // Results have strides of their own.
    const int dq_stride = width + 3 * c.padding, dk_stride = kv_width + c.padding, dv_stride = kv_width + 4 * c.padding;
    Buffer<T> o(size_t(tokens) * b.o_stride), dq(size_t(tokens) * dq_stride), dk(size_t(tokens) * dk_stride), dv(size_t(tokens) * dv_stride);
    Buffer<float> lse(b.lse.size()), delta(b.lse.size());
    const unsigned blocks = blocks_of(tokens, how.rows);
    in_all_orders(name, {output(o), output(lse)}, [&] {
        launch(dim3(blocks, c.heads), how.threads, how.forward_shared, K::forward, b.q->get(), b.k->get(), b.v->get(), o.get(), lse.get(), b.first->get(), tokens,
               c.heads, c.kv_heads, c.head_dim, b.q_stride, b.k_stride, b.v_stride, b.o_stride, b.scale, c.softcap);
    });
    compare(name + " output", contents(name, o, tokens, b.o_stride, width), b.o, tolerances.output);
    compare(name + " lse", lse.values(), b.lse, tolerances.sums);
    in_all_orders(name, {output(delta)},
                  [&] { launch(3, 256, 0, K::delta, o.get(), b.go->get(), delta.get(), tokens, c.heads, c.head_dim, b.o_stride); });
    compare(name + " delta", delta.values(), b.delta, tolerances.output);
    in_all_orders(name, {output(dq)}, [&] {
        launch(dim3(blocks, c.heads), how.threads, how.queries_shared, K::queries, b.q->get(), b.k->get(), b.v->get(), b.go->get(), lse.get(), delta.get(),
               b.first->get(), dq.get(), tokens, c.heads, c.kv_heads, c.head_dim, b.q_stride, b.k_stride, b.v_stride, b.o_stride, dq_stride, b.scale, c.softcap);
    });
    if (tokens > 1) compare(name + " dq", contents(name, dq, tokens, dq_stride, width), b.dq, tolerances.gradients);
    in_all_orders(name, {output(dk), output(dv)}, [&] {
        launch(dim3(blocks_of(tokens, how.key_rows), c.kv_heads), how.threads, how.keys_shared, K::keys, b.q->get(), b.k->get(), b.v->get(), b.go->get(), lse.get(), delta.get(),
               b.first->get(), b.last->get(), dk.get(), dv.get(), tokens, c.heads, c.kv_heads, c.head_dim, b.q_stride, b.k_stride, b.v_stride, b.o_stride,
               dk_stride, dv_stride, b.scale, c.softcap);
    });
    // A single token has all the weight: its scores have no gradient but rounding.
    if (tokens > 1) compare(name + " dk", contents(name, dk, tokens, dk_stride, kv_width), b.dk, tolerances.gradients);
    compare(name + " dv", contents(name, dv, tokens, dv_stride, kv_width), b.dv, tolerances.gradients);
}
