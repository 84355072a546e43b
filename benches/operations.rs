//! Every operation in the sizes of SmolLM2-135M, forward and backward: `cargo bench --bench operations`.
//!
//! "tokens" is the number of rows: 1 as in generation, 32 as in a short training row, 512 as in a batch of four times 128.
#![allow(missing_docs, clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ftrepl::autograd::{Parameter, backward, no_grad};
use ftrepl::ops::attention::{AttentionSpec, attention};
use ftrepl::ops::cross_entropy::{Head, head_cross_entropy, head_loss_and_gradient};
use ftrepl::ops::gated::{Activation, gated};
use ftrepl::ops::linear::linear;
use ftrepl::ops::matrix::{Dims, Weight, times_weight, times_weight_transposed};
use ftrepl::ops::norm::rms_norm;
use ftrepl::ops::precision::{MatmulPrecision, set_float32_matmul_precision};
use ftrepl::ops::quantised::Quantised;
use ftrepl::ops::rope::{RopeTable, rope};
use ftrepl::optim::{Adam, AdamWOptions, Optimizer, ParamGroup};
use std::hint::black_box;

const HIDDEN: usize = 576;
const INNER: usize = 1536;
const VOCABULARY: usize = 49152;
const TOKENS: [usize; 3] = [1, 32, 512];

fn tensor(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn parameter(shape: &[usize], trains: bool) -> Parameter {
    let parameter = Parameter::new(&tensor(shape)).unwrap();
    parameter.set_requires_grad(trains);
    parameter
}

/// Times `work` without recording.
fn forward(c: &mut Criterion, name: &str, tokens: usize, work: impl Fn() -> Tensor) {
    c.bench_with_input(BenchmarkId::new(name, tokens), &tokens, |b, _| b.iter(|| no_grad(|| black_box(work()))));
}

/// Times `work` and its backward pass.
fn both(c: &mut Criterion, name: &str, tokens: usize, leaves: &[&Parameter], work: impl Fn() -> Tensor) {
    c.bench_with_input(BenchmarkId::new(name, tokens), &tokens, |b, _| {
        b.iter(|| {
            backward(&work().sum_all().unwrap()).unwrap();
            leaves.iter().for_each(|leaf| leaf.zero_grad());
        });
    });
}

fn linear_layers(c: &mut Criterion) {
    for tokens in TOKENS {
        for (inputs, outputs) in [(HIDDEN, HIDDEN), (HIDDEN, INNER), (INNER, HIDDEN)] {
            let (x, leaf) = (tensor(&[tokens, inputs]), parameter(&[tokens, inputs], true));
            let (frozen, trained) = (parameter(&[outputs, inputs], false), parameter(&[outputs, inputs], true));
            let name = |kind: &str| format!("linear {inputs}x{outputs} {kind}");
            forward(c, &name("forward"), tokens, || linear(&x, &frozen, None).unwrap());
            both(c, &name("frozen, both"), tokens, &[&leaf], || linear(&leaf.tensor(), &frozen, None).unwrap());
            both(c, &name("trained, both"), tokens, &[&leaf, &trained], || linear(&leaf.tensor(), &trained, None).unwrap());
            let half = Parameter::new(&tensor(&[outputs, inputs]).to_dtype(DType::BF16).unwrap()).unwrap();
            forward(c, &name("bf16 forward"), tokens, || linear(&x, &half, None).unwrap());
            let values = tensor(&[outputs, inputs]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&values[row * inputs..(row + 1) * inputs]);
            let blocks = Quantised::quantise(candle_core::quantized::GgmlDType::Q4_0, (outputs, inputs), fill).unwrap();
            let quantised = Parameter::from_quantised(blocks).unwrap();
            forward(c, &name("q4 forward"), tokens, || linear(&x, &quantised, None).unwrap());
        }
    }
}

/// Products with many weights in turn, which come from memory each time as in a step of training; one iteration is all of them.
fn weights_from_memory(c: &mut Criterion) {
    const WEIGHTS: usize = 60;
    for (inputs, outputs) in [(HIDDEN, HIDDEN), (HIDDEN, INNER), (INNER, HIDDEN)] {
        let weight = |i: usize| (0..outputs * inputs).map(|at| ((at * 7 + i) % 13) as f32 / 13.0 - 0.5).collect();
        let weights: Vec<Vec<f32>> = (0..WEIGHTS).map(weight).collect();
        for rows in [32, 512] {
            let dims = Dims { rows, inputs, outputs };
            let (mut x, mut y) = (vec![0.1; rows * inputs], vec![0.1; rows * outputs]);
            for precision in [MatmulPrecision::Highest, MatmulPrecision::Medium] {
                set_float32_matmul_precision(precision);
                let name = |way: &str| format!("{WEIGHTS} weights {inputs}x{outputs} {way} {}", precision.name());
                c.bench_function(&format!("{}/{rows}", name("forward")), |b| {
                    b.iter(|| weights.iter().for_each(|w| times_weight_transposed(&x, Weight::F32(w), &mut y, false, dims)));
                });
                c.bench_function(&format!("{}/{rows}", name("backward")), |b| {
                    b.iter(|| weights.iter().for_each(|w| times_weight(&y, Weight::F32(w), &mut x, false, dims)));
                });
                x.fill(0.1);
                y.fill(0.1);
            }
            set_float32_matmul_precision(MatmulPrecision::Highest);
        }
    }
}

fn elementwise(c: &mut Criterion) {
    for tokens in TOKENS {
        let (x, scale) = (parameter(&[tokens, HIDDEN], true), parameter(&[HIDDEN], true));
        both(c, "rms_norm both", tokens, &[&x, &scale], || rms_norm(&x.tensor(), &scale, 1e-5).unwrap());
        let positions: Vec<u32> = (0..tokens as u32).collect();
        let table = RopeTable::new(&positions, &[0.1; 32]);
        both(c, "rope both", tokens, &[&x], || rope(&x.tensor(), &table).unwrap());
        let (gate, up) = (parameter(&[tokens, INNER], true), parameter(&[tokens, INNER], true));
        both(c, "gated both", tokens, &[&gate, &up], || gated(Activation::Silu, &gate.tensor(), &up.tensor()).unwrap());
    }
}

fn attentions(c: &mut Criterion) {
    for (sequences, length) in [(1, 32), (4, 128), (1, 512), (1, 2048)] {
        let tokens = sequences * length;
        let spec = AttentionSpec {
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            scale: 0.125,
            softcap: None,
            window: None,
            segments: vec![length; sequences],
            positions: (0..sequences).flat_map(|_| 0..length as u32).collect(),
        };
        let (q, k, v) = (parameter(&[tokens, 576], true), parameter(&[tokens, 192], true), parameter(&[tokens, 192], true));
        let name = format!("attention both {sequences}x");
        both(c, &name, length, &[&q, &k, &v], || attention(&q.tensor(), &k.tensor(), &v.tensor(), spec.clone()).unwrap());
    }
}

fn heads(c: &mut Criterion) {
    for tokens in [32, 512] {
        let (hidden, weight) = (parameter(&[tokens, HIDDEN], true), parameter(&[VOCABULARY, HIDDEN], false));
        let targets: Vec<i64> = (0..tokens as i64).map(|t| t * 31 % VOCABULARY as i64).collect();
        both(c, "head and cross-entropy both", tokens, &[&hidden], || {
            head_cross_entropy(&hidden.tensor(), &Head::from(&weight), &targets, tokens as f64).unwrap()
        });
        c.bench_with_input(BenchmarkId::new("head loss and gradient at once", tokens), &tokens, |b, _| {
            let states = hidden.value();
            b.iter(|| black_box(head_loss_and_gradient(&states, &Head::from(&weight), &targets, tokens as f64).unwrap()));
        });
    }
}

fn optimizers(c: &mut Criterion) {
    let weights: Vec<Parameter> = (0..8).map(|_| parameter(&[INNER, HIDDEN], true)).collect();
    let mut optimizer = Adam::adamw(vec![ParamGroup::new(weights.clone())], AdamWOptions::default()).unwrap();
    let gradient = tensor(&[INNER, HIDDEN]);
    weights.iter().for_each(|w| w.accumulate(&gradient).unwrap());
    c.bench_function("AdamW 7.1 million, dense gradients", |b| b.iter(|| optimizer.step().unwrap()));
    let (g, x) = (vec![0.1f32; 32 * INNER], vec![0.1f32; 32 * HIDDEN]);
    weights.iter().for_each(|w| {
        w.zero_grad();
        assert!(w.accumulate_product(&g, &x));
    });
    c.bench_function("AdamW 7.1 million, gradients as factors of 32 tokens", |b| b.iter(|| optimizer.step().unwrap()));
}

criterion_group!(operations, linear_layers, weights_from_memory, elementwise, attentions, heads, optimizers);
criterion_main!(operations);
