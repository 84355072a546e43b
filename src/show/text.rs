//! Lines and points on a terminal: braille dots in a frame; letters tell series and points apart without colour.

use super::braille::Canvas;
use super::figure::{Figure, Point, Series};
use super::number::{share, short, ticks, whole_ticks};
use super::{alone, shorten};

/// Rows of the plot, and of one under another.
const HEIGHTS: (usize, usize) = (14, 5);
/// ANSI colours near the SVG palette, by series.
const ANSI: [u8; 7] = [33, 208, 36, 202, 176, 117, 228];

fn letter(i: usize) -> char {
    let letters = ('A'..='Z').chain('a'..='z').chain('0'..='9');
    letters.clone().nth(i % letters.count()).unwrap_or('*')
}

pub(super) fn lines(figure: &Figure, series: &[Series], width: usize, colour: bool) -> String {
    let frame = Frame::new(figure, width);
    let mut canvas = frame.canvas();
    let told_apart = series.len() > 1;
    for (i, one) in series.iter().enumerate() {
        let points: Vec<_> = one.x.iter().zip(&one.y).map(|(x, y)| frame.place(*x, *y)).collect();
        for pair in points.windows(2) {
            if pair.iter().all(|(x, y)| x.is_finite() && y.is_finite()) {
                canvas.line(pair[0], pair[1], i);
            }
        }
        let finite: Vec<_> = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()).copied().collect();
        // Between two gaps there is no line, but a value.
        for (x, y) in (0..points.len()).filter(|at| alone(&points, *at)).map(|at| points[at]) {
            canvas.dot(x, y, i);
        }
        if told_apart && let Some(last) = finite.last() {
            canvas.mark(canvas.cell(last.0, last.1), letter(i), i);
            // Letters along the line, each series at another place.
            let middle = finite.len() * (i + 1) / (series.len() + 1);
            if let Some(place) = finite.get(middle).filter(|_| finite.len() > 8) {
                canvas.mark(canvas.cell(place.0, place.1), letter(i), i);
            }
        }
    }
    let paint = |character: char, i: usize| {
        if colour { format!("\x1b[38;5;{}m{character}\x1b[0m", ANSI[i % ANSI.len()]) } else { character.to_string() }
    };
    let legend: Vec<String> = if told_apart {
        series.iter().enumerate().map(|(i, one)| format!("{} {}", paint(letter(i), i), one.name)).collect()
    } else {
        series.iter().filter(|one| !one.name.is_empty()).map(|one| one.name.clone()).collect()
    };
    frame.render(&canvas.lines(paint), &wrap(&legend, width))
}

pub(super) fn scatter(figure: &Figure, points: &[Point], width: usize) -> String {
    let frame = Frame::new(figure, width);
    let mut canvas = frame.canvas();
    for point in points {
        let bars = [
            point.x_interval.map(|(low, high)| (frame.place(low, point.y), frame.place(high, point.y))),
            point.y_interval.map(|(low, high)| (frame.place(point.x, low), frame.place(point.x, high))),
        ];
        for (from, to) in bars.into_iter().flatten() {
            canvas.line(from, to, 0);
        }
    }
    for (i, point) in points.iter().enumerate() {
        let (x, y) = frame.place(point.x, point.y);
        if x.is_finite() && y.is_finite() {
            canvas.mark(canvas.cell(x, y), letter(i), 0);
        }
    }
    let interval = |value: f64, interval: Option<(f64, f64)>| match interval {
        Some((low, high)) => format!("{} [{}, {}]", short(value), short(low), short(high)),
        None => short(value),
    };
    let entry = |(i, p): (usize, &Point)| {
        format!("{} {}: ({}, {})", letter(i), p.label, interval(p.x, p.x_interval), interval(p.y, p.y_interval))
    };
    let legend: Vec<String> = points.iter().enumerate().map(entry).collect();
    frame.render(&canvas.lines(|character, _| character.to_string()), &legend)
}

/// Legend entries side by side as far as the width goes.
fn wrap(entries: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for entry in entries {
        match lines.last_mut() {
            Some(line) if line.chars().count() + entry.chars().count() + 3 <= width => {
                line.push_str("   ");
                line.push_str(entry);
            }
            _ => lines.push(entry.clone()),
        }
    }
    lines
}

fn marks(figure: &Figure) -> Vec<(f64, String)> {
    let (_, y) = figure.ranges();
    ticks(y.0, y.1, if figure.low { 2 } else { 5 })
}

/// Columns for the texts of the vertical axis.
pub(super) fn margin(figure: &Figure) -> usize {
    let widest = marks(figure).iter().map(|(_, text)| text.chars().count()).max().unwrap_or(1);
    widest.max(figure.margin.0)
}

/// Axes around the plot.
struct Frame<'a> {
    figure: &'a Figure,
    x: (f64, f64),
    y: (f64, f64),
    y_ticks: Vec<(f64, String)>,
    margin: usize,
    columns: usize,
}

impl<'a> Frame<'a> {
    fn new(figure: &'a Figure, width: usize) -> Self {
        let (x, y) = figure.ranges();
        let (y_ticks, margin) = (marks(figure), margin(figure));
        Self { figure, x, y, y_ticks, margin, columns: width.clamp(24, 120).saturating_sub(margin + 3).max(10) }
    }

    fn height(&self) -> usize {
        if self.figure.low { HEIGHTS.1 } else { HEIGHTS.0 }
    }

    fn canvas(&self) -> Canvas {
        Canvas::new(self.columns, self.height())
    }

    /// Shares of width and height.
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (share(x, self.x), share(y, self.y))
    }

    fn render(&self, body: &[String], legend: &[String]) -> String {
        let indent = " ".repeat(self.margin + 2);
        let centred = |text: &str| {
            let space = self.columns.saturating_sub(text.chars().count()) / 2;
            format!("{indent}{}{text}", " ".repeat(space))
        };
        let mut out = Vec::new();
        if !self.figure.title.is_empty() {
            out.push(centred(&shorten(&self.figure.title, self.columns)));
        }
        if !self.figure.ylabel.is_empty() {
            out.push(self.figure.ylabel.clone());
        }
        for (row, line) in body.iter().enumerate() {
            let here = |value: f64| ((1.0 - self.place(self.x.0, value).1) * (self.height() - 1) as f64).round() as usize == row;
            match self.y_ticks.iter().find(|(value, _)| here(*value)) {
                Some((_, text)) => out.push(format!("{text:>width$} ┤{line}", width = self.margin)),
                None => out.push(format!("{} │{line}", " ".repeat(self.margin))),
            }
        }
        let (mut rule, mut texts) = (vec!['─'; self.columns], vec![' '; self.columns]);
        let mut free = 0;
        for (value, text) in whole_ticks(self.x.0, self.x.1, (self.columns / 12).clamp(2, 8), self.figure.whole_x()) {
            let column = (self.place(value, self.y.0).0.clamp(0.0, 1.0) * (self.columns - 1) as f64).round() as usize;
            rule[column] = '┬';
            let length = text.chars().count();
            let start = column.saturating_sub(length / 2).min(self.columns.saturating_sub(length));
            if start >= free {
                for (i, character) in text.chars().enumerate().filter(|(i, _)| start + i < self.columns) {
                    texts[start + i] = character;
                }
                free = start + length + 1;
            }
        }
        out.push(format!("{} └{}", " ".repeat(self.margin), rule.into_iter().collect::<String>()));
        out.push(format!("{indent}{}", texts.into_iter().collect::<String>()).trim_end().to_string());
        if !self.figure.xlabel.is_empty() {
            out.push(centred(&shorten(&self.figure.xlabel, self.columns)));
        }
        out.extend(legend.iter().cloned());
        out.join("\n")
    }
}
