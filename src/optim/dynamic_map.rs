//! Dynamic 8-bit quantisation in blocks (Dettmers et al. 2021, arXiv:2110.02861; the data type of Dettmers 2015, arXiv:1511.04561), as
//! bitsandbytes has it: 256 numbers between -1 and 1, or 0 and 1, that lie denser towards 0 over seven powers of ten. A block of 256 elements
//! is divided by its largest, and each element becomes the place of the nearest of those numbers.

use std::sync::LazyLock;

/// Elements that share a scale.
pub(super) const BLOCK: usize = 256;

/// The 256 numbers in ascending order, and how to find the nearest.
pub(super) struct DynamicMap {
    pub values: [f32; 256],
    /// The middles between neighbours; the last is no middle and above all.
    middles: [f32; 256],
    /// By the upper half of a number's bits: how many middles are below all numbers that begin with it. At most one lies among these.
    below: Vec<u8>,
}

/// For first moments.
pub(super) static SIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(true));

/// For second moments.
pub(super) static UNSIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(false));

const DECADES: i32 = 7;

impl DynamicMap {
    /// Power of ten by power of ten, from the smallest on, twice as many numbers: the middles of equal parts of 0.1 to 1.
    fn new(signed: bool) -> Self {
        let mut all = vec![0f32, 1.0];
        for decade in 0..DECADES {
            let parts = 1usize << (decade + i32::from(!signed));
            let scale = 10f64.powi(decade - (DECADES - 1)) as f32;
            for part in 0..parts {
                let middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
                all.push(scale * middle);
                if signed {
                    all.push(-scale * middle);
                }
            }
        }
        all.sort_by(f32::total_cmp);
        let mut values = [0f32; 256];
        values.iter_mut().zip(&all).for_each(|(value, number)| *value = *number);
        let mut middles = [f32::INFINITY; 256];
        middles.iter_mut().zip(values.windows(2)).for_each(|(middle, pair)| *middle = (pair[0] + pair[1]) / 2.0);
        let lowest = |key: u32| {
            let (near, far) = (f32::from_bits(key << 16), f32::from_bits(key << 16 | 0xFFFF));
            middles[..255].partition_point(|middle| *middle < near.min(far)) as u8
        };
        Self { values, middles, below: (0..1 << 16).map(lowest).collect() }
    }

    /// The place of the number nearest to `x`, which is between -1 and 1; of two equally near the lower.
    #[inline(always)]
    pub fn nearest(&self, x: f32) -> u8 {
        let place = self.below[(x.to_bits() >> 16) as usize];
        place + u8::from(x > self.middles[usize::from(place)])
    }

    /// Quantises a block; gives its scale, the largest absolute value.
    #[inline(always)]
    pub fn quantise(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let largest = values.iter().fold(0f32, |most, v| if v.abs() > most { v.abs() } else { most });
        let divisor = if largest > 0.0 { largest } else { 1.0 };
        codes.iter_mut().zip(values).for_each(|(code, v)| *code = self.nearest(v / divisor));
        largest
    }

    /// The values of a block.
    #[inline(always)]
    pub fn dequantise(&self, codes: &[u8], largest: f32, values: &mut [f32]) {
        values.iter_mut().zip(codes).for_each(|(v, code)| *v = self.values[usize::from(*code)] * largest);
    }
}

/// The boundaries of equal parts of 0.1 to 1, computed from the nearer end as `torch.linspace` does.
fn boundary(at: usize, parts: usize) -> f32 {
    let step = (1f32 - 0.1) / parts as f32;
    if at < parts.div_ceil(2) { 0.1 + step * at as f32 } else { 1.0 - step * (parts - at) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_number_is_found() {
        for map in [&*SIGNED, &*UNSIGNED] {
            assert!(map.values.windows(2).all(|pair| pair[0] < pair[1]) && map.values[255] == 1.0);
            let lowest = if map.values[0] < 0.0 { -1.0 } else { 0.0 };
            let middles = map.values.windows(2).flat_map(|pair| {
                let middle = (pair[0] + pair[1]) / 2.0;
                [middle.next_down(), middle, middle.next_up()]
            });
            let grid = (0..100_000).map(|at| lowest + (1.0 - lowest) * at as f32 / 1e5);
            let small = (0..60).map(|at| 2f32.powi(-at));
            for x in middles.chain(grid).chain(small) {
                let found = map.values[usize::from(map.nearest(x))];
                let nearest = map.values.iter().map(|v| (v - x).abs()).fold(f32::INFINITY, f32::min);
                assert!((found - x).abs() <= nearest + 3e-7 * x.abs(), "{x}: {found}");
            }
        }
        assert_eq!((SIGNED.values[127], UNSIGNED.values[0]), (0.0, 0.0));
    }

    #[test]
    fn blocks_keep_their_largest_and_their_zeros() {
        let values: Vec<f32> = (0..200).map(|at| if at % 3 == 0 { 0.0 } else { (at as f32 - 90.0) * 1e-6 }).collect();
        let (mut codes, mut back) = (vec![0; 200], vec![1.0; 200]);
        let largest = SIGNED.quantise(&values, &mut codes);
        SIGNED.dequantise(&codes, largest, &mut back);
        for (v, b) in values.iter().zip(&back) {
            assert!((v - b).abs() <= 0.008 * largest && (*v != 0.0 || *b == 0.0), "{v} {b}");
        }
        assert_eq!(SIGNED.quantise(&[0.0; 3], &mut codes), 0.0);
        assert_eq!(codes[..3], [127; 3]);
    }
}
