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
    let span = high - low;
    if !(span > 0.0 && span.is_finite()) {
        return vec![(low, short(low))];
    }
    let raw = span / count.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|m| m * power >= raw * 0.999).unwrap_or(10.0) * power;
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    let decimals = (0..9).find(|d| ((step * 10f64.powi(*d)).round() - step * 10f64.powi(*d)).abs() < 1e-6).unwrap_or(9) as usize;
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
    (first..=last).map(|i| i as f64 * step).map(|x| (x, text(x))).collect()
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
        (low - half, high + half)
    })
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
    }
}
