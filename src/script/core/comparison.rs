//! Comparisons of numbers as IEEE 754 and Python have them. Rhai's own take numbers that differ in the last digit for equal, those below
//! 2.2e-16 for 0, and nothing for less than infinity: a search that begins with the best loss at infinity would find none.

use crate::script::registry::Registry;
use rhai::plugin::*;

macro_rules! comparison {
    ($module:ident, $sign:tt, $operator:tt, $(#[$documentation:meta])*) => {
        #[export_module]
        #[allow(clippy::unwrap_used, reason = "the macro unwraps arguments whose types the engine has checked")]
        mod $module {
            $(#[$documentation])*
            #[rhai_fn(name = $sign)]
            pub const fn floats(x: f64, y: f64) -> bool {
                x $operator y
            }

            #[rhai_fn(name = $sign)]
            pub const fn int_and_float(x: i64, y: f64) -> bool {
                (x as f64) $operator y
            }

            #[rhai_fn(name = $sign)]
            pub const fn float_and_int(x: f64, y: i64) -> bool {
                x $operator (y as f64)
            }
        }
    };
}

comparison! { equal, "==", ==,
    /// Whether two numbers are the same, to the last digit; NaN equals nothing.
    ///
    /// ```rhai
    /// 0.1 + 0.2 == 0.3 // => false
    /// ```
}
comparison! { not_equal, "!=", !=,
    /// Whether two numbers differ, and be it in the last digit; NaN differs from itself too.
    ///
    /// ```rhai
    /// 1e-20 != 0 // => true
    /// ```
}
comparison! { less, "<", <,
    /// Whether a number is less than another.
    ///
    /// ```rhai
    /// 2.5 < 1.0 / 0.0 // => true
    /// ```
}
comparison! { less_equal, "<=", <=,
    /// Whether a number is at most another.
    ///
    /// ```rhai
    /// 2 <= 2.5 // => true
    /// ```
}
comparison! { greater, ">", >,
    /// Whether a number is greater than another.
    ///
    /// ```rhai
    /// 1e-20 > 0.0 // => true
    /// ```
}
comparison! { greater_equal, ">=", >=,
    /// Whether a number is at least another.
    ///
    /// ```rhai
    /// 0.1 + 0.2 >= 0.3 // => true
    /// ```
}

/// Registers the comparisons, and has the engine ask for them: it has its own at hand for numbers.
pub fn register(engine: &mut Registry<'_>) {
    engine.set_fast_operators(false);
    engine.register_global_module(exported_module!(equal).into());
    engine.register_global_module(exported_module!(not_equal).into());
    engine.register_global_module(exported_module!(less).into());
    engine.register_global_module(exported_module!(less_equal).into());
    engine.register_global_module(exported_module!(greater).into());
    engine.register_global_module(exported_module!(greater_equal).into());
}
