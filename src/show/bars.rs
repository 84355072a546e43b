//! Bars, lying, so that names of any length are readable: before and after by category, a score by method.

use super::figure::{BarSeries, Figure};
use super::frame::{Frame, GREY, PALETTE, text_width};
use super::number::{share, short, ticks};
use super::{escape, shorten};

/// Longest name of a category.
const LONGEST_NAME: usize = 34;
/// Eighths of a character cell.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

fn value_text(series: &BarSeries, i: usize) -> String {
    let value = series.values.get(i).copied().unwrap_or(f64::NAN);
    if value.is_finite() { short(value) } else { "–".into() }
}

pub(super) fn text(figure: &Figure, categories: &[String], series: &[BarSeries], width: usize) -> String {
    let (range, _) = figure.ranges();
    let names: Vec<String> = categories.iter().map(|name| shorten(name, (width / 3).clamp(6, LONGEST_NAME))).collect();
    let name_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let kinds = if series.len() > 1 { series.iter().map(|s| shorten(&s.name, 14)).collect() } else { vec![String::new()] };
    let kind_width = kinds.iter().map(|kind| kind.chars().count()).max().unwrap_or(0);
    let values = series.iter().flat_map(|s| (0..categories.len()).map(|i| tail(s, i).chars().count())).max().unwrap_or(0);
    let room = width.min(120).saturating_sub(name_width + kind_width + values + 4).max(8);
    let column = |x: f64| share(x, range).clamp(0.0, 1.0) * room as f64;
    let mut out = Vec::new();
    if !figure.title.is_empty() {
        out.push(figure.title.clone());
    }
    for (i, name) in names.iter().enumerate() {
        for (j, (one, kind)) in series.iter().zip(&kinds).enumerate() {
            let name = if j == 0 { name.as_str() } else { "" };
            let value = one.values.get(i).copied().unwrap_or(f64::NAN);
            let (from, to) = if value.is_finite() { (column(value.min(0.0)), column(value.max(0.0))) } else { (0.0, 0.0) };
            let bar = bar(from, to);
            out.push(format!("{name:<name_width$} {kind:<kind_width$} │{bar} {}", tail(one, i)).trim_end().to_string());
        }
    }
    let axis = [&figure.xlabel, &figure.ylabel].into_iter().find(|label| !label.is_empty());
    out.extend(axis.map(|label| format!("{} {label}", " ".repeat(name_width + kind_width + 2))));
    out.join("\n")
}

fn tail(series: &BarSeries, i: usize) -> String {
    match series.intervals.get(i).copied().flatten() {
        Some((low, high)) => format!("{} [{}, {}]", value_text(series, i), short(low), short(high)),
        None => value_text(series, i),
    }
}

/// Full cells from `from`, and eighths of one at the end.
fn bar(from: f64, to: f64) -> String {
    let start = from.round() as usize;
    let eighths = ((to - start as f64) * 8.0).round().max(0.0) as usize;
    let mut text = " ".repeat(start);
    text.push_str(&"█".repeat(eighths / 8));
    if !eighths.is_multiple_of(8) {
        text.push(EIGHTHS[eighths % 8]);
    }
    text
}

pub(super) fn svg(figure: &Figure, categories: &[String], series: &[BarSeries]) -> String {
    let names: Vec<String> = categories.iter().map(|name| shorten(name, LONGEST_NAME)).collect();
    let left = names.iter().map(|name| text_width(name)).fold(0.0, f64::max) + 28.0;
    let thickness = if series.len() > 1 { 14.0 } else { 18.0 };
    let group = thickness * series.len().max(1) as f64 + 12.0;
    let legend: Vec<_> = match series.len() {
        0 | 1 => vec![],
        _ => series.iter().enumerate().map(|(i, one)| (one.name.clone(), i, false)).collect(),
    };
    let label = if figure.xlabel.is_empty() { &figure.ylabel } else { &figure.xlabel };
    let named = Figure { xlabel: label.clone(), ..figure.clone() };
    let mut frame = Frame::new(&named, left, group * categories.len().max(1) as f64 + 6.0, &legend);
    let widest = series.iter().flat_map(|s| (0..categories.len()).map(|i| text_width(&value_text(s, i)))).fold(0.0, f64::max);
    // Room for the values behind the bars.
    frame.right -= widest + 4.0;
    if frame.x.0 < 0.0 {
        frame.left += widest + 4.0;
    }
    let marks = ticks(frame.x.0, frame.x.1, 7);
    if let (Some((first, _)), Some((last, _))) = (marks.first(), marks.last()) {
        frame.x = (frame.x.0.min(*first), frame.x.1.max(*last));
    }
    frame.x_axis(label, true);
    for (i, name) in names.iter().enumerate() {
        let top = frame.top + 6.0 + i as f64 * group;
        let middle = top + (group - 12.0) / 2.0 + 4.0;
        let full = &categories[i];
        let hover = if full == name { String::new() } else { format!("<title>{}</title>", escape(full)) };
        let x = left - 12.0;
        frame.raw(&format!("<text x=\"{x:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{hover}{}</text>", escape(name)));
        for (j, one) in series.iter().enumerate() {
            draw(&mut frame, one, i, top + j as f64 * thickness, thickness - 2.0, PALETTE[j % PALETTE.len()]);
        }
    }
    let zero = frame.place(0.0, 0.0).0;
    frame.rule((zero, frame.top), (zero, frame.bottom), 0.9);
    frame.finish(&named)
}

fn draw(frame: &mut Frame, series: &BarSeries, i: usize, top: f64, height: f64, colour: &str) {
    let value = series.values.get(i).copied().unwrap_or(f64::NAN);
    let clamp = |x: f64| x.clamp(frame.x.0, frame.x.1);
    let (zero, end) = (frame.place(clamp(0.0), 0.0).0, frame.place(clamp(if value.is_finite() { value } else { 0.0 }), 0.0).0);
    let (x, width) = (zero.min(end), (end - zero).abs());
    frame.raw(&format!("<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"));
    let mut outer = end;
    if let Some((low, high)) = series.intervals.get(i).copied().flatten() {
        let clamp = |x: f64| x.clamp(frame.x.0, frame.x.1);
        let (low, high, y) = (frame.place(clamp(low), 0.0).0, frame.place(clamp(high), 0.0).0, top + height / 2.0);
        let (up, down) = (y - 3.5, y + 3.5);
        frame.raw(&format!(
            "<path d=\"M{low:.1} {y:.1}H{high:.1}M{low:.1} {up:.1}V{down:.1}M{high:.1} {up:.1}V{down:.1}\" stroke=\"{GREY}\" \
             stroke-width=\"1.4\" fill=\"none\"/>"
        ));
        outer = if value < 0.0 { end.min(low) } else { end.max(high) };
    }
    let (x, anchor) = if value < 0.0 { (outer - 5.0, "end") } else { (outer + 5.0, "start") };
    frame.text(x, top + height / 2.0 + 4.0, anchor, &value_text(series, i));
}
