//! How sure a score and a change of a score are: intervals and exact tests for right/wrong items.
//!
//! A test set of 34 questions cannot show a small drop, so every number that is compared comes with an interval, and items
//! answered before and after training are compared as pairs, never as two independent samples.

use crate::error::{Error, Result};

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

/// Exact two-sided McNemar test: the p-value of `b` items that changed one way and `c` that changed the other, if both ways
/// were equally likely (a binomial test with p = 1/2). No changed item gives 1.
pub fn mcnemar_exact(b: u64, c: u64) -> f64 {
    let (n, k) = (b + c, b.min(c));
    if b == c {
        return 1.0;
    }
    if n <= 120 {
        // Whole numbers that fit: the p-value is exact to the last digit.
        let (mut ways, mut tail) = (1u128, 0u128);
        for i in 0..=k {
            tail += ways;
            ways = ways * u128::from(n - i) / u128::from(i + 1);
        }
        return (2.0 * tail as f64 / 2f64.powi(n as i32)).min(1.0);
    }
    // The tail is summed from its largest term down; the terms fall fast, so thousands of items need few of them.
    let mut term = (ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k) - n as f64 * std::f64::consts::LN_2).exp();
    let mut tail = 0.0;
    let mut i = k;
    loop {
        tail += term;
        if i == 0 || term < tail * 1e-18 {
            break;
        }
        term *= i as f64 / (n - i + 1) as f64;
        i -= 1;
    }
    (2.0 * tail).min(1.0)
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

/// ln(n!), to about 15 digits: a product for small n, Stirling's series beyond.
fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|i| i as f64).product::<f64>().ln();
    }
    let x = (n + 1) as f64;
    let r = 1.0 / (x * x);
    let series = (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
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
    fn factorials() {
        let mut sum = 0.0;
        for n in 1..200u64 {
            sum += (n as f64).ln();
            assert!((ln_factorial(n) - sum).abs() < 1e-11, "{n}");
        }
    }

    #[test]
    fn many_discordant_pairs() {
        // Sums of C(n, i) / 2^n with Python's integers.
        assert!((mcnemar_exact(4900, 5100) - 0.04658552770494739).abs() < 1e-11);
        assert!((mcnemar_exact(1600, 1400) - 0.0002785639610392337).abs() < 1e-13);
        assert!(mcnemar_exact(0, 5000) >= 0.0);
        assert_eq!(mcnemar_exact(50_000, 50_000), 1.0);
    }
}
