//! The exponential function in a form that the compiler turns into vector instructions, and the macro that lets it.

/// Compiles a function for several instruction sets and chooses at run time. What it calls must be inlined into it.
macro_rules! vectorised {
    ($($function:tt)*) => {
        #[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma"))]
        $($function)*
    };
}
pub(crate) use vectorised;

/// `e^x` to about one unit in the last place: `2^n` times a polynomial in `x - n ln 2` (the coefficients of Cephes' expf, S. Moshier).
/// Not-a-number stays so; below -87.33 the result is 0, above 88.37 infinite.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.33;
    const HIGHEST: f32 = 88.37;
    /// Adding it leaves a whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // Comparisons that are false for not-a-number, so that it goes through.
    let inside = if x < LOWEST { LOWEST } else { x };
    let inside = if inside > HIGHEST { HIGHEST } else { inside };
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = inside - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    let value = (p * r * r + r + 1.0) * power;
    let value = if x < LOWEST { 0.0 } else { value };
    if x > HIGHEST { f32::INFINITY } else { value }
}

/// The hyperbolic tangent to about one part in ten million of its largest value.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

#[cfg(test)]
mod tests {
    use super::{exp, tanh};

    #[test]
    fn the_tangent_equals_the_exact_value() {
        for i in -3000..3000 {
            let x = i as f32 / 200.0;
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 2e-7, "{x}");
        }
        assert!(tanh(1e4) == 1.0 && tanh(-1e4) == -1.0);
    }

    #[test]
    fn it_equals_the_exact_value_over_the_whole_range() {
        let mut x = -87.3f32;
        while x < 88.3 {
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() < 2e-7 * exact, "{x}");
            x += 0.0137;
        }
        assert!(exp(0.0) == 1.0 && exp(-1000.0) == 0.0 && exp(f32::NEG_INFINITY) == 0.0);
        assert!(exp(1000.0) == f32::INFINITY && exp(f32::NAN).is_nan());
    }
}
