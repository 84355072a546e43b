//! Operators between tensors and numbers: arithmetic, comparison and what joins masks.

#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::error::{IntoScript, ScriptResult};
use super::options::{Validate, options};
use super::tensor::{Tensor, TensorValue, wrap};
use crate::error::Result;
use crate::nn::algebra::{self, Binary, Compare, Scalar};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Dynamic, Map};
use serde::{Deserialize, Serialize};

/// What `a += b` makes of `a`: a parameter that is frozen, or inside `no_grad`, changes in place, for all who hold it; otherwise the name
/// gets the result.
fn assign(a: &mut TensorValue, result: ScriptResult<TensorValue>) -> ScriptResult<()> {
    let result = result?;
    match &a.leaf {
        Some(parameter) if !parameter.tracked() && !result.tensor.track_op() => return parameter.set(&result.tensor).script(),
        _ => *a = result,
    }
    Ok(())
}

/// An operator of two tensors, of a tensor and a number, and of a number and a tensor; and the one that assigns its result.
macro_rules! operator {
    ($module:ident, $name:tt, $assign:tt, $operation:expr, $(#[$doc:meta])* ; $(#[$assign_doc:meta])*) => {
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
            $(#[$assign_doc])*
            #[rhai_fn(name = $assign, return_raw)]
            pub fn assign_tensor(a: &mut Tensor, b: Tensor) -> ScriptResult<()> {
                let result = tensors(a.clone(), b);
                assign(a, result)
            }
            /// The same with a float on the right.
            #[rhai_fn(name = $assign, return_raw)]
            pub fn assign_float(a: &mut Tensor, b: f64) -> ScriptResult<()> {
                let result = with_float(a.clone(), b);
                assign(a, result)
            }
            /// The same with an integer on the right.
            #[rhai_fn(name = $assign, return_raw)]
            pub fn assign_int(a: &mut Tensor, b: i64) -> ScriptResult<()> {
                let result = with_int(a.clone(), b);
                assign(a, result)
            }
        }
    };
}

operator! { add, "+", "+=", Binary::Add,
    /// Adds elementwise; shapes broadcast, integers with floats give floats.
    /// ```rhai
    /// tensor([1.0, 2.0]) + tensor(10.0)      // => tensor([11., 12.])
    /// ```
    ;
    /// Adds to a tensor; inside `no_grad` a parameter changes in place, as in PyTorch.
    /// ```rhai
    /// let total = tensor(1.0); total += 2.0; total      // => tensor(3.)
    /// ```
}
operator! { subtract, "-", "-=", Binary::Sub,
    /// Subtracts elementwise; shapes broadcast.
    /// ```rhai
    /// 1.0 - tensor([1.0, 2.0])      // => tensor([ 0., -1.])
    /// ```
    ;
    /// Subtracts from a tensor; inside `no_grad` a parameter changes in place, as in PyTorch.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); (w * 3.0).backward();
    /// no_grad(|| { w -= 0.5 * w.grad; }); [w.item(), w.requires_grad]      // => [-0.5, true]
    /// let m = nn::Linear(2, 1); let before = m.weight.to_list(); m.forward(ones([2])).backward(tensor([1.0]));
    /// no_grad(|| { m.weight -= 0.5 * m.weight.grad; }); allclose(m.weight, tensor(before) - 0.5, #{ atol: 1e-6 })      // => true
    /// ```
}
operator! { multiply, "*", "*=", Binary::Mul,
    /// Multiplies elementwise; shapes broadcast. The matrix product is `a.matmul(b)` or `a @ b`.
    /// ```rhai
    /// tensor([1, 2]) * 2.0      // => tensor([2., 4.])
    /// ```
    ;
    /// Multiplies a tensor; inside `no_grad` a parameter changes in place, as in PyTorch.
    /// ```rhai
    /// let x = tensor([1, 2]); x *= 2; x      // => tensor([2, 4])
    /// ```
}
operator! { divide, "/", "/=", Binary::Div,
    /// Divides elementwise; of integers too the result is a float.
    /// ```rhai
    /// tensor([1, 3]) / 2      // => tensor([0.5000, 1.5000])
    /// ```
    ;
    /// Divides a tensor; inside `no_grad` a parameter changes in place, as in PyTorch.
    /// ```rhai
    /// let x = tensor([1.0, 3.0]); x /= 2; x      // => tensor([0.5000, 1.5000])
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

/// A comparison of two tensors, and of a tensor with a number on either side: one that is missing the engine takes for a comparison of
/// different types, which is never true.
macro_rules! comparison {
    ($module:ident, $name:tt, $method:tt, $operation:expr, $mirrored:expr, $(#[$doc:meta])*) => {
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
            /// The same with a float on the left.
            #[rhai_fn(name = $name, return_raw)]
            pub fn of_float(a: f64, b: Tensor) -> ScriptResult<Dynamic> {
                truth(algebra::compare_scalar(&b.value(), Scalar::Float(a), $mirrored))
            }
            /// The same with an integer on the left.
            #[rhai_fn(name = $name, return_raw)]
            pub fn of_int(a: i64, b: Tensor) -> ScriptResult<Dynamic> {
                truth(algebra::compare_scalar(&b.value(), Scalar::Int(a), $mirrored))
            }
        }
    };
}

/// Equality with a number, on either side; without these the engine finds a tensor and a number always different.
macro_rules! equality_with_number {
    ($module:ident, $name:tt, $method:tt, $operation:expr, $(#[$doc:meta])*) => {
        #[export_module]
        mod $module {
            use super::*;
            $(#[$doc])*
            #[rhai_fn(name = $name, name = $method, return_raw)]
            pub fn with_float(a: Tensor, b: f64) -> ScriptResult<Dynamic> {
                truth(algebra::compare_scalar(&a.value(), Scalar::Float(b), $operation))
            }
            /// The same with an integer.
            #[rhai_fn(name = $name, name = $method, return_raw)]
            pub fn with_int(a: Tensor, b: i64) -> ScriptResult<Dynamic> {
                truth(algebra::compare_scalar(&a.value(), Scalar::Int(b), $operation))
            }
            /// The same with a float on the left.
            #[rhai_fn(name = $name, return_raw)]
            pub fn of_float(a: f64, b: Tensor) -> ScriptResult<Dynamic> {
                with_float(b, a)
            }
            /// The same with an integer on the left.
            #[rhai_fn(name = $name, return_raw)]
            pub fn of_int(a: i64, b: Tensor) -> ScriptResult<Dynamic> {
                with_int(b, a)
            }
        }
    };
}

equality_with_number! { equal_number, "==", "eq", Compare::Eq,
    /// Elementwise equality with a number: a tensor of 0 and 1, or of a scalar true or false.
    /// ```rhai
    /// tensor([1, 2]) == 2      // => tensor([0, 1], dtype=u8)
    /// ```
}
equality_with_number! { unequal_number, "!=", "ne", Compare::Ne,
    /// Elementwise inequality with a number: a tensor of 0 and 1, or of a scalar true or false.
    /// ```rhai
    /// tensor(0.5) != 0.5      // => false
    /// ```
}

comparison! { less, "<", "lt", Compare::Lt, Compare::Gt,
    /// Compares elementwise: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor([1.0, 3.0]) < 2.0      // => tensor([1, 0], dtype=u8)
    /// ```
}
comparison! { less_equal, "<=", "le", Compare::Le, Compare::Ge,
    /// Compares elementwise: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor(2.0) <= 2      // => true
    /// ```
}
comparison! { greater, ">", "gt", Compare::Gt, Compare::Lt,
    /// Compares elementwise: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor(2.0) > 2      // => false
    /// ```
}
comparison! { greater_equal, ">=", "ge", Compare::Ge, Compare::Le,
    /// Compares elementwise: a tensor of 0 and 1, or of two scalars true or false.
    /// ```rhai
    /// tensor([1, 2]) >= 2      // => tensor([0, 1], dtype=u8)
    /// ```
}

#[export_module]
mod masks {
    /// Where both masks are not 0; of other integers the bits that both have.
    /// ```rhai
    /// let x = arange(4); (x > 0) & (x < 3)      // => tensor([0, 1, 1, 0], dtype=u8)
    /// ```
    #[rhai_fn(name = "&", return_raw)]
    pub fn both(a: Tensor, b: Tensor) -> ScriptResult<Tensor> {
        bitwise("&", &a, &b, |a, b| a & b)
    }

    /// Where one of the masks is not 0; of other integers the bits that one of them has.
    /// ```rhai
    /// let x = arange(4); (x < 1) | (x > 2)      // => tensor([1, 0, 0, 1], dtype=u8)
    /// ```
    #[rhai_fn(name = "|", return_raw)]
    pub fn either(a: Tensor, b: Tensor) -> ScriptResult<Tensor> {
        bitwise("|", &a, &b, |a, b| a | b)
    }

    /// Where exactly one of the masks is not 0; of other integers the bits that differ.
    /// ```rhai
    /// let x = arange(3); (x < 2) ^ (x > 0)      // => tensor([1, 0, 1], dtype=u8)
    /// ```
    #[rhai_fn(name = "^", return_raw)]
    pub fn one_of(a: Tensor, b: Tensor) -> ScriptResult<Tensor> {
        bitwise("^", &a, &b, |a, b| a ^ b)
    }

    /// 1 where a mask is 0, and 0 elsewhere; PyTorch's `~mask`.
    /// ```rhai
    /// !(tensor([1.0, 3.0]) < 2.0)      // => tensor([0, 1], dtype=u8)
    /// ```
    #[rhai_fn(name = "!", return_raw)]
    pub fn not(a: Tensor) -> ScriptResult<Dynamic> {
        truth(algebra::compare_scalar(&a.value(), Scalar::Int(0), Compare::Eq))
    }
}

fn bitwise(operator: &str, a: &TensorValue, b: &TensorValue, operation: fn(i64, i64) -> i64) -> ScriptResult<TensorValue> {
    let (a, b) = (a.value(), b.value());
    if algebra::promote(&a, &b).is_float() {
        return Err(format!("`{operator}` joins masks such as x > 0 or integers, not floating-point tensors").into());
    }
    wrap(algebra::of_integers(&a, &b, operation))
}

/// Options of `allclose` and `is_close`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Tolerance {
    atol: f64,
    rtol: f64,
    /// Whether a NaN is close to a NaN.
    equal_nan: bool,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { atol: 1e-8, rtol: 1e-5, equal_nan: false }
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
    let close = (close * finite)?.maximum(&equal)?;
    if !within.equal_nan {
        return Ok(close);
    }
    let unknown = |t: &candle_core::Tensor| algebra::compare(t, t, Compare::Ne);
    let (a, b) = (unknown(&a)?.broadcast_as(close.dims())?, unknown(&b)?.broadcast_as(close.dims())?);
    Ok(close.maximum(&a.minimum(&b)?)?)
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
        Ok(a.tensor.dims() == b.tensor.dims()
            && all_close(&a, &b, &Tolerance { atol: 0.0, rtol: 0.0, equal_nan: false }).script()?)
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

    /// Whether all elements are close. Options: atol, rtol, equal_nan (false: a NaN is close to nothing).
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

    /// Which elements are close. Options: atol, rtol, equal_nan (false: a NaN is close to nothing).
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
        .register_global_module(exported_module!(equal_number).into())
        .register_global_module(exported_module!(unequal_number).into())
        .register_global_module(exported_module!(masks).into())
        .register_global_module(exported_module!(equality).into());
}
