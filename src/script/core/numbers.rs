//! Rounding and fixed decimals, as Python's `round` and `f"{x:.4f}"`.

use crate::script::error::ScriptResult;
use crate::script::registry::Registry;
use rhai::ImmutableString;
use rhai::plugin::*;

/// Rounds to decimals as Python does: by the exact decimal value of the float, ties to even.
fn round_to(value: f64, digits: i64) -> f64 {
    if !value.is_finite() || digits > 300 {
        return value;
    }
    if digits >= 0 {
        return format!("{value:.*}", digits.unsigned_abs() as usize).parse().unwrap_or(value);
    }
    let scale = 10f64.powi(i32::try_from(-digits).unwrap_or(i32::MAX));
    if scale.is_finite() { (value / scale).round_ties_even() * scale } else { 0.0 }
}

fn fixed_text(value: f64, digits: i64) -> ImmutableString {
    if !value.is_finite() {
        return crate::script::display::float(value).into();
    }
    format!("{value:.*}", digits.clamp(0, 1000).unsigned_abs() as usize).into()
}

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// The natural logarithm, as Python's `math.log`; `log(x, base)` takes another base.
    ///
    /// ```rhai
    /// round(log(2.0), 4) // => 0.6931
    /// ```
    #[rhai_fn(name = "log")]
    pub fn log_float(x: f64) -> f64 {
        x.ln()
    }

    #[rhai_fn(name = "log")]
    pub fn log_int(x: i64) -> f64 {
        (x as f64).ln()
    }

    /// The square root of a number, as Python's `math.sqrt`; of one below 0 it is NaN.
    ///
    /// ```rhai
    /// sqrt(16) // => 4.0
    /// ```
    #[rhai_fn(name = "sqrt")]
    pub fn sqrt_int(x: i64) -> f64 {
        (x as f64).sqrt()
    }

    /// The exponential of a number, as Python's `math.exp`.
    ///
    /// ```rhai
    /// exp(0) // => 1.0
    /// ```
    #[rhai_fn(name = "exp")]
    pub fn exp_int(x: i64) -> f64 {
        (x as f64).exp()
    }

    /// A number to the power of another, as Python's `pow`: an integer where both are and the exponent is not below 0.
    ///
    /// ```rhai
    /// [pow(2, 10), pow(2, -1), pow(0.5, 2)] // => [1024, 0.5, 0.25]
    /// ```
    #[rhai_fn(name = "pow", return_raw)]
    pub fn pow_int(x: i64, exponent: i64) -> ScriptResult<Dynamic> {
        if exponent < 0 {
            return Ok((x as f64).powf(exponent as f64).into());
        }
        let power = u32::try_from(exponent).ok().and_then(|exponent| x.checked_pow(exponent));
        power.map(Dynamic::from).ok_or_else(|| format!("pow: {x} to the power of {exponent} does not fit into an integer").into())
    }

    #[rhai_fn(name = "pow")]
    pub fn pow_float(x: f64, exponent: f64) -> f64 {
        x.powf(exponent)
    }

    #[rhai_fn(name = "pow")]
    pub fn pow_float_int(x: f64, exponent: i64) -> f64 {
        x.powf(exponent as f64)
    }

    #[rhai_fn(name = "pow")]
    pub fn pow_int_float(x: i64, exponent: f64) -> f64 {
        (x as f64).powf(exponent)
    }

    /// Rounds to a number of decimals, as Python's `round(x, n)`.
    ///
    /// ```rhai
    /// round(2.71828, 2) // => 2.72
    /// ```
    #[rhai_fn(name = "round")]
    pub fn round_float(x: f64, digits: i64) -> f64 {
        round_to(x, digits)
    }

    #[rhai_fn(name = "round")]
    pub fn round_int(x: i64, digits: i64) -> i64 {
        if digits >= 0 { x } else { round_to(x as f64, digits) as i64 }
    }

    /// The text of a number with exactly so many decimals, as Python's `f"{x:.4f}"`.
    ///
    /// ```rhai
    /// fixed(0.5, 4) // => 0.5000
    /// ```
    #[rhai_fn(name = "fixed")]
    pub fn fixed_float(x: f64, digits: i64) -> ImmutableString {
        fixed_text(x, digits)
    }

    #[rhai_fn(name = "fixed")]
    pub fn fixed_int(x: i64, digits: i64) -> ImmutableString {
        fixed_text(x as f64, digits)
    }

    /// A number between 0 and 1 as a percentage with so many decimals, as Python's `f"{x:.1%}"`.
    ///
    /// ```rhai
    /// percent(0.876, 1) // => 87.6%
    /// ```
    #[rhai_fn(name = "percent")]
    pub fn percent(x: f64, digits: i64) -> ImmutableString {
        format!("{}%", fixed_text(x * 100.0, digits)).into()
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_global_module(exported_module!(functions).into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_pythons() {
        for (x, digits, rounded) in [(2.675, 2, 2.67), (0.5, 0, 0.0), (1.5, 0, 2.0), (1234.5, -2, 1200.0), (-0.05, 1, -0.1)] {
            assert_eq!(round_to(x, digits), rounded, "{x} {digits}");
        }
        assert_eq!(fixed_text(f64::NAN, 3), "nan");
    }
}
