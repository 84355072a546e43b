//! Numbers for people: short texts and round axis marks.

use serde_json::Value;

/// About four significant digits: 0.1234, 12.3, 2e-5, 1.234e9.
pub fn short(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() { "NaN".into() } else { number.to_string() };
    }
    let size = number.abs();
    if number == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e6).contains(&size) {
        if size >= 1e6 && number.fract() == 0.0 && size < 1e15 && size.to_string().trim_end_matches('0').len() > 4 {
            return format!("{number:.0}");
        }
        let text = format!("{number:.3e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trim(digits));
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(1, 6) as usize;
    trim(&format!("{number:.decimals$}")).to_string()
}

fn trim(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

/// Texts of one column: numbers with the same number of decimals, so that they line up.
pub fn column(cells: &[&Value]) -> Vec<String> {
    let mut texts: Vec<String> = cells.iter().map(|cell| value(cell)).collect();
    let floats = || cells.iter().enumerate().filter(|(_, cell)| cell.is_f64()).map(|(i, _)| i);
    let decimals = floats().map(|i| texts[i].split_once('.').map_or(0, |(_, tail)| tail.len())).max().unwrap_or(0);
    if decimals > 0 && !floats().any(|i| texts[i].contains('e')) {
        for i in floats().collect::<Vec<_>>() {
            if let Some(number) = cells[i].as_f64() {
                texts[i] = format!("{number:.decimals$}");
            }
        }
    }
    texts
}

/// A value as text: numbers short, nothing for null, nested values as JSON.
pub fn value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) if number.is_f64() => short(number.as_f64().unwrap_or(f64::NAN)),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            items.iter().map(self::value).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Round marks between `low` and `high`, about `count` of them, with their texts.
pub fn ticks(low: f64, high: f64, count: usize) -> Vec<(f64, String)> {
    // The span itself may be beyond the largest number.
    let count = count.max(1) as f64;
    let raw = if (high - low).is_finite() { (high - low) / count } else { high / count - low / count };
    if !(raw > 0.0 && raw.is_finite()) {
        return vec![(low, short(low))];
    }
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|m| m * power >= raw * 0.999).unwrap_or(10.0) * power;
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    let whole = |d: &i32| {
        let scaled = step * 10f64.powi(*d);
        scaled > 0.5 && (scaled.round() - scaled).abs() < 1e-6
    };
    let decimals = (0..15).find(whole).unwrap_or(15) as usize;
    let text = |x: f64| {
        if x == 0.0 && decimals > 5 {
            // Between marks such as 2e-6 there is no place for so many zeros.
            "0".into()
        } else if x == 0.0 || ((1e-4..1e6).contains(&x.abs()) && decimals <= 5) {
            format!("{x:.decimals$}")
        } else {
            short(x)
        }
    };
    // Marks that lie close together far from zero need more digits than a short text has.
    let exact = |x: f64| {
        let digits = ((x.abs() / step).log10().ceil() + 1.0).clamp(0.0, 15.0) as usize;
        if x == 0.0 {
            "0".to_string()
        } else if (1e-4..1e15).contains(&x.abs()) {
            format!("{x:.decimals$}")
        } else {
            format!("{x:.digits$e}")
        }
    };
    let marks: Vec<f64> = (first..=last).map(|i| i as f64 * step).filter(|x| x.is_finite()).collect();
    let told = |x: &f64| text(*x).parse::<f64>().is_ok_and(|read| (read - x).abs() < 0.01 * step);
    let short_enough = marks.iter().all(told);
    marks.into_iter().map(|x| (x, if short_enough { text(x) } else { exact(x) })).collect()
}

/// As [`ticks`], on whole numbers only where `whole` is set: there is no step 0.5.
pub fn whole_ticks(low: f64, high: f64, count: usize, whole: bool) -> Vec<(f64, String)> {
    let marks = ticks(low, high, count);
    if !whole || high - low < 1.0 {
        return marks;
    }
    let kept = marks.into_iter().filter(|(x, _)| x.fract() == 0.0);
    kept.map(|(x, text)| (x, if x.abs() < 1e6 { format!("{x:.0}") } else { text })).collect()
}

/// The range of the finite numbers, widened where they are all the same; nothing if there are none.
pub fn range(numbers: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let found = numbers.filter(|x| x.is_finite()).fold(None, |range: Option<(f64, f64)>, x| match range {
        Some((low, high)) => Some((low.min(x), high.max(x))),
        None => Some((x, x)),
    });
    found.map(|(low, high)| {
        if high > low {
            return (low, high);
        }
        let half = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
        ((low - half).max(f64::MIN), (high + half).min(f64::MAX))
    })
}

/// How far a number lies between `low` (0) and `high` (1).
pub fn share(number: f64, (low, high): (f64, f64)) -> f64 {
    let span = high - low;
    if span.is_finite() { (number - low) / span } else { (0.5 * number - 0.5 * low) / (0.5 * high - 0.5 * low) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers() {
        for (number, text) in [
            (0.0, "0"),
            (0.123456, "0.1235"),
            (12.3, "12.3"),
            (2e-5, "2e-5"),
            (1234.56, "1234.6"),
            (-0.5, "-0.5"),
            (1.5e9, "1.5e9"),
        ] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn round_ticks() {
        let texts = |low, high| ticks(low, high, 5).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts(0.0, 1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(0.0, 10.0), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(texts(0.0, 2e-5).len(), 5);
        assert_eq!(texts(0.0, 2e-7)[..2], ["0", "5e-8"]);
        assert_eq!(texts(1_000_000.0, 1_000_004.0)[1], "1000001");
    }

    #[test]
    fn spans_beyond_the_largest_number() {
        let texts: Vec<String> = ticks(-1e308, 1e308, 5).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["-1e308", "-5e307", "0", "5e307", "1e308"]);
        assert_eq!([-1e308, 0.0, 1e308].map(|x| share(x, (-1e308, 1e308))), [0.0, 0.5, 1.0]);
        assert!(ticks(f64::MIN, f64::MAX, 5).iter().all(|(x, _)| x.is_finite()));
        assert_eq!(range([f64::MAX].into_iter()).unwrap().1, f64::MAX);
    }

    #[test]
    fn marks_that_lie_close_together_are_told_apart() {
        for (low, high) in
            [(0.593147, 0.593148), (0.59314, 0.59315), (1234567.1, 1234567.2), (2.0, 2.0000001), (-5e7, -5e7 + 2.0)]
        {
            let marks = ticks(low, high, 5);
            assert!(marks.len() > 2);
            for (value, text) in &marks {
                assert!(
                    (text.parse::<f64>().unwrap() - value).abs() < 0.02 * (high - low),
                    "{low} to {high}: {value} is shown as {text}"
                );
            }
        }
    }
}
