//! The gradients of layers with changes, against small steps.

use super::*;
use crate::ops::check::{difference, tensor, values};
use candle_core::Tensor;

const SIZES: (usize, usize, usize) = (6, 7, 5);

/// A layer with two changes, or with one and a magnitude.
fn layer(masked: bool, magnitude: bool) -> Layer {
    let (tokens, inputs, outputs) = SIZES;
    let parameter = |shape: &[usize], seed| Parameter::new(&tensor(shape, seed)).unwrap();
    let low_rank = |rank: usize, seed| LowRank {
        a: parameter(&[rank, inputs], seed),
        b: parameter(&[outputs, rank], seed + 1),
        bias: (!magnitude).then(|| parameter(&[outputs], seed + 2)),
        scaling: 1.5,
        mask: masked.then(|| Arc::new(values(tokens * inputs, seed + 3))),
        drawn: None,
    };
    let weight = parameter(&[outputs, inputs], 1);
    weight.set_requires_grad(!magnitude);
    let low_ranks = if magnitude { vec![low_rank(2, 10)] } else { vec![low_rank(2, 10), low_rank(3, 20)] };
    let norm = Arc::new(values(outputs, 30).iter().map(|v| v.abs() + 0.5).collect());
    let magnitude = magnitude.then(|| Magnitude { vector: parameter(&[outputs], 31), norm });
    Layer { weight, bias: Some(parameter(&[outputs], 2)), changes: Changes { low_ranks, magnitude } }
}

/// The sum of the outputs times `g`, in the order of tokens in two parts.
fn weighted(layer: &Layer, x: &[f32], g: &[f32]) -> (f64, Vec<f32>) {
    let (tokens, inputs, outputs) = SIZES;
    let (mut out, mut t) = (vec![f32::NAN; tokens * outputs], vec![f32::NAN; tokens * layer.rank()]);
    for range in [0..2, 2..tokens] {
        let of = |columns: usize| range.start * columns..range.end * columns;
        layer.forward(&x[of(inputs)], range.start, &mut out[of(outputs)], &mut t[of(layer.rank())]).unwrap();
    }
    (out.iter().zip(g).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum(), t)
}

#[test]
fn gradients_are_those_of_small_steps() {
    let (tokens, inputs, outputs) = SIZES;
    let (x, g) = (values(tokens * inputs, 40), values(tokens * outputs, 41));
    for (masked, magnitude) in [(false, false), (true, false), (false, true), (true, true)] {
        let layer = layer(masked, magnitude);
        let t = weighted(&layer, &x, &g).1;
        let (mut dx, mut u) = (vec![0.0; x.len()], vec![f32::NAN; t.len()]);
        layer.backward(&g, 0, Some((&mut dx, false)), &mut u).unwrap();
        layer.add_gradients(&x, &g, &t, &u).unwrap();
        let slope = |change: &dyn Fn(f32) -> f64| (change(1e-2) - change(-1e-2)) / 2e-2;
        let numeric = |values: &[f32], at: &dyn Fn(&[f32]) -> f64| -> Vec<f32> {
            let step = |i: usize, h: f32| {
                let mut moved = values.to_vec();
                moved[i] += h;
                at(&moved)
            };
            (0..values.len()).map(|i| slope(&|h| step(i, h)) as f32).collect()
        };
        let close = |own: &[f32], expected: &[f32], what: &str| {
            let as_tensor = |v: &[f32]| Tensor::new(v, &candle_core::Device::Cpu).unwrap();
            let d = difference(&as_tensor(own), &as_tensor(expected));
            assert!(d < 2e-3, "{what} differs by {d}; masked {masked}, magnitude {magnitude}");
        };
        close(&dx, &numeric(&x, &|x| weighted(&layer, x, &g).0), "input");
        for parameter in layer.parameters().filter(|p| p.requires_grad()) {
            let before = parameter.value().copy().unwrap();
            let values = before.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = numeric(&values, &|values| {
                parameter.set(&Tensor::from_slice(values, before.dims(), before.device()).unwrap()).unwrap();
                weighted(&layer, &x, &g).0
            });
            parameter.set(&before).unwrap();
            let own = parameter.grad().unwrap().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            close(&own, &expected, &format!("{:?}", parameter.dims()));
        }
    }
}
