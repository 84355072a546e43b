//! Embedding, normalisations and dropout, as PyTorch defines and initialises them.

use super::algebra;
use super::module::Module;
use crate::autograd::Parameter;
use crate::error::{Error, Result};
use crate::random::Random;
use candle_core::{D, DType, Device, Tensor};
use std::sync::atomic::{AtomicBool, Ordering};

/// `torch.nn.Embedding`: a table `[count, size]`, drawn from the standard normal distribution.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The table, `[count, size]`.
    pub weight: Parameter,
}

impl Embedding {
    /// A table of `count` rows of `size` numbers.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(count: usize, size: usize, device: &Device, random: &mut Random) -> Result<Self> {
        Ok(Self { weight: Parameter::from_vec(random.randn(count * size), &[count, size], device)? })
    }

    /// The rows of integer `ids` `[..]`: `[.., size]`.
    ///
    /// # Errors
    /// `ids` are no integers, or one is no row of the table.
    pub fn apply(&self, ids: &Tensor) -> Result<Tensor> {
        let weight = self.weight.tensor();
        let (count, size) = weight.dims2()?;
        if ids.dtype().is_float() {
            return Err(Error::argument("Embedding needs integer ids; convert with .to(\"i64\")"));
        }
        let flat = ids.to_dtype(DType::I64)?.flatten_all()?;
        if let Some(id) = flat.to_vec1::<i64>()?.into_iter().find(|id| !(0..count as i64).contains(id)) {
            return Err(Error::argument(format!(
                "Embedding({count}, {size}): id {id} is out of range, allowed are 0 to {}",
                count as i64 - 1
            )));
        }
        let mut shape = ids.dims().to_vec();
        shape.push(size);
        Ok(weight.index_select(&flat.to_device(weight.device())?, 0)?.reshape(shape)?)
    }
}

impl Module for Embedding {
    fn forward(&self, input: &Tensor, _: &mut Random) -> Result<Tensor> {
        self.apply(input)
    }

    fn named_parameters(&self) -> Vec<(String, Parameter)> {
        vec![("weight".into(), self.weight.clone())]
    }

    fn describe(&self) -> String {
        let dims = self.weight.dims().iter().map(usize::to_string).collect::<Vec<_>>();
        format!("Embedding({})", dims.join(", "))
    }
}

fn check_last(layer: &str, x: &Tensor, size: usize) -> Result<()> {
    if x.dims().last() == Some(&size) {
        return Ok(());
    }
    Err(Error::argument(format!("{layer}({size}) needs an input of shape [.., {size}], got {:?}", x.dims())))
}

/// A layer's result in the dtype of its input; that of integers stays f32.
fn as_given(result: Tensor, input: &Tensor) -> Result<Tensor> {
    if input.dtype().is_float() { Ok(result.to_dtype(input.dtype())?) } else { Ok(result) }
}

/// `torch.nn.LayerNorm` over the last dimension: (x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016).
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// The scale, `[size]`, from 1.
    pub weight: Parameter,
    /// The shift, `[size]`, from 0.
    pub bias: Parameter,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// A layer for inputs `[.., size]`.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(size: usize, eps: f64, device: &Device) -> Result<Self> {
        let weight = Parameter::from_vec(vec![1.0; size], &[size], device)?;
        Ok(Self { weight, bias: Parameter::from_vec(vec![0.0; size], &[size], device)?, eps })
    }

    /// x `[.., size]`, normalised in f32 whatever its dtype.
    ///
    /// # Errors
    /// The last size of x differs.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        check_last("LayerNorm", x, self.weight.elem_count())?;
        let wide = x.to_dtype(DType::F32)?;
        let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        let normal = centred.broadcast_div(&deviation)?;
        let weight = self.weight.tensor().to_dtype(DType::F32)?;
        let bias = self.bias.tensor().to_dtype(DType::F32)?;
        as_given(normal.broadcast_mul(&weight)?.broadcast_add(&bias)?, x)
    }
}

impl Module for LayerNorm {
    fn forward(&self, input: &Tensor, _: &mut Random) -> Result<Tensor> {
        self.apply(input)
    }

    fn named_parameters(&self) -> Vec<(String, Parameter)> {
        vec![("weight".into(), self.weight.clone()), ("bias".into(), self.bias.clone())]
    }

    fn describe(&self) -> String {
        format!("LayerNorm({}, eps={})", self.weight.elem_count(), self.eps)
    }
}

/// `torch.nn.RMSNorm` over the last dimension: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019).
#[derive(Debug, Clone)]
pub struct RMSNorm {
    /// The scale, `[size]`, from 1.
    pub weight: Parameter,
    /// Added to the mean square; `None`: the machine epsilon of f32, PyTorch's default.
    pub eps: Option<f64>,
}

impl RMSNorm {
    /// A layer for inputs `[.., size]`.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(size: usize, eps: Option<f64>, device: &Device) -> Result<Self> {
        Ok(Self { weight: Parameter::from_vec(vec![1.0; size], &[size], device)?, eps })
    }

    /// x `[.., size]`, normalised in f32 whatever its dtype.
    ///
    /// # Errors
    /// The last size of x differs.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        check_last("RMSNorm", x, self.weight.elem_count())?;
        let wide = x.to_dtype(DType::F32)?;
        let eps = self.eps.unwrap_or(f64::from(f32::EPSILON));
        let root = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        let weight = self.weight.tensor().to_dtype(DType::F32)?;
        as_given(wide.broadcast_div(&root)?.broadcast_mul(&weight)?, x)
    }
}

impl Module for RMSNorm {
    fn forward(&self, input: &Tensor, _: &mut Random) -> Result<Tensor> {
        self.apply(input)
    }

    fn named_parameters(&self) -> Vec<(String, Parameter)> {
        vec![("weight".into(), self.weight.clone())]
    }

    fn describe(&self) -> String {
        match self.eps {
            Some(eps) => format!("RMSNorm({}, eps={eps})", self.weight.elem_count()),
            None => format!("RMSNorm({}, eps=None)", self.weight.elem_count()),
        }
    }
}

/// `torch.nn.Dropout`: in training sets elements to 0 with probability `p` and divides the others by 1 - p (Srivastava et al. 2014).
#[derive(Debug)]
pub struct Dropout {
    p: f64,
    training: AtomicBool,
}

impl Dropout {
    /// A layer in training mode.
    ///
    /// # Errors
    /// `p` is no probability.
    pub fn new(p: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::argument(format!("dropout probability must be between 0 and 1, got {p}")));
        }
        Ok(Self { p, training: AtomicBool::new(true) })
    }
}

/// Dropout on a tensor with a mask drawn as PyTorch's CPU does (also for tensors on other devices).
///
/// # Errors
/// The tensor holds integers.
pub fn dropout(x: &Tensor, p: f64, random: &mut Random) -> Result<Tensor> {
    if p == 0.0 {
        return Ok(x.clone());
    }
    if !x.dtype().is_float() {
        return Err(algebra::not_floating("dropout", x));
    }
    let mask = Tensor::from_vec(random.dropout_mask(x.elem_count(), p), x.shape(), x.device())?.to_dtype(x.dtype())?;
    Ok((x * mask)?)
}

impl Module for Dropout {
    fn forward(&self, input: &Tensor, random: &mut Random) -> Result<Tensor> {
        if self.training.load(Ordering::Relaxed) { dropout(input, self.p, random) } else { Ok(input.clone()) }
    }

    fn set_training(&self, training: bool) {
        self.training.store(training, Ordering::Relaxed);
    }

    fn describe(&self) -> String {
        format!("Dropout(p={})", self.p)
    }
}
