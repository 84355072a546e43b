//! Layer normalisation of rows (Ba, Kiros and Hinton 2016, arXiv 1607.06450): `y = (x - mean) / sqrt(var + eps) * w + b`.
//!
//! With `r = 1 / sqrt(var + eps)` and `n = (x - mean) r`, backward is `dx = r (g w - mean(g w) - n mean(g w n))`, `dw` = column sums
//! of `g n`, `db` of `g`.

use crate::ops::vectorised;

/// The mean, and the reciprocal of the standard deviation; sums in f64, in 16 lanes.
#[inline(always)]
fn moments(x: &[f32], eps: f64) -> (f32, f32) {
    let (mut sums, mut squares) = ([0f64; 16], [0f64; 16]);
    for part in x.chunks(16) {
        part.iter().zip(&mut sums).for_each(|(v, sum)| *sum += f64::from(*v));
    }
    let mean = sums.iter().sum::<f64>() / x.len() as f64;
    for part in x.chunks(16) {
        part.iter().zip(&mut squares).for_each(|(v, sum)| *sum += (f64::from(*v) - mean) * (f64::from(*v) - mean));
    }
    let variance = squares.iter().sum::<f64>() / x.len() as f64;
    (mean as f32, (1.0 / (variance + eps).sqrt()) as f32)
}

vectorised! {
    pub(super) fn normalise_row(x: &[f32], scale: &[f32], shift: &[f32], eps: f64, out: &mut [f32]) {
        let (mean, r) = moments(x, eps);
        out.iter_mut().zip(x).zip(scale).zip(shift).for_each(|(((o, v), w), b)| *o = (v - mean) * r * w + b);
    }
}

vectorised! {
    /// Adds to `dx`.
    pub(super) fn backward_row(x: &[f32], scale: &[f32], eps: f64, g: &[f32], dx: &mut [f32]) {
        let (mean, r) = moments(x, eps);
        let (mut sums, mut products) = ([0f64; 16], [0f64; 16]);
        for ((x, g), w) in x.chunks(16).zip(g.chunks(16)).zip(scale.chunks(16)) {
            for ((((sum, product), x), g), w) in sums.iter_mut().zip(&mut products).zip(x).zip(g).zip(w) {
                *sum += f64::from(g * w);
                *product += f64::from(g * w * (x - mean) * r);
            }
        }
        let first = (sums.iter().sum::<f64>() / x.len() as f64) as f32;
        let second = (products.iter().sum::<f64>() / x.len() as f64) as f32;
        for (((d, x), g), w) in dx.iter_mut().zip(x).zip(g).zip(scale) {
            *d += r * (g * w - first - (x - mean) * r * second);
        }
    }
}

vectorised! {
    pub(super) fn add_scale_gradient(x: &[f32], eps: f64, g: &[f32], dw: &mut [f32]) {
        let (mean, r) = moments(x, eps);
        dw.iter_mut().zip(x).zip(g).for_each(|((d, x), g)| *d += (x - mean) * r * g);
    }
}
