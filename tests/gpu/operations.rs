//! Single operations on a device against the same on the CPU, in every dtype that kernels compute in.

use super::{device, on_cpu};
use candle_core::{DType, Device, Tensor};
use ftrepl::nn::{Parameter, backward};
use ftrepl::ops::cross_entropy::{Head, head_cross_entropy, head_loss_and_gradient};
use ftrepl::ops::embedding::embedding;
use ftrepl::ops::gated::{Activation, activate, gated};
use ftrepl::ops::norm::{Norm, NormKind};
use ftrepl::ops::rope::{RopeTable, rope};

/// Numbers between -1 and 1 that every dtype holds exactly.
pub fn values(shape: &[usize], seed: usize) -> Tensor {
    let number = |at: usize| ((at * 7919 + seed * 104_729 + at * at % 31) % 129) as f32 / 64.0 - 1.0;
    Tensor::from_vec((0..shape.iter().product()).map(number).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

const DTYPES: [(DType, f32); 3] = [(DType::F32, 1e-5), (DType::BF16, 2e-2), (DType::F16, 3e-3)];

/// Compares what `run` makes of parameters with these values here and on a device: what it returns, and the parameters' gradients.
fn compare(what: &str, shapes: &[&[usize]], run: &dyn Fn(&[Parameter]) -> Vec<Tensor>) {
    let Some(card) = device() else { return };
    let run = |dtype: DType, device: &Device| {
        let parameter = |(seed, shape): (usize, &&[usize])| {
            Parameter::new(&values(shape, seed).to_device(device).unwrap().to_dtype(dtype).unwrap()).unwrap()
        };
        let parameters: Vec<Parameter> = shapes.iter().enumerate().map(parameter).collect();
        let outputs = run(&parameters);
        let gradients = parameters.iter().filter_map(|p| p.grad().unwrap());
        outputs.into_iter().chain(gradients).map(|tensor| on_cpu(&tensor.detach())).collect::<Vec<_>>()
    };
    let expected = run(DType::F32, &Device::Cpu);
    for (dtype, tolerance) in DTYPES {
        let found = run(dtype, &card);
        assert_eq!(found.len(), expected.len(), "{what} {dtype:?}");
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let apart = super::difference(found, expected);
            assert!(apart < tolerance, "{what} {dtype:?}: result {at} {:?} differs by {apart}", found.dims());
        }
    }
}

/// A scalar whose gradient by each element of `y` is another one.
fn weighed(y: &Tensor) -> Tensor {
    let weights = values(y.dims(), 77).to_device(y.device()).unwrap().to_dtype(y.dtype()).unwrap();
    (y * weights).unwrap().sum_all().unwrap()
}

#[test]
fn norms() {
    for kind in [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer] {
        for (rows, width) in [(1, 3), (3, 7), (5, 64), (70, 33), (2, 640)] {
            compare(&format!("{kind:?} [{rows}, {width}]"), &[&[rows, width], &[width], &[width]], &|p| {
                let bias = (kind == NormKind::Layer).then(|| p[2].clone());
                let norm = Norm { kind, weight: p[1].clone(), bias, eps: 1e-3 };
                let y = norm.apply(&p[0].tensor()).unwrap();
                backward(&weighed(&y)).unwrap();
                vec![y]
            });
        }
    }
}

#[test]
fn activations_and_rotations() {
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu] {
        for shape in [[1, 1], [3, 7], [16, 64], [9, 331]] {
            compare(&format!("{activation:?} {shape:?}"), &[&shape, &shape], &|p| {
                // From a part of a tensor too: its first element is not its memory's.
                let part = p[0].value().narrow(0, shape[0] / 2, shape[0] - shape[0] / 2).unwrap();
                vec![
                    gated(activation, &p[0].value(), &p[1].value()).unwrap(),
                    activate(activation, &p[0].value()).unwrap(),
                    activate(activation, &part).unwrap(),
                    gated(activation, &p[0].value().t().unwrap(), &p[1].value().t().unwrap()).unwrap(),
                ]
            });
        }
    }
    for (tokens, heads, half, rest) in [(1, 1, 1, 0), (5, 3, 4, 0), (9, 2, 8, 16), (6, 2, 3, 1)] {
        let head_dim = 2 * half + rest;
        let positions: Vec<u32> = (0..tokens as u32).map(|t| t * 3).collect();
        let frequencies: Vec<f32> = (0..half).map(|i| 0.5 / (i + 1) as f32).collect();
        compare(&format!("rope {tokens} {heads} {half} {rest}"), &[&[tokens, heads * head_dim]], &|p| {
            vec![rope(&p[0].value(), &RopeTable::scaled(&positions, &frequencies, 1.5, head_dim)).unwrap()]
        });
    }
}

#[test]
fn embeddings_with_repeated_ids() {
    for width in [1, 7, 64, 300] {
        let ids = [4, 0, 4, 4, 9, 0, 3, 4];
        compare(&format!("embedding {width}"), &[&[10, width]], &|p| {
            let rows = embedding(&ids, &p[0], None).unwrap();
            // Twice: what is there is added to.
            backward(&weighed(&rows)).unwrap();
            backward(&weighed(&embedding(&ids[1..6], &p[0], Some(ids[2])).unwrap())).unwrap();
            vec![rows]
        });
    }
}

#[test]
fn losses_of_a_head() {
    for (vocabulary, targets) in
        [(3, vec![2i64]), (37, vec![-100, 5, 0, -100, 36]), (64, (0..20).collect()), (700, vec![699, 0, -100])]
    {
        for softcap in [None, Some(0.8)] {
            let what = format!("head of {vocabulary} with cap {softcap:?}");
            compare(&what, &[&[targets.len(), 24], &[vocabulary, 24]], &|p| {
                let head = Head { weight: p[1].clone(), softcap, smoothing: 0.0 };
                let hidden = p[0].value();
                let alone = ftrepl::nn::no_grad(|| head_cross_entropy(&hidden, &head, &targets, 2.5).unwrap());
                let (loss, gradient) = head_loss_and_gradient(&hidden, &head, &targets, 2.5).unwrap();
                let loss = Tensor::new(loss.value().unwrap() as f32, &Device::Cpu).unwrap();
                vec![alone, loss, gradient]
            });
        }
    }
    let Some(card) = device() else { return };
    let head = Head::from(&Parameter::new(&values(&[5, 8], 1).to_device(&card).unwrap()).unwrap());
    let hidden = values(&[2, 8], 2).to_device(&card).unwrap();
    let (loss, gradient) = head_loss_and_gradient(&hidden, &head, &[-100, -100], 1.0).unwrap();
    assert_eq!(loss.value().unwrap(), 0.0);
    assert_eq!(on_cpu(&gradient).abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    assert!(head_loss_and_gradient(&hidden, &head, &[5, 0], 1.0).unwrap_err().to_string().contains("label 5"));
    // Recorded too.
    let states = Parameter::new(&hidden).unwrap();
    let nothing = head_cross_entropy(&states.tensor(), &head, &[-100, -100], 1.0).unwrap();
    assert_eq!(nothing.to_scalar::<f32>().unwrap(), 0.0);
    backward(&nothing).unwrap();
    assert_eq!(on_cpu(&states.grad().unwrap().unwrap()).abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
}

#[test]
fn linear_layers_and_adapters_on_them() {
    for (tokens, inputs, outputs) in [(1, 8, 3), (7, 33, 64), (20, 64, 16)] {
        compare(&format!("linear {tokens} {inputs} {outputs}"), &[&[tokens, inputs], &[outputs, inputs], &[outputs]], &|p| {
            let apply = |x: &Tensor| ftrepl::ops::linear::linear(x, &p[1], Some(&p[2])).unwrap();
            let y = apply(&p[0].tensor());
            backward(&weighed(&y)).unwrap();
            // Unrecorded: of more dimensions, and with columns that lie together.
            let value = p[0].value();
            let columns = value.t().unwrap().contiguous().unwrap().t().unwrap();
            let alone = ftrepl::nn::no_grad(|| [apply(&value.unsqueeze(0).unwrap()), apply(&columns)]);
            [y].into_iter().chain(alone).collect()
        });
    }
}
