// Numbers of 16 bits that calculate: every operation is done in f32 and rounded, as the device's own types do.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

inline uint16_t bits_bf16(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float value_bf16(uint16_t half)
{
    const uint32_t bits = uint32_t{half} << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline float value_f16(uint16_t half)
{
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    float x;
    if (exponent == 31) x = fraction != 0 ? NAN : INFINITY;
    else if (exponent == 0) x = std::ldexp(static_cast<float>(fraction), -24);
    else x = std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    return (half & 0x8000) != 0 ? -x : x;
}

inline uint16_t bits_f16(float x)
{
    const auto sign = static_cast<uint16_t>(std::signbit(x) ? 0x8000 : 0);
    const float size = std::fabs(x);
    if (std::isnan(x)) return sign | 0x7e00;
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size == 0.0f) return sign;
    int exponent;
    std::frexp(size, &exponent);
    if (exponent < -13) exponent = -13;
    return static_cast<uint16_t>(sign + ((exponent + 13) << 10) + static_cast<int>(std::nearbyint(std::ldexp(size, 11 - exponent))));
}

template <uint16_t (*BITS)(float), float (*VALUE)(uint16_t)> struct Rounded {
    uint16_t bits;
    Rounded() = default;
    template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>> Rounded(T x) : bits(BITS(static_cast<float>(x))) {}
    operator float() const { return VALUE(bits); }
    Rounded operator-() const { return Rounded(-VALUE(bits)); }
};
template <uint16_t (*B)(float), float (*V)(uint16_t)> Rounded<B, V> operator+(Rounded<B, V> x, Rounded<B, V> y) { return V(x.bits) + V(y.bits); }
template <uint16_t (*B)(float), float (*V)(uint16_t)> Rounded<B, V> operator-(Rounded<B, V> x, Rounded<B, V> y) { return V(x.bits) - V(y.bits); }
template <uint16_t (*B)(float), float (*V)(uint16_t)> Rounded<B, V> operator*(Rounded<B, V> x, Rounded<B, V> y) { return V(x.bits) * V(y.bits); }
template <uint16_t (*B)(float), float (*V)(uint16_t)> Rounded<B, V> operator/(Rounded<B, V> x, Rounded<B, V> y) { return V(x.bits) / V(y.bits); }

using bf16 = Rounded<bits_bf16, value_bf16>;
using f16 = Rounded<bits_f16, value_f16>;
static_assert(sizeof(bf16) == 2 && sizeof(f16) == 2);

// What functions of one element are computed in.
inline double wide(double x) { return x; }
inline float wide(float x) { return x; }
inline float wide(bf16 x) { return x; }
inline float wide(f16 x) { return x; }

// What sums are kept in: a device adds in a tree, which loses about as little.
template <class T> struct Accumulator {
    using type = std::conditional_t<std::is_integral_v<T>, T, double>;
};

// As the device converts: fractions to the nearest integer towards zero, and to the nearest that there is.
template <class R, class T> R converted(T x)
{
    if constexpr (std::is_integral_v<R> && !std::is_integral_v<T>) {
        const double value = x;
        if (std::isnan(value)) return 0;
        if (value <= static_cast<double>(std::numeric_limits<R>::min())) return std::numeric_limits<R>::min();
        if (value >= static_cast<double>(std::numeric_limits<R>::max())) return std::numeric_limits<R>::max();
        return static_cast<R>(value);
    } else if constexpr (std::is_arithmetic_v<R>) {
        return static_cast<R>(x);
    } else {
        return R(static_cast<float>(x));
    }
}
