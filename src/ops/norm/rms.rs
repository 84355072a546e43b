//! Root mean square normalisation of rows (Zhang and Sennrich 2019, arXiv 1910.07467): `y = x / sqrt(mean(x^2) + eps) * w`.
//!
//! With `r = 1 / sqrt(mean(x^2) + eps)` and `n = x r`, backward is `dx = r (g w - n mean(g w n))`, `dw` = column sums of `g n`.

use crate::ops::vectorised;

/// Squares summed in f64, in 16 lanes.
#[inline(always)]
fn mean_square(x: &[f32]) -> f64 {
    let mut sums = [0f64; 16];
    for part in x.chunks(16) {
        part.iter().zip(&mut sums).for_each(|(v, sum)| *sum += f64::from(*v) * f64::from(*v));
    }
    sums.iter().sum::<f64>() / x.len() as f64
}

#[inline(always)]
fn reciprocal(x: &[f32], eps: f64) -> f32 {
    (1.0 / (mean_square(x) + eps).sqrt()) as f32
}

vectorised! {
    pub(super) fn normalise_row(x: &[f32], scale: &[f32], eps: f64, out: &mut [f32]) {
        let r = reciprocal(x, eps);
        out.iter_mut().zip(x).zip(scale).for_each(|((o, v), w)| *o = v * r * w);
    }
}

vectorised! {
    /// Adds to `dx`.
    pub(super) fn backward_row(x: &[f32], scale: &[f32], eps: f64, g: &[f32], dx: &mut [f32]) {
        let r = reciprocal(x, eps);
        let mut sums = [0f64; 16];
        for ((x, g), w) in x.chunks(16).zip(g.chunks(16)).zip(scale.chunks(16)) {
            for (((sum, x), g), w) in sums.iter_mut().zip(x).zip(g).zip(w) {
                *sum += f64::from(x * r * g * w);
            }
        }
        let mean = (sums.iter().sum::<f64>() / x.len() as f64) as f32;
        for (((d, x), g), w) in dx.iter_mut().zip(x).zip(g).zip(scale) {
            *d += r * (g * w - x * r * mean);
        }
    }
}

vectorised! {
    pub(super) fn add_scale_gradient(x: &[f32], eps: f64, g: &[f32], dw: &mut [f32]) {
        let r = reciprocal(x, eps);
        dw.iter_mut().zip(x).zip(g).for_each(|((d, x), g)| *d += x * r * g);
    }
}
