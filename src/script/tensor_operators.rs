//! Operators between tensors and numbers: arithmetic and comparison.

use super::error::{IntoScript, ScriptResult};
use super::options::{Validate, options};
use super::tensor::{Tensor, TensorValue, wrap};
use crate::error::Result;
use crate::nn::algebra::{self, Binary, Compare, Scalar};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Dynamic, Map};
use serde::{Deserialize, Serialize};

/// An operator of two tensors, of a tensor and a number, and of a number and a tensor.
macro_rules! operator {
    ($module:ident, $name:tt, $operation:expr, $(#[$doc:meta])*) => {
        #[export_module]
        mod $module {
            use super::*;
            $(#[$doc])*
            #[rhai_fn(name = $name, return_raw)]
            pub fn tensors(a: Tensor, b: Tensor) -> ScriptResult<Tensor> {
                wrap(algebra::binary(&a.input(), &b.input(), $operation))
            }
            /// The same with a float on the right.
            #[rhai_fn(name = $name, return_raw)]
            pub fn with_float(a: Tensor, b: f64) -> ScriptResult<Tensor> {
                wrap(algebra::with_scalar(&a.input(), Scalar::Float(b), $operation))
            }
            /// The same with an integer on the right.
            #[rhai_fn(name = $name, return_raw)]
            pub fn with_int(a: Tensor, b: i64) -> ScriptResult<Tensor> {
                wrap(algebra::with_scalar(&a.input(), Scalar::Int(b), $operation))
            }
            /// The same with a float on the left.
            #[rhai_fn(name = $name, return_raw)]
            pub fn of_float(a: f64, b: Tensor) -> ScriptResult<Tensor> {
                wrap(algebra::scalar_with(Scalar::Float(a), &b.input(), $operation))
            }
            /// The same with an integer on the left.
            #[rhai_fn(name = $name, return_raw)]
            pub fn of_int(a: i64, b: Tensor) -> ScriptResult<Tensor> {
                wrap(algebra::scalar_with(Scalar::Int(a), &b.input(), $operation))
            }
        }
    };
}

operator! { add, "+", Binary::Add,
    /// Adds elementwise; shapes broadcast, integers with floats give floats.
    /// ```rhai
    /// tensor([1.0, 2.0]) + tensor(10.0)      // => tensor([11., 12.])
    /// ```
}
operator! { subtract, "-", Binary::Sub,
    /// Subtracts elementwise; shapes broadcast.
    /// ```rhai
    /// 1.0 - tensor([1.0, 2.0])      // => tensor([ 0., -1.])
    /// ```
}
operator! { multiply, "*", Binary::Mul,
    /// Multiplies elementwise; shapes broadcast. The matrix product is `a.matmul(b)` or `a @ b`.
    /// ```rhai
    /// tensor([1, 2]) * 2.0      // => tensor([2., 4.])
    /// ```
}
operator! { divide, "/", Binary::Div,
    /// Divides elementwise; of integers too the result is a float.
    /// ```rhai
    /// tensor([1, 3]) / 2      // => tensor([0.5000, 1.5000])
    /// ```
}

/// A comparison: elementwise, except that two single elements give true or false, so that `if loss < 0.1` works.
fn compare(a: &TensorValue, b: &TensorValue, operation: Compare) -> ScriptResult<Dynamic> {
    truth(algebra::compare(&a.value(), &b.value(), operation))
}

fn truth(result: Result<candle_core::Tensor>) -> ScriptResult<Dynamic> {
    let result = result.script()?;
    if result.rank() == 0 {
        return Ok((result.to_scalar::<u8>().script()? != 0).into());
    }
    Ok(Dynamic::from(TensorValue::new(result)))
}

macro_rules! comparison {
    ($module:ident, $name:tt, $method:tt, $operation:expr, $(#[$doc:meta])*) => {
        #[export_module]
        mod $module {
            use super::*;
            $(#[$doc])*
            #[rhai_fn(name = $name, name = $method, return_raw)]
            pub fn tensors(a: Tensor, b: Tensor) -> ScriptResult<Dynamic> {
                compare(&a, &b, $operation)
            }
            /// The same with a float.
            #[rhai_fn(name = $name, name = $method, return_raw)]
            pub fn with_float(a: Tensor, b: f64) -> ScriptResult<Dynamic> {
                truth(algebra::compare_scalar(&a.value(), Scalar::Float(b), $operation))
            }
            /// The same with an integer.
            #[rhai_fn(name = $name, name = $method, return_raw)]
            pub fn with_int(a: Tensor, b: i64) -> ScriptResult<Dynamic> {
                truth(algebra::compare_scalar(&a.value(), Scalar::Int(b), $operation))
            }
        }
    };
}

comparison! { less, "<", "lt", Compare::Lt,
    /// Compares elementwise: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor([1.0, 3.0]) < 2.0      // => tensor([1, 0], dtype=u8)
    /// ```
}
comparison! { less_equal, "<=", "le", Compare::Le,
    /// Compares elementwise: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor(2.0) <= 2      // => true
    /// ```
}
comparison! { greater, ">", "gt", Compare::Gt,
    /// Compares elementwise: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor(2.0) > 2      // => false
    /// ```
}
comparison! { greater_equal, ">=", "ge", Compare::Ge,
    /// Compares elementwise: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor([1, 2]) >= 2      // => tensor([0, 1], dtype=u8)
    /// ```
}

/// Options of `allclose` and `is_close`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Tolerance {
    atol: f64,
    rtol: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { atol: 1e-8, rtol: 1e-5 }
    }
}

impl Validate for Tolerance {}

/// |a - b| <= atol + rtol |b|, elementwise.
fn is_close(a: &TensorValue, b: &TensorValue, within: &Tolerance) -> Result<candle_core::Tensor> {
    let (a, b) = (a.value(), b.value().to_dtype(candle_core::DType::F64)?);
    let distance = algebra::binary(&a.to_dtype(candle_core::DType::F64)?, &b, Binary::Sub)?.abs()?;
    let allowed = b.abs()?.affine(within.rtol, within.atol)?;
    let close = algebra::compare(&distance, &allowed, Compare::Le)?;
    // Infinities are close to themselves alone.
    let finite = algebra::compare_scalar(&distance, Scalar::Float(f64::INFINITY), Compare::Lt)?;
    let equal = algebra::compare(&a, &b, Compare::Eq)?;
    Ok((close * finite)?.maximum(&equal)?)
}

fn all_close(a: &TensorValue, b: &TensorValue, within: &Tolerance) -> Result<bool> {
    let close = is_close(a, b, within)?;
    Ok(close.elem_count() == 0 || close.flatten_all()?.min(0)?.to_scalar::<u8>()? == 1)
}

#[export_module]
mod equality {
    /// Whether two tensors have the same shape and equal elements.
    /// ```rhai
    /// tensor([1, 2]) == tensor([1, 2])      // => true
    /// ```
    #[rhai_fn(name = "==", name = "equal", return_raw)]
    pub fn equal(a: Tensor, b: Tensor) -> ScriptResult<bool> {
        Ok(a.tensor.dims() == b.tensor.dims() && all_close(&a, &b, &Tolerance { atol: 0.0, rtol: 0.0 }).script()?)
    }

    /// Whether two tensors differ in shape or in an element.
    /// ```rhai
    /// tensor([1, 2]) != tensor([1, 3])      // => true
    /// ```
    #[rhai_fn(name = "!=", return_raw)]
    pub fn not_equal(a: Tensor, b: Tensor) -> ScriptResult<bool> {
        equal(a, b).map(|same| !same)
    }

    /// Elementwise equality: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor([1, 2]).eq(tensor([1, 3]))      // => tensor([1, 0], dtype=u8)
    /// ```
    #[rhai_fn(name = "eq", return_raw)]
    pub fn elementwise_equal(a: Tensor, b: Tensor) -> ScriptResult<Dynamic> {
        compare(&a, &b, Compare::Eq)
    }

    /// Elementwise inequality: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor([1, 2]).ne(tensor([1, 3]))      // => tensor([0, 1], dtype=u8)
    /// ```
    #[rhai_fn(name = "ne", return_raw)]
    pub fn elementwise_not_equal(a: Tensor, b: Tensor) -> ScriptResult<Dynamic> {
        compare(&a, &b, Compare::Ne)
    }

    /// Whether all elements are close: |a - b| <= atol + rtol |b|, with atol 1e-8 and rtol 1e-5.
    /// ```rhai
    /// allclose(tensor([1.0]), tensor([1.000001]))      // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn allclose(a: Tensor, b: Tensor) -> ScriptResult<bool> {
        all_close(&a, &b, &Tolerance::default()).script()
    }

    /// Whether all elements are close. Options: atol, rtol.
    #[rhai_fn(name = "allclose", return_raw)]
    pub fn allclose_within(a: Tensor, b: Tensor, given: Map) -> ScriptResult<bool> {
        all_close(&a, &b, &options("allclose", given)?).script()
    }

    /// Which elements are close: |a - b| <= 1e-8 + 1e-5 |b|; a tensor of 0 and 1.
    /// ```rhai
    /// is_close(tensor([1.0, 2.0]), tensor([1.0, 2.1]))      // => tensor([1, 0], dtype=u8)
    /// ```
    #[rhai_fn(name = "is_close", name = "isclose", return_raw)]
    pub fn close(a: Tensor, b: Tensor) -> ScriptResult<Tensor> {
        wrap(is_close(&a, &b, &Tolerance::default()))
    }

    /// Which elements are close. Options: atol, rtol.
    #[rhai_fn(name = "is_close", name = "isclose", return_raw)]
    pub fn close_within(a: Tensor, b: Tensor, given: Map) -> ScriptResult<Tensor> {
        wrap(is_close(&a, &b, &options("is_close", given)?))
    }
}

/// Registers the operators.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<Tolerance>(&["allclose", "isclose", "is_close"], &[]);
    let _ = engine
        .register_global_module(exported_module!(add).into())
        .register_global_module(exported_module!(subtract).into())
        .register_global_module(exported_module!(multiply).into())
        .register_global_module(exported_module!(divide).into())
        .register_global_module(exported_module!(less).into())
        .register_global_module(exported_module!(less_equal).into())
        .register_global_module(exported_module!(greater).into())
        .register_global_module(exported_module!(greater_equal).into())
        .register_global_module(exported_module!(equality).into());
}
