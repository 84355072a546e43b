// Stands in for candle's own kernels (candle-kernels): plain functions with the kernels' names and parameters. `info` holds dims, then strides, each
// of `num_dims`; null where everything is contiguous. Two operands have two sets of strides behind the dims, a choice three.
#include "numbers.hpp"
#include "standin.hpp"
#include <algorithm>
#include <limits>

namespace {

using standin::Launch;
using standin::plain;

size_t threads(const Launch& launch) { return size_t{launch.grid[0]} * launch.block[0]; }

// Kernels without a loop leave out what no thread is there for.
void expect_threads(const Launch& launch, size_t wanted)
{
    if (threads(launch) < wanted) standin::die("fewer threads than elements in a kernel of candle's");
}

// The place of an element among dims and strides.
size_t place(size_t i, size_t num_dims, const size_t* dims, const size_t* strides)
{
    size_t at = 0;
    for (size_t d = num_dims; d-- > 0;) {
        at += i % dims[d] * strides[d];
        i /= dims[d];
    }
    return at;
}

size_t place(size_t i, size_t num_dims, const size_t* info, size_t set = 1) { return info == nullptr ? i : place(i, num_dims, info, info + set * num_dims); }

// ---- operations on an element or two

template <class T, T (*F)(T)> void unary(size_t n, size_t num_dims, const size_t* info, const T* x, T* y)
{
    for (size_t i = 0; i < n; ++i) y[i] = F(x != nullptr ? x[place(i, num_dims, info)] : y[i]);
}

template <class T, T (*F)(T, T)> void unary_with(size_t n, size_t num_dims, const size_t* info, T parameter, const T* x, T* y)
{
    for (size_t i = 0; i < n; ++i) y[i] = F(x != nullptr ? x[place(i, num_dims, info)] : y[i], parameter);
}

template <class T> void affine(size_t n, size_t num_dims, const size_t* info, const T* x, T* y, T factor, T summand)
{
    for (size_t i = 0; i < n; ++i) y[i] = static_cast<T>(static_cast<T>((x != nullptr ? x[place(i, num_dims, info)] : y[i]) * factor) + summand);
}

template <class T, class R, R (*F)(T, T)> void binary(size_t n, size_t num_dims, const size_t* info, const T* a, const T* b, R* y)
{
    for (size_t i = 0; i < n; ++i) y[i] = F(a[place(i, num_dims, info)], b[place(i, num_dims, info, 2)]);
}

template <class T, class I> void choose(size_t n, size_t num_dims, const size_t* info, const I* which, const T* yes, const T* no, T* y)
{
    for (size_t i = 0; i < n; ++i) y[i] = which[place(i, num_dims, info)] != 0 ? yes[place(i, num_dims, info, 2)] : no[place(i, num_dims, info, 3)];
}

template <class T, class R> void cast(size_t n, size_t num_dims, const size_t* info, const T* x, R* y)
{
    for (size_t i = 0; i < n; ++i) y[i] = converted<R>(x[place(i, num_dims, info)]);
}

// ---- fills and copies

template <class T> void fill(T* y, T value, size_t n) { std::fill(y, y + n, value); }

template <class T> void const_set(size_t n, size_t num_dims, const size_t* info, T value, T* y)
{
    for (size_t i = 0; i < n; ++i) y[place(i, num_dims, info)] = value;
}

template <class T> void copy2d(const Launch& launch, const T* from, T* to, uint32_t rows, uint32_t columns, uint32_t from_stride, uint32_t to_stride)
{
    expect_threads(launch, size_t{rows} * columns);
    for (size_t row = 0; row < rows; ++row) std::copy_n(from + row * from_stride, columns, to + row * to_stride);
}

// ---- rows by ids; the largest id is none

template <class I> size_t checked(I id, size_t size)
{
    if (static_cast<uint64_t>(id) >= size) standin::die("an id of " + std::to_string(id) + " where there are " + std::to_string(size));
    return static_cast<size_t>(id);
}

template <class T, class I>
void index_select(size_t n, size_t num_dims, const size_t* info, const I* ids, const T* x, T* y, size_t, size_t size, size_t count, size_t right)
{
    // Of the ids, although candle's kernel takes them for those of x; both are contiguous.
    for (size_t d = num_dims, expected = 1; d-- > 0; expected *= info[d]) {
        if (info[d] > 1 && info[num_dims + d] != expected) standin::die("index_select with ids that are not contiguous");
    }
    for (size_t i = 0; i < n; ++i) {
        const size_t left = i / (count * right);
        const I id = ids[i / right % count];
        y[i] = id == std::numeric_limits<I>::max() ? T(0) : x[(left * size + checked(id, size)) * right + i % right];
    }
}

template <class T, class I> void gather(size_t n, const I* ids, const T* x, T* y, size_t, size_t size, size_t count, size_t right)
{
    for (size_t i = 0; i < n; ++i) {
        const I id = ids[i];
        y[i] = id == std::numeric_limits<I>::max() ? T(0) : x[(i / (right * count) * size + checked(id, size)) * right + i % right];
    }
}

template <class T, class I> void index_add(const I* ids, size_t count, const T* x, T* y, size_t left, size_t, size_t size, size_t right)
{
    for (size_t l = 0; l < left; ++l) {
        for (size_t j = 0; j < count; ++j) {
            if (ids[j] == std::numeric_limits<I>::max()) continue;
            for (size_t r = 0; r < right; ++r) {
                T& sum = y[(l * size + checked(ids[j], size)) * right + r];
                sum = static_cast<T>(sum + x[(l * count + j) * right + r]);
            }
        }
    }
}

template <class T, class I, bool ADDS> void scatter(const I* ids, const T* x, T* y, size_t left, size_t count, size_t size, size_t right)
{
    for (size_t i = 0; i < left * count * right; ++i) {
        if (ids[i] == std::numeric_limits<I>::max()) continue;
        T& to = y[(i / (right * count) * size + checked(ids[i], size)) * right + i % right];
        to = ADDS ? static_cast<T>(to + x[i]) : x[i];
    }
}

// ---- reductions over the last dimensions: a block is an output's

template <class T> void sum_block(const Launch& launch, size_t n, size_t each, size_t num_dims, const size_t* info, const T* x, T* y)
{
    for (size_t out = 0; out < launch.grid[0]; ++out) {
        typename Accumulator<T>::type sum = 0;
        for (size_t i = out * each; i < std::min((out + 1) * each, n); ++i) sum += x[place(i, num_dims, info)];
        y[out] = static_cast<T>(sum);
    }
}

template <class T> void sum_small(const Launch& launch, size_t outputs, size_t each, size_t num_dims, const size_t* info, const T* x, T* y)
{
    expect_threads(launch, outputs);
    Launch all = launch;
    all.grid[0] = static_cast<unsigned>(outputs);
    sum_block(all, outputs * each, each, num_dims, info, x, y);
}

// The index of the largest (or smallest) element, or the element; NaN is never better than what was there.
template <class T, bool LARGEST> size_t best(size_t out, size_t n, size_t each, size_t num_dims, const size_t* info, const T* x)
{
    size_t found = out * each;
    for (size_t i = found + 1; i < std::min((out + 1) * each, n); ++i) {
        const T mine = x[place(i, num_dims, info)], theirs = x[place(found, num_dims, info)];
        if (LARGEST ? mine > theirs : mine < theirs) found = i;
    }
    return found;
}

template <class T, bool LARGEST> void extreme(const Launch& launch, size_t n, size_t each, size_t num_dims, const size_t* info, const T* x, T* y)
{
    for (size_t out = 0; out < launch.grid[0]; ++out) y[out] = x[place(best<T, LARGEST>(out, n, each, num_dims, info, x), num_dims, info)];
}

template <class T, bool LARGEST> void place_of_extreme(const Launch& launch, size_t n, size_t each, size_t num_dims, const size_t* info, const T* x, uint32_t* y)
{
    for (size_t out = 0; out < launch.grid[0]; ++out) {
        y[out] = static_cast<uint32_t>(best<T, LARGEST>(out, n, each, num_dims, info, x) % info[num_dims - 1]);
    }
}

template <class T, bool RISING> void sort_rows(const Launch& launch, const T* x, uint32_t* y, int columns, int)
{
    for (size_t row = 0; row < launch.grid[0]; ++row) {
        uint32_t* order = y + row * static_cast<size_t>(columns);
        const T* values = x + row * static_cast<size_t>(columns);
        for (int i = 0; i < columns; ++i) order[i] = static_cast<uint32_t>(i);
        std::stable_sort(order, order + columns, [&](uint32_t a, uint32_t b) { return RISING ? values[a] < values[b] : values[a] > values[b]; });
    }
}

// ---- the elements' operations

#define UNARY(name, expression) \
    template <class T> T name(T x) { return static_cast<T>(expression); }
UNARY(same, x)
UNARY(neg, -x)
UNARY(recip, T(1) / x)
UNARY(exp_, std::exp(wide(x)))
UNARY(log_, std::log(wide(x)))
UNARY(sin_, std::sin(wide(x)))
UNARY(cos_, std::cos(wide(x)))
UNARY(tanh_, std::tanh(wide(x)))
UNARY(erf_, std::erf(wide(x)))
UNARY(ceil_, std::ceil(wide(x)))
UNARY(floor_, std::floor(wide(x)))
UNARY(round_, std::round(wide(x)))
UNARY(abs_, std::fabs(wide(x)))
UNARY(sqr, x * x)
UNARY(sqrt_, std::sqrt(wide(x)))
UNARY(relu, x > T(0) ? x : T(0))
UNARY(silu, wide(x) / (1 + std::exp(-wide(x))))
UNARY(sigmoid, 1 / (1 + std::exp(-wide(x))))
UNARY(sign, T(x > T(0)) - T(x < T(0)))
UNARY(gelu, 0.5f * wide(x) * (1 + std::tanh(0.7978845608028654f * (wide(x) + 0.044715f * wide(x) * wide(x) * wide(x)))))
UNARY(gelu_erf, 0.5f * wide(x) * (1 + std::erf(wide(x) * 0.7071067811865476f)))

#define BINARY(R, name, expression) \
    template <class T> R name(T x, T y) { return static_cast<R>(expression); }
BINARY(T, plus, x + y)
BINARY(T, minus, x - y)
BINARY(T, times, x * y)
BINARY(T, over, x / y)
BINARY(T, larger, x != x ? x : y != y ? y : x > y ? x : y)
BINARY(T, smaller, x != x ? x : y != y ? y : x < y ? x : y)
BINARY(T, power, std::pow(wide(x), wide(y)))
BINARY(T, elu, x > T(0) ? wide(x) : wide(y) * (std::exp(wide(x)) - 1))
BINARY(uint8_t, eq, x == y)
BINARY(uint8_t, ne, x != y)
BINARY(uint8_t, lt, x < y)
BINARY(uint8_t, le, x <= y)
BINARY(uint8_t, gt, x > y)
BINARY(uint8_t, ge, x >= y)

// ---- their names

struct Names {
    std::map<std::string, standin::Kernel>& kernels = standin::kernels()["candle"];

    // Of a type that is a number of any kind.
    template <class T> void of_all(const std::string& t)
    {
        kernels["affine_" + t] = plain(affine<T>);
        kernels["fill_" + t] = plain(fill<T>);
        kernels["copy2d_" + t] = plain(copy2d<T>);
        kernels["const_set_" + t] = plain(const_set<T>);
        kernels["ucopy_" + t] = plain(unary<T, same<T>>);
        kernels["badd_" + t] = plain(binary<T, T, plus<T>>);
        kernels["bsub_" + t] = plain(binary<T, T, minus<T>>);
        kernels["bmul_" + t] = plain(binary<T, T, times<T>>);
        kernels["bdiv_" + t] = plain(binary<T, T, over<T>>);
        kernels["bmaximum_" + t] = plain(binary<T, T, larger<T>>);
        kernels["bminimum_" + t] = plain(binary<T, T, smaller<T>>);
        kernels["eq_" + t] = plain(binary<T, uint8_t, eq<T>>);
        kernels["ne_" + t] = plain(binary<T, uint8_t, ne<T>>);
        kernels["lt_" + t] = plain(binary<T, uint8_t, lt<T>>);
        kernels["le_" + t] = plain(binary<T, uint8_t, le<T>>);
        kernels["gt_" + t] = plain(binary<T, uint8_t, gt<T>>);
        kernels["ge_" + t] = plain(binary<T, uint8_t, ge<T>>);
        kernels["fast_sum_" + t] = plain(sum_block<T>);
        kernels["fast_sum_small_" + t] = plain(sum_small<T>);
        kernels["fast_max_" + t] = plain(extreme<T, true>);
        kernels["fast_min_" + t] = plain(extreme<T, false>);
        kernels["fast_argmax_" + t] = plain(place_of_extreme<T, true>);
        kernels["fast_argmin_" + t] = plain(place_of_extreme<T, false>);
        kernels["asort_asc_" + t] = plain(sort_rows<T, true>);
        kernels["asort_desc_" + t] = plain(sort_rows<T, false>);
        by_ids<T, uint8_t>("u8_" + t);
        by_ids<T, uint32_t>("u32_" + t);
        by_ids<T, int64_t>("i64_" + t);
        cast_to<T, float>(t, "f32");
        cast_to<T, double>(t, "f64");
        cast_to<T, bf16>(t, "bf16");
        cast_to<T, f16>(t, "f16");
        cast_to<T, uint8_t>(t, "u8");
        cast_to<T, uint32_t>(t, "u32");
        cast_to<T, int64_t>(t, "i64");
    }

    template <class T, class R> void cast_to(const std::string& t, const std::string& r) { kernels["cast_" + t + "_" + r] = plain(cast<T, R>); }

    template <class T, class I> void by_ids(const std::string& end)
    {
        kernels["is_" + end] = plain(index_select<T, I>);
        kernels["gather_" + end] = plain(gather<T, I>);
        kernels["ia_" + end] = plain(index_add<T, I>);
        kernels["s_" + end] = plain(scatter<T, I, false>);
        kernels["sa_" + end] = plain(scatter<T, I, true>);
        kernels["where_" + end] = plain(choose<T, I>);
    }

    template <class T> void of_fractions(const std::string& t)
    {
        kernels["uneg_" + t] = plain(unary<T, neg<T>>);
        kernels["urecip_" + t] = plain(unary<T, recip<T>>);
        kernels["uexp_" + t] = plain(unary<T, exp_<T>>);
        kernels["ulog_" + t] = plain(unary<T, log_<T>>);
        kernels["usin_" + t] = plain(unary<T, sin_<T>>);
        kernels["ucos_" + t] = plain(unary<T, cos_<T>>);
        kernels["utanh_" + t] = plain(unary<T, tanh_<T>>);
        kernels["uerf_" + t] = plain(unary<T, erf_<T>>);
        kernels["uceil_" + t] = plain(unary<T, ceil_<T>>);
        kernels["ufloor_" + t] = plain(unary<T, floor_<T>>);
        kernels["uround_" + t] = plain(unary<T, round_<T>>);
        kernels["uabs_" + t] = plain(unary<T, abs_<T>>);
        kernels["usqr_" + t] = plain(unary<T, sqr<T>>);
        kernels["usqrt_" + t] = plain(unary<T, sqrt_<T>>);
        kernels["urelu_" + t] = plain(unary<T, relu<T>>);
        kernels["usilu_" + t] = plain(unary<T, silu<T>>);
        kernels["usigmoid_" + t] = plain(unary<T, sigmoid<T>>);
        kernels["usign_" + t] = plain(unary<T, sign<T>>);
        kernels["ugelu_" + t] = plain(unary<T, gelu<T>>);
        kernels["ugelu_erf_" + t] = plain(unary<T, gelu_erf<T>>);
        kernels["uelu_" + t] = plain(unary_with<T, elu<T>>);
        kernels["upowf_" + t] = plain(unary_with<T, power<T>>);
    }
};

const bool known = [] {
    Names names;
    names.of_all<float>("f32");
    names.of_all<double>("f64");
    names.of_all<bf16>("bf16");
    names.of_all<f16>("f16");
    names.of_all<uint8_t>("u8");
    names.of_all<uint32_t>("u32");
    names.of_all<int64_t>("i64");
    names.of_fractions<float>("f32");
    names.of_fractions<double>("f64");
    names.of_fractions<bf16>("bf16");
    names.of_fractions<f16>("f16");
    return true;
}();

} // namespace
