//! How sure a score and a change of a score are: intervals and exact tests for right/wrong items.
//!
//! A test set of 34 questions cannot show a small drop, so every number that is compared comes with an interval, and items
//! answered before and after training are compared as pairs, never as two independent samples.

use crate::error::{Error, Result};
use candle_core::cpu::erf::erfc_f64;

/// The confidence used where none is given.
pub const CONFIDENCE: f64 = 0.95;

/// A closed interval of a proportion or of a difference of proportions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower limit.
    pub low: f64,
    /// Upper limit.
    pub high: f64,
}

/// The same items answered before and after: what was lost, what was gained, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedDifference {
    /// Number of items.
    pub n: u64,
    /// Right before, wrong after.
    pub lost: u64,
    /// Wrong before, right after.
    pub gained: u64,
    /// Share right before minus share right after; positive is a drop.
    pub drop: f64,
    /// Interval of `drop`.
    pub interval: Interval,
    /// Exact McNemar test, two-sided.
    pub p_value: f64,
}

/// Wilson's score interval of `k` right of `n`.
///
/// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Unlike the usual
/// `p ± 1.96 * sqrt(p (1 - p) / n)` it is sensible at 0 and `n` right and for few items.
///
/// # Errors
/// `n` is 0, `k` is above `n`, or the confidence is not between 0 and 1.
pub fn wilson_interval(k: u64, n: u64, confidence: f64) -> Result<Interval> {
    if n == 0 {
        return Err(Error::argument("an interval needs at least one item, but n is 0"));
    }
    if k > n {
        return Err(Error::argument(format!("k counts the right ones among n, so it cannot exceed n: k is {k}, n is {n}")));
    }
    Ok(wilson(k, n, two_sided_z(confidence)?))
}

fn wilson(k: u64, n: u64, z: f64) -> Interval {
    let (p, count) = (k as f64 / n as f64, n as f64);
    let scale = 1.0 + z * z / count;
    let centre = (p + z * z / (2.0 * count)) / scale;
    let half = z / scale * (p * (1.0 - p) / count + z * z / (4.0 * count * count)).sqrt();
    Interval { low: if k == 0 { 0.0 } else { centre - half }, high: if k == n { 1.0 } else { centre + half } }
}

/// More items than this are not summed: the normal distribution with its first corrections is then as good.
const MOST_SUMMED: u64 = 1_000_000_000;

/// Exact two-sided McNemar test: the p-value of `b` items that changed one way and `c` that changed the other, if both ways
/// were equally likely (a binomial test with p = 1/2). No changed item gives 1.
pub fn mcnemar_exact(b: u64, c: u64) -> f64 {
    let (k, larger) = (b.min(c), b.max(c));
    if larger - k <= 1 {
        return 1.0;
    }
    match k.checked_add(larger) {
        Some(n) if n <= 120 => {
            // Whole numbers that fit: the p-value is exact to the last digit.
            let (mut ways, mut tail) = (1u128, 0u128);
            for i in 0..=k {
                tail += ways;
                ways = ways * u128::from(n - i) / u128::from(i + 1);
            }
            (2.0 * tail as f64 / 2f64.powi(n as i32)).min(1.0)
        }
        Some(n) if n <= MOST_SUMMED => (2.0 * summed_tail(k, n)).min(1.0),
        _ => normal_tails(k, larger).clamp(0.0, 1.0),
    }
}

/// How likely `k` heads or fewer are among `n` throws of a fair coin, `k` below `n / 2`.
fn summed_tail(k: u64, n: u64) -> f64 {
    // From the largest term down; the terms fall fast, so that about 5 sqrt(n) of them are all that counts.
    let (mut term, mut tail, mut i) = (ln_probability(k, n).exp(), 0.0, k);
    loop {
        tail += term;
        if i == 0 || term < tail * 1e-18 {
            return tail;
        }
        term *= i as f64 / (n - i + 1) as f64;
        i -= 1;
    }
}

/// ln of how likely `k` heads are among `n` throws of a fair coin, `k` below `n / 2`. A difference of ln(n!) would lose all digits of
/// many throws; C. Loader, "Fast and accurate computation of binomial probabilities" (2000), has but small terms.
fn ln_probability(k: u64, n: u64) -> f64 {
    if k == 0 {
        return -(n as f64) * std::f64::consts::LN_2;
    }
    let (n, k, rest) = (n as f64, k as f64, (n - k) as f64);
    let s = (rest - k) / n;
    // (1 + s) ln(1 + s) + (1 - s) ln(1 - s), the first terms of which cancel where s is small.
    let distance: f64 = if s < 0.1 {
        (1..=9).rev().map(|m| s.powi(2 * m) / f64::from(m * (2 * m - 1))).sum()
    } else {
        (1.0 + s) * s.ln_1p() + (1.0 - s) * (-s).ln_1p()
    };
    let stirling = stirling_error(n) - stirling_error(k) - stirling_error(rest);
    stirling - 0.5 * n * distance + 0.5 * (n / (2.0 * std::f64::consts::PI * k * rest)).ln()
}

/// ln(x!) less Stirling's formula, for a whole number of at least 1.
fn stirling_error(x: f64) -> f64 {
    if x < 16.0 {
        let factorial: f64 = (2..=x as u32).map(f64::from).product();
        return factorial.ln() - ((x + 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln());
    }
    let r = 1.0 / (x * x);
    (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r * (1.0 / 1680.0 - r / 1188.0)))) / x
}

/// How likely a split at least as uneven as `k` to `larger` is, either way: Edgeworth's expansion up to the fourth cumulant, half a
/// throw further for continuity and with Sheppard's corrections of the cumulants. What it leaves out falls with the square of the number.
fn normal_tails(k: u64, larger: u64) -> f64 {
    let n = k as f64 + larger as f64;
    let variance = n / 4.0 - 1.0 / 12.0;
    let z = 0.5 * (larger - k - 1) as f64 / variance.sqrt();
    let fourth = (1.0 / 120.0 - n / 8.0) / (variance * variance);
    let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    erfc_f64(z * std::f64::consts::FRAC_1_SQRT_2) + density * fourth / 12.0 * (z * z * z - 3.0 * z)
}

/// Newcombe's interval of a difference of paired proportions: `a` items right both times, `b` right before only, `c` right
/// after only, `d` wrong both times; the difference is `(b - c) / n`, so a drop is positive.
///
/// R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
/// Statistics in Medicine 17 (1998), method 10: two Wilson intervals, joined with their correlation.
///
/// # Errors
/// No items, or a confidence that is not between 0 and 1.
pub fn paired_difference_interval(a: u64, b: u64, c: u64, d: u64, confidence: f64) -> Result<Interval> {
    let n = a + b + c + d;
    if n == 0 {
        return Err(Error::argument("a paired difference needs at least one item answered before and after"));
    }
    let z = two_sided_z(confidence)?;
    let count = n as f64;
    let (p1, p2) = ((a + b) as f64 / count, (a + c) as f64 / count);
    let (first, second) = (wilson(a + b, n, z), wilson(a + c, n, z));
    let product = (a + b) as f64 * (c + d) as f64 * (a + c) as f64 * (b + d) as f64;
    let mut cross = a as f64 * d as f64 - b as f64 * c as f64;
    if cross > 0.0 {
        cross = (cross - count / 2.0).max(0.0);
    }
    let phi = if product == 0.0 { 0.0 } else { cross / product.sqrt() };
    let join = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
    let difference = (b as f64 - c as f64) / count;
    Ok(Interval {
        low: difference - join(p1 - first.low, second.high - p2),
        high: difference + join(first.high - p1, p2 - second.low),
    })
}

/// Compares the same items before and after: one flag an item, true = right.
///
/// # Errors
/// The two lists differ in length or are empty, or the confidence is not between 0 and 1.
pub fn paired_difference(before: &[bool], after: &[bool], confidence: f64) -> Result<PairedDifference> {
    if before.len() != after.len() {
        let message = "item i of both lists must be the same question, but there are";
        return Err(Error::argument(format!("{message} {} items before and {} after", before.len(), after.len())));
    }
    let count = |want: (bool, bool)| before.iter().zip(after).filter(|(x, y)| (**x, **y) == want).count() as u64;
    let (both, lost, gained, neither) = (count((true, true)), count((true, false)), count((false, true)), count((false, false)));
    let interval = paired_difference_interval(both, lost, gained, neither, confidence)?;
    let n = before.len() as u64;
    let drop = (lost as f64 - gained as f64) / n as f64;
    Ok(PairedDifference { n, lost, gained, drop, interval, p_value: mcnemar_exact(lost, gained) })
}

/// Holm's correction: p-values of several tests, adjusted so that comparing each with 0.05 errs in any of them with
/// probability 0.05 at most. Same order as given.
///
/// # Errors
/// A p-value that is not between 0 and 1.
pub fn holm(p_values: &[f64]) -> Result<Vec<f64>> {
    if let Some((i, p)) = p_values.iter().enumerate().find(|(_, p)| !(0.0..=1.0).contains(*p)) {
        return Err(Error::argument(format!("a p-value lies between 0 and 1, but number {i} is {p}")));
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|x, y| p_values[*x].total_cmp(&p_values[*y]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max((p_values[index] * (p_values.len() - rank) as f64).min(1.0));
        adjusted[index] = largest;
    }
    Ok(adjusted)
}

fn two_sided_z(confidence: f64) -> Result<f64> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return Err(Error::argument(format!("confidence must lie between 0 and 1, such as 0.95, but it is {confidence}")));
    }
    Ok(normal_quantile(0.5 + confidence / 2.0))
}

/// The standard normal distribution's quantile. M. J. Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), PPND16.
fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * polynomial(&CENTRE[0], r) / polynomial(&CENTRE[1], r);
    }
    let r = (-(if q < 0.0 { p } else { 1.0 - p }).ln()).sqrt();
    let (table, r) = if r <= 5.0 { (&MIDDLE, r - 1.6) } else { (&TAIL, r - 5.0) };
    (polynomial(&table[0], r) / polynomial(&table[1], r)).copysign(q)
}

fn polynomial(coefficients: &[f64; 8], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

/// Numerator and denominator for |p - 1/2| up to 0.425, lowest power first.
const CENTRE: [[f64; 8]; 2] = [
    [
        3.3871328727963665,
        133.14166789178438,
        1971.5909503065513,
        13731.69376550946,
        45921.95393154987,
        67265.7709270087,
        33430.57558358813,
        2509.0809287301227,
    ],
    [
        1.0,
        42.31333070160091,
        687.1870074920579,
        5394.196021424751,
        21213.794301586597,
        39307.89580009271,
        28729.085735721943,
        5226.495278852854,
    ],
];

/// Numerator and denominator for further out, down to p of about 1e-11, lowest power first.
const MIDDLE: [[f64; 8]; 2] = [
    [
        1.4234371107496835,
        4.630337846156546,
        5.769497221460691,
        3.6478483247632045,
        1.2704582524523684,
        0.2417807251774506,
        0.022723844989269184,
        0.0007745450142783414,
    ],
    [
        1.0,
        2.053191626637759,
        1.6763848301838038,
        0.6897673349851,
        0.14810397642748008,
        0.015198666563616457,
        0.0005475938084995345,
        1.0507500716444169e-09,
    ],
];

/// Numerator and denominator for the far tail, lowest power first.
const TAIL: [[f64; 8]; 2] = [
    [
        6.657904643501103,
        5.463784911164114,
        1.7848265399172913,
        0.29656057182850487,
        0.026532189526576124,
        0.0012426609473880784,
        2.7115555687434876e-05,
        2.0103343992922881e-07,
    ],
    [
        1.0,
        0.599832206555888,
        0.1369298809227358,
        0.014875361290850615,
        0.0007868691311456133,
        1.8463183175100548e-05,
        1.421511758316446e-07,
        2.0442631033899397e-15,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_quantiles() {
        for (p, z) in [(0.5, 0.0), (0.6, 0.2533471031357998), (0.975, 1.959963984540054), (0.001, -3.090232306167813)] {
            assert!((normal_quantile(p) - z).abs() < 1e-14, "{p}");
        }
        assert!((normal_quantile(1e-13) + 7.3487961028006765).abs() < 1e-13);
    }

    #[test]
    fn many_discordant_pairs() {
        // Sums of C(n, i) / 2^n with Python's integers.
        assert!((mcnemar_exact(4900, 5100) - 0.04658552770494739).abs() < 1e-11);
        assert!((mcnemar_exact(1600, 1400) - 0.0002785639610392337).abs() < 1e-13);
        assert!(mcnemar_exact(0, 5000) >= 0.0);
        assert_eq!(mcnemar_exact(50_000, 50_000), 1.0);
    }

    #[test]
    fn the_sum_of_floats_is_that_of_whole_numbers() {
        for n in 1..=120u64 {
            for k in (0..n).filter(|k| n - k > k + 1) {
                let (sum, exact) = (2.0 * summed_tail(k, n), mcnemar_exact(k, n - k));
                assert!((sum / exact - 1.0).abs() < 1e-12, "{k} of {n}: {sum}, {exact}");
            }
        }
    }

    #[test]
    fn pairs_without_number() {
        // Sums with 60 digits; the first lies where sums end, the next beyond.
        for (b, c, p) in [(499_968_377, 500_031_623, 0.0455021528926161), (9_999_800_000, 10_000_200_000, 0.004677838315801803)] {
            assert!((mcnemar_exact(b, c) / p - 1.0).abs() < 1e-11, "{b}, {c}");
            assert!((2.0 * summed_tail(b, b + c) / normal_tails(b, c) - 1.0).abs() < 1e-11, "{b}, {c}");
        }
        // Halves that differ by one split the even odds, however many they are.
        assert_eq!(mcnemar_exact(400_000, 400_001), 1.0);
        assert_eq!(mcnemar_exact(4_000_000_000_000_000_001, 4_000_000_000_000_000_000), 1.0);
        let far = mcnemar_exact(3_999_999_997_000_000_000, 4_000_000_003_000_000_000);
        assert!((far - 0.03389485355442).abs() < 1e-12, "{far}");
        assert_eq!((mcnemar_exact(0, u64::MAX), mcnemar_exact(u64::MAX, u64::MAX)), (0.0, 1.0));
        assert!((mcnemar_exact(u64::MAX, u64::MAX - 5_000_000_000) - 0.410_405_28).abs() < 1e-7);
    }
}
