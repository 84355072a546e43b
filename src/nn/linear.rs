//! The affine layer y = x W^T + b.
//!
//! A network of a few hundred weights spends its time in bookkeeping, not arithmetic: candle would record three operations, and allocate
//! zeros and a sum for every edge on the way back. Small layers are therefore one operation with direct loops, which adds the
//! gradients of its parameters straight into their `.grad`. Larger ones are a composition around candle's matmul.

use super::host;
use super::module::Module;
use crate::autograd;
use crate::autograd::Parameter;
use crate::error::{Error, Result};
use crate::random::Random;
use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Shape, Tensor};

/// Up to this many multiplications the direct loops win.
const SMALL: usize = 1 << 14;

/// `torch.nn.Linear`: weight `[output, input]`, optional bias `[output]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The matrix W, `[output, input]`.
    pub weight: Parameter,
    /// The vector b, `[output]`.
    pub bias: Option<Parameter>,
}

impl Linear {
    /// A layer initialised as PyTorch does: weight, then bias, uniform in +-1/sqrt(input).
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(input: usize, output: usize, bias: bool, device: &Device, random: &mut Random) -> Result<Self> {
        let weight = Parameter::from_vec(random.linear_weight(input, output), &[output, input], device)?;
        let bias = match bias {
            true => Some(Parameter::from_vec(random.linear_bias(input, output), &[output], device)?),
            false => None,
        };
        Ok(Self { weight, bias })
    }

    /// x `[.., input]` to `[.., output]`.
    ///
    /// # Errors
    /// The last size of x is not `input`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.var();
        let (output, input) = weight.dims2()?;
        if x.rank() == 0 || x.dims()[x.rank() - 1] != input {
            return Err(Error::argument(format!(
                "Linear({input}, {output}) needs an input of shape [.., {input}], got {:?}",
                x.dims()
            )));
        }
        let small = x.elem_count() * output <= SMALL;
        if small && host::is_host_f32(x) && host::is_host_f32(&weight) {
            let x = if x.is_contiguous() { x.clone() } else { x.contiguous()? };
            let operation = Direct { layer: self.clone(), input, output };
            let trained = self.weight.tracked() || self.bias.as_ref().is_some_and(Parameter::tracked);
            return Ok(if trained {
                x.apply_op2(&autograd::anchor()?, operation)?
            } else if x.track_op() {
                x.apply_op2(&Tensor::zeros((), DType::F32, &Device::Cpu)?, operation)?
            } else {
                x.apply_op2_no_bwd(&autograd::anchor()?, &operation)?
            });
        }
        let rows = x.elem_count() / input.max(1);
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(output);
        let weight = self.weight.tensor();
        let product = x.to_dtype(weight.dtype())?.reshape((rows, input))?.matmul(&weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => product.broadcast_add(&bias.tensor())?,
            None => product,
        };
        Ok(y.reshape(shape)?)
    }
}

impl Module for Linear {
    fn forward(&self, input: &Tensor, _: &mut Random) -> Result<Tensor> {
        self.apply(input)
    }

    fn named_parameters(&self) -> Vec<(String, Parameter)> {
        let mut all = vec![("weight".to_string(), self.weight.clone())];
        all.extend(self.bias.iter().map(|bias| ("bias".to_string(), bias.clone())));
        all
    }

    fn describe(&self) -> String {
        let dims = self.weight.dims();
        let (output, input) = (dims.first().copied().unwrap_or(0), dims.get(1).copied().unwrap_or(0));
        format!("Linear(in_features={input}, out_features={output}, bias={})", if self.bias.is_some() { "true" } else { "false" })
    }
}

struct Direct {
    layer: Linear,
    input: usize,
    output: usize,
}

/// The dot product in eight partial sums, which the compiler keeps in one vector register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    let mut sums = [0f32; 8];
    for (a, b) in a8.iter().zip(b8) {
        for k in 0..8 {
            sums[k] += a[k] * b[k];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

impl CustomOp2 for Direct {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = host::slice(x, layout)?;
        let mut dims = layout.dims().to_vec();
        dims.pop();
        dims.push(self.output);
        let mut y = vec![0f32; dims.iter().product()];
        host::read(&self.layer.weight.var(), |weight| {
            for (x, y) in x.chunks_exact(self.input.max(1)).zip(y.chunks_exact_mut(self.output.max(1))) {
                for (w, y) in weight.chunks_exact(self.input.max(1)).zip(y) {
                    *y = dot(w, x);
                }
            }
        })?;
        if let Some(bias) = &self.layer.bias {
            host::read(&bias.var(), |bias| {
                for y in y.chunks_exact_mut(self.output.max(1)) {
                    y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            })?;
        }
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (input, output) = (self.input.max(1), self.output.max(1));
        let accumulate = |parameter: &Parameter, add: &dyn Fn(&mut [f32])| {
            if !parameter.requires_grad() {
                return Ok(());
            }
            let added = parameter.accumulate_with(|values, filled| {
                if !filled {
                    values.fill(0.0);
                }
                add(values);
            });
            added.map_err(|error| candle_core::Error::Msg(error.to_string()))
        };
        host::read(x, |x| {
            host::read(gradient, |gradient| {
                accumulate(&self.layer.weight, &|weight| {
                    for (x, g) in x.chunks_exact(input).zip(gradient.chunks_exact(output)) {
                        for (w, g) in weight.chunks_exact_mut(input).zip(g) {
                            // Behind a relu much of the gradient is 0.
                            if *g != 0.0 {
                                w.iter_mut().zip(x).for_each(|(w, x)| *w += g * x);
                            }
                        }
                    }
                })?;
                match &self.layer.bias {
                    Some(bias) => accumulate(bias, &|bias| {
                        for g in gradient.chunks_exact(output) {
                            bias.iter_mut().zip(g).for_each(|(b, g)| *b += g);
                        }
                    }),
                    None => Ok(()),
                }
            })
        })???;
        if !x.track_op() {
            return Ok((None, None));
        }
        let mut toward_x = vec![0f32; x.elem_count()];
        host::read(gradient, |gradient| {
            host::read(&self.layer.weight.var(), |weight| {
                for (x, g) in toward_x.chunks_exact_mut(input).zip(gradient.chunks_exact(output)) {
                    for (w, g) in weight.chunks_exact(input).zip(g) {
                        x.iter_mut().zip(w).for_each(|(x, w)| *x += g * w);
                    }
                }
            })
        })??;
        Ok((Some(host::tensor(toward_x, x.shape())?), None))
    }
}
