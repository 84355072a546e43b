//! Labelled points as SVG. Each label goes where it hides least: not over other labels, points or error bars.

use super::figure::{Figure, Point};
use super::frame::{Frame, GREY, PALETTE, left_margin, text_width};

/// Height of a line of text.
const LINE: f64 = 14.0;

#[derive(Clone, Copy)]
struct Box {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Box {
    fn around((x, y): (f64, f64), half: f64) -> Self {
        Self { left: x - half, top: y - half, right: x + half, bottom: y + half }
    }

    fn overlap(&self, other: &Self) -> f64 {
        let across = self.right.min(other.right) - self.left.max(other.left);
        let down = self.bottom.min(other.bottom) - self.top.max(other.top);
        if across > 0.0 && down > 0.0 { across * down } else { 0.0 }
    }
}

pub(super) fn scatter(figure: &Figure, points: &[Point]) -> String {
    let mut frame = Frame::new(figure, left_margin(figure), 340.0, &[]);
    frame.y_axis(&figure.ylabel);
    frame.x_axis(&figure.xlabel, true);
    let shown: Vec<&Point> = points.iter().filter(|p| p.x.is_finite() && p.y.is_finite()).collect();
    let places: Vec<(f64, f64)> = shown.iter().map(|p| frame.place(p.x, p.y)).collect();
    let mut bars = Vec::new();
    for (i, point) in shown.iter().enumerate() {
        let colour = PALETTE[i % PALETTE.len()];
        let ends = [
            point.x_interval.map(|(low, high)| (frame.place(low, point.y), frame.place(high, point.y), (0.0, 4.0))),
            point.y_interval.map(|(low, high)| (frame.place(point.x, low), frame.place(point.x, high), (4.0, 0.0))),
        ];
        for (from, to, cap) in ends.into_iter().flatten() {
            bars.push(Box { left: from.0 - 1.0, right: to.0 + 1.0, top: to.1 - 1.0, bottom: from.1 + 1.0 });
            let caps = [from, to].map(|(x, y)| format!("M{:.1} {:.1}L{:.1} {:.1}", x - cap.0, y - cap.1, x + cap.0, y + cap.1));
            frame.raw(&format!(
                "<path d=\"M{:.1} {:.1}L{:.1} {:.1}{}{}\" stroke=\"{colour}\" stroke-width=\"1.3\" stroke-opacity=\"0.75\" fill=\"none\"/>",
                from.0, from.1, to.0, to.1, caps[0], caps[1]
            ));
        }
    }
    let mut dots: Vec<Box> = places.iter().map(|place| Box::around(*place, 7.0)).collect();
    let mut labels: Vec<Box> = Vec::new();
    let mut texts = Vec::new();
    for (point, place) in shown.iter().zip(&places) {
        let width = text_width(&point.label);
        let best = candidates(*place, width)
            .map(|(distance, spot)| (cost(&spot, distance, &labels, &dots, &bars, &frame), spot))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, spot)) = best.filter(|_| !point.label.is_empty()) {
            labels.push(spot);
            texts.push((spot, *place, point.label.clone()));
        }
    }
    dots.clear();
    for (spot, (x, y), _) in &texts {
        // A label that had to move away is tied to its point.
        let (near_x, near_y) = (x.clamp(spot.left, spot.right), y.clamp(spot.top, spot.bottom));
        if (near_x - x).hypot(near_y - y) > 14.0 {
            frame.rule((*x, *y), (near_x, near_y), 0.8);
        }
    }
    for (i, (x, y)) in places.iter().enumerate() {
        let colour = PALETTE[i % PALETTE.len()];
        frame.raw(&marker(i / PALETTE.len(), *x, *y, colour));
    }
    for (spot, _, label) in &texts {
        frame.text(spot.left, spot.bottom - 3.5, "start", label);
    }
    frame.finish(figure)
}

/// Places around a point, the usual ones first, then farther away.
fn candidates((x, y): (f64, f64), width: f64) -> impl Iterator<Item = (f64, Box)> {
    [9.0, 16.0, 26.0, 40.0, 58.0].into_iter().flat_map(move |distance: f64| {
        (0..16).map(move |i| {
            let angle = f64::from(i) * std::f64::consts::TAU / 16.0;
            let (dx, dy) = (angle.cos(), -angle.sin());
            let left = x + dx * distance - width / 2.0 + dx * width / 2.0;
            let top = y + dy * distance - LINE / 2.0 + dy * LINE / 2.0;
            // Right of the point is where readers look first.
            let preference = distance + f64::from(i.min(16 - i)) * 0.4;
            (preference, Box { left, top, right: left + width, bottom: top + LINE })
        })
    })
}

fn cost(spot: &Box, distance: f64, labels: &[Box], dots: &[Box], bars: &[Box], frame: &Frame) -> f64 {
    let sum = |boxes: &[Box]| boxes.iter().map(|other| spot.overlap(other)).sum::<f64>();
    let outside = (frame.left - spot.left).max(0.0)
        + (spot.right - frame.right - 20.0).max(0.0)
        + (frame.top - spot.top).max(0.0)
        + (spot.bottom - frame.bottom).max(0.0);
    sum(labels) * 20.0 + sum(dots) * 10.0 + sum(bars) * 1.5 + outside * 100.0 + distance * 0.6
}

/// Circle, square, diamond, triangle: another shape once the colours repeat.
fn marker(round: usize, x: f64, y: f64, colour: &str) -> String {
    let shape = match round % 4 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\""),
        1 => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\"", x - 4.5, y - 4.5),
        2 => format!("<path d=\"M{x:.1} {:.1}l6 6l-6 6l-6 -6z\"", y - 6.0),
        _ => format!("<path d=\"M{x:.1} {:.1}l6 10h-12z\"", y - 6.0),
    };
    format!("{shape} fill=\"{colour}\" stroke=\"{GREY}\" stroke-width=\"0.6\"/>")
}
