//! Labelled points as SVG. Each label goes where it hides least: not over other labels, points or error bars.

use super::figure::{Figure, Point};
use super::frame::{Frame, GREY, PALETTE, left_margin, text_width};

/// Height of a line of text.
const LINE: f64 = 14.0;

#[derive(Clone, Copy, PartialEq)]
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

    fn widened(&self, by: f64) -> Self {
        Self { left: self.left - by, right: self.right + by, ..*self }
    }

    /// The place in the box that is nearest to a point.
    fn nearest(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (x.clamp(self.left, self.right), y.clamp(self.top, self.bottom))
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
    let crowd = Crowd { points: places.clone(), dots: places.iter().map(|place| Box::around(*place, 7.0)).collect(), bars };
    let texts: Vec<&str> = shown.iter().map(|point| point.label.as_str()).collect();
    let spots = arrange(&texts, &crowd, &frame);
    for (i, (spot, (x, y))) in spots.iter().zip(&places).enumerate() {
        // A label that had to move away is tied to its point.
        let near = spot.nearest((*x, *y));
        if !texts[i].is_empty() && (near.0 - x).hypot(near.1 - y) > 14.0 {
            let colour = PALETTE[i % PALETTE.len()];
            frame.raw(&format!(
                "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-dasharray=\"2 2\"/>",
                near.0, near.1
            ));
        }
    }
    for (i, (x, y)) in places.iter().enumerate() {
        let colour = PALETTE[i % PALETTE.len()];
        frame.raw(&marker(i / PALETTE.len(), *x, *y, colour));
    }
    for (spot, text) in spots.iter().zip(&texts).filter(|(_, text)| !text.is_empty()) {
        frame.text(spot.left, spot.bottom - 3.5, "start", text);
    }
    frame.finish(figure)
}

/// Places around a point, the usual ones first, then farther away.
fn candidates((x, y): (f64, f64), width: f64) -> impl Iterator<Item = (f64, Box)> {
    [9.0, 16.0, 26.0, 40.0, 58.0, 80.0].into_iter().flat_map(move |distance: f64| {
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

/// What labels must keep clear of.
struct Crowd {
    points: Vec<(f64, f64)>,
    dots: Vec<Box>,
    bars: Vec<Box>,
}

/// A place for every label: each in turn takes its best one, and then again in view of all others, until nothing moves.
fn arrange(texts: &[&str], crowd: &Crowd, frame: &Frame) -> Vec<Box> {
    let mut spots: Vec<Option<Box>> = vec![None; texts.len()];
    for _ in 0..6 {
        let mut moved = false;
        for (i, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
            let best = candidates(crowd.points[i], text_width(text))
                .map(|(distance, spot)| (cost(&spot, i, distance, &spots, crowd, frame), spot))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .map(|(_, spot)| spot);
            moved |= best != spots[i];
            spots[i] = best;
        }
        if !moved {
            break;
        }
    }
    spots.into_iter().zip(&crowd.points).map(|(spot, point)| spot.unwrap_or_else(|| Box::around(*point, 0.0))).collect()
}

/// How bad a place is: what it covers, what its tie crosses, and how far away it is.
fn cost(spot: &Box, own: usize, distance: f64, spots: &[Option<Box>], crowd: &Crowd, frame: &Frame) -> f64 {
    let sum = |boxes: &[Box]| boxes.iter().map(|other| spot.overlap(other)).sum::<f64>();
    let outside = (frame.left - spot.left).max(0.0)
        + (spot.right - frame.right - 20.0).max(0.0)
        + (frame.top - spot.top).max(0.0)
        + (spot.bottom - frame.bottom).max(0.0);
    let point = crowd.points[own];
    let mut labels = 0.0;
    for (i, other) in spots.iter().enumerate().filter(|(i, _)| *i != own) {
        let Some(other) = other else { continue };
        labels += spot.widened(3.0).overlap(other) * 20.0;
        labels += crossing(point, spot.nearest(point), other) * 60.0;
        labels += crossing(crowd.points[i], other.nearest(crowd.points[i]), spot) * 60.0;
    }
    // A label nearer to another point than to its own would be read as that point's.
    let gap = |place: &(f64, f64)| {
        let near = spot.nearest(*place);
        (near.0 - place.0).hypot(near.1 - place.1)
    };
    let stolen = crowd.points.iter().enumerate().filter(|(i, place)| *i != own && gap(place) < gap(&point) - 1.0).count();
    labels + sum(&crowd.dots) * 10.0 + sum(&crowd.bars) * 2.0 + outside * 100.0 + distance * 0.6 + stolen as f64 * 12.0
}

/// Steps of a straight line that lie inside a box.
fn crossing(from: (f64, f64), to: (f64, f64), other: &Box) -> f64 {
    let inside = |i: &u32| {
        let t = f64::from(*i) / 20.0;
        let (x, y) = (from.0 + (to.0 - from.0) * t, from.1 + (to.1 - from.1) * t);
        x > other.left && x < other.right && y > other.top && y < other.bottom
    };
    f64::from((0..=20).filter(inside).count() as u32)
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
