// What the checks share: guarded memory, random numbers, launches in every order, comparison with a reference in double precision.
#pragma once
#include "emulator.hpp"
#include <memory>

using emulator::launch;
using emulator::Order;

inline int failures = 0;

template <class T> struct NameOf;
template <> struct NameOf<float> {
    static constexpr const char* name = "f32";
    // Relative error of a number that has been rounded once.
    static constexpr double rounding = 6e-8;
};
template <> struct NameOf<bf16> {
    static constexpr const char* name = "bf16";
    static constexpr double rounding = 1.0 / 256;
};
template <> struct NameOf<f16> {
    static constexpr const char* name = "f16";
    static constexpr double rounding = 1.0 / 2048;
};
template <class T> double value(T x) { return to_f32(x); }
inline double value(int x) { return x; }

// A rounded to T, in double precision.
template <class T> double as(double x) { return value(from_f32<T>(static_cast<float>(x))); }

// Memory of n elements between inaccessible pages; what does not fill the last 16 bytes is a band that is checked. `shift` elements of it move
// the beginning off a multiple of 16 bytes.
template <class T> class Buffer {
public:
    explicit Buffer(size_t n, size_t shift = 0) : n_(n)
    {
        emulator::start();
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        bytes_ = std::max<size_t>(n * sizeof(T), 1);
        const size_t inner = ((bytes_ + shift * sizeof(T) + 15) / 16 * 16 + page - 1) / page * page;
        mapped_ = inner + 2 * page;
        map_ = emulator::pages(mapped_);
        body_ = map_ + page;
        body_bytes_ = inner;
        mprotect(map_, page, PROT_NONE);
        mprotect(body_ + inner, page, PROT_NONE);
        std::memset(body_, BAND, inner);
        data_ = reinterpret_cast<T*>(body_ + inner - (bytes_ + shift * sizeof(T) + 15) / 16 * 16 + shift * sizeof(T));
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { munmap(map_, mapped_); }
    T* get() { return data_; }
    size_t size() const { return n_; }
    T& operator[](size_t i) { return data_[i]; }
    // From now on a write to it ends the check.
    void freeze() { mprotect(body_, body_bytes_, PROT_READ); }
    void verify() const
    {
        const auto* from = reinterpret_cast<const unsigned char*>(data_);
        for (const unsigned char* p = body_; p < body_ + body_bytes_; ++p) {
            if ((p < from || p >= from + bytes_) && *p != BAND) emulator::fail("a write outside a buffer of " + std::to_string(n_) + " elements");
        }
    }
    std::vector<double> values()
    {
        std::vector<double> out(n_);
        for (size_t i = 0; i < n_; ++i) out[i] = value(data_[i]);
        return out;
    }

private:
    static constexpr unsigned char BAND = 0xfe;
    size_t n_, bytes_, mapped_, body_bytes_;
    unsigned char *map_, *body_;
    T* data_;
};

inline std::mt19937& generator()
{
    static std::mt19937 random(7);
    return random;
}

// Normal numbers, rounded to T.
template <class T> std::unique_ptr<Buffer<T>> normal(size_t n, double scale = 1.0, double mean = 0.0, size_t shift = 0)
{
    auto buffer = std::make_unique<Buffer<T>>(n, shift);
    std::normal_distribution<double> distribution(mean, scale);
    for (size_t i = 0; i < n; ++i) (*buffer)[i] = from_f32<T>(static_cast<float>(distribution(generator())));
    buffer->freeze();
    return buffer;
}

template <class V> std::unique_ptr<Buffer<V>> copied(const std::vector<V>& from)
{
    auto buffer = std::make_unique<Buffer<V>>(from.size());
    for (size_t i = 0; i < from.size(); ++i) (*buffer)[i] = from[i];
    buffer->freeze();
    return buffer;
}

// Something that a launch writes: what is there before is put back before every run, NaN where it is to be overwritten.
struct Output {
    void* data;
    size_t bytes;
    std::vector<unsigned char> before;
    std::function<void()> verify;
};
template <class T> Output output(Buffer<T>& buffer)
{
    return {buffer.get(), buffer.size() * sizeof(T), std::vector<unsigned char>(buffer.size() * sizeof(T), 0xff), [&buffer] { buffer.verify(); }};
}
template <class T> Output updated(Buffer<T>& buffer)
{
    const auto* from = reinterpret_cast<unsigned char*>(buffer.get());
    return {buffer.get(), buffer.size() * sizeof(T), std::vector<unsigned char>(from, from + buffer.size() * sizeof(T)), [&buffer] { buffer.verify(); }};
}

inline const std::vector<Order> ALL_ORDERS = {Order::descending, Order::random, Order::ascending};

// Runs a launch in every order: the results must be the same bits. The last ones are left in the outputs.
inline void in_all_orders(const std::string& name, std::vector<Output> outputs, const std::function<void()>& run)
{
    std::vector<std::vector<unsigned char>> results;
    for (Order order : ALL_ORDERS) {
        emulator::running = name + " (" + emulator::name(order) + ")";
        emulator::machine.order = order;
        for (Output& out : outputs) std::memcpy(out.data, out.before.data(), out.bytes);
        run();
        for (size_t i = 0; i < outputs.size(); ++i) {
            const auto* at = static_cast<unsigned char*>(outputs[i].data);
            if (outputs[i].verify) outputs[i].verify();
            if (results.size() < outputs.size()) {
                results.emplace_back(at, at + outputs[i].bytes);
            } else if (std::memcmp(results[i].data(), at, outputs[i].bytes) != 0) {
                std::printf("FAILED %s: result %zu depends on the order of threads or blocks (%s)\n", name.c_str(), i, emulator::name(order));
                ++failures;
            }
        }
    }
    emulator::running = name;
}

// The largest error. With floor 1 it is relative to the largest reference value; with a smaller one to each value, or to that share of the
// largest where the value is smaller.
inline void compare(const std::string& name, const std::vector<double>& got, const std::vector<double>& expected, double tolerance, double floor = 1.0)
{
    double largest = 0, error = 0;
    for (double x : expected) largest = std::max(largest, std::fabs(x));
    bool bad = got.size() != expected.size();
    for (size_t i = 0; i < expected.size() && !bad; ++i) {
        const double difference = std::fabs(got[i] - expected[i]), scale = std::max({std::fabs(expected[i]), floor * largest, 1e-30});
        if (!(difference < INFINITY)) bad = true;
        error = std::max(error, difference / scale);
    }
    bad = bad || error > tolerance;
    failures += bad;
    std::printf("%s %-72s error %.2e tolerance %.2e\n", bad ? "FAILED" : "ok    ", name.c_str(), error, tolerance);
    std::fflush(stdout);
}

inline void expect(const std::string& name, bool holds)
{
    failures += !holds;
    std::printf("%s %s\n", holds ? "ok    " : "FAILED", name.c_str());
}

// Elements that have been rounded to T once: each within its rounding, where it is not far below the largest.
template <class T> void compare_rounded(const std::string& name, Buffer<T>& got, const std::vector<double>& expected, double f32_tolerance = 2e-5)
{
    if (sizeof(T) == 4) {
        compare(name, got.values(), expected, f32_tolerance);
    } else {
        // 2 % for errors of f32 that tip a rounding over.
        compare(name, got.values(), expected, NameOf<T>::rounding * 1.02, 0.01);
    }
}

inline std::string join(const std::string& name) { return name; }
template <class A, class... B> std::string join(const std::string& name, const char* key, A value, B... rest)
{
    return join(name + " " + key + "=" + std::to_string(value), rest...);
}

inline unsigned blocks_of(size_t n, size_t per_block) { return static_cast<unsigned>(std::max<size_t>((n + per_block - 1) / per_block, 1)); }

inline int finish()
{
    if (failures > 0) std::printf("%d failed\n", failures);
    return failures > 0;
}
