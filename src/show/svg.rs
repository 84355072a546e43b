//! Lines as SVG.

use super::alone;
use super::figure::{Figure, Series};
use super::frame::{Frame, PALETTE, dash, left_margin};
use std::fmt::Write;

/// Up to so many values every one gets a dot.
const DOTTED: usize = 25;

pub(super) fn lines(figure: &Figure, series: &[Series]) -> String {
    let named = series.len() > 1 || series.iter().any(|one| !one.name.is_empty());
    let legend: Vec<_> = series.iter().enumerate().filter(|_| named).map(|(i, one)| (one.name.clone(), i, true)).collect();
    let mut frame = Frame::new(figure, left_margin(figure), if figure.low { 90.0 } else { 300.0 }, &legend);
    frame.y_axis(&figure.ylabel);
    frame.x_axis(&figure.xlabel, false);
    // A value beyond `ylim` must not be drawn over title and axis.
    let clip = format!("ft-clip-{:x}", fingerprint(figure));
    frame.raw(&format!(
        "<clipPath id=\"{clip}\"><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/></clipPath><g clip-path=\"url(#{clip})\">",
        frame.left - 4.0,
        frame.top - 4.0,
        frame.right - frame.left + 8.0,
        frame.bottom - frame.top + 8.0
    ));
    for (i, one) in series.iter().enumerate() {
        let colour = PALETTE[i % PALETTE.len()];
        let mut path = String::new();
        let mut dots = String::new();
        let mut pen_down = false;
        let places: Vec<(f64, f64)> = one.x.iter().zip(&one.y).map(|(x, y)| frame.place(*x, *y)).collect();
        for (at, &(x, y)) in places.iter().enumerate() {
            if !(x.is_finite() && y.is_finite()) {
                pen_down = false;
                continue;
            }
            let _ = write!(path, "{}{x:.1} {y:.1}", if pen_down { "L" } else { "M" });
            pen_down = true;
            if one.y.len() <= DOTTED || alone(&places, at) {
                let _ = write!(dots, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
            }
        }
        frame.raw(&format!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\"{}/><g fill=\"{colour}\">{dots}</g>",
            dash(i)
        ));
    }
    frame.raw("</g>");
    frame.finish(figure)
}

/// Names the clip path, so that several figures in one page do not share it.
fn fingerprint(figure: &Figure) -> u64 {
    let text = figure.json().to_string();
    text.bytes().fold(0xcbf29ce484222325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001b3))
}
