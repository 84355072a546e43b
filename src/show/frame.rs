//! What the SVG figures share: the document, title, axes, legend, colours and the width of text.

use super::escape;
use super::figure::Figure;
use super::number::{share, ticks, whole_ticks};

/// Okabe and Ito's palette, told apart by colour-blind people; those that vanish on white or on black are left out or last.
pub(super) const PALETTE: [&str; 7] = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#B8A900"];
/// Dashes tell lines apart in black and white, too.
pub(super) const DASHES: [&str; 4] = ["", "7 4", "2 3", "9 3 2 3"];
/// A grey that has a contrast of 4.5 with white and with near-black, so that one file serves both.
pub(super) const GREY: &str = "#767676";
/// Width of every figure; pages scale it.
pub(super) const WIDTH: f64 = 720.0;

/// About how wide a text is at 12 px; SVG cannot be asked before it is shown.
pub(super) fn text_width(text: &str) -> f64 {
    let width = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ':' | ' ' | '|' | '(' | ')' | '[' | ']' => 4.0,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 10.5,
        'A'..='Z' => 8.3,
        c if c.is_ascii() => 7.0,
        _ => 9.0,
    };
    text.chars().map(width).sum()
}

/// An SVG being written, with the plot area inside it.
pub(super) struct Frame {
    body: String,
    pub height: f64,
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    pub x: (f64, f64),
    pub y: (f64, f64),
    whole_x: bool,
    y_marks: usize,
}

impl Frame {
    /// Title and legend at the top; `left` is the room for what stands left of the plot, `plot_height` that of the plot.
    pub fn new(figure: &Figure, left: f64, plot_height: f64, legend: &[(String, usize, bool)]) -> Self {
        let (x, y) = figure.ranges();
        let (body, right, whole_x) = (String::new(), WIDTH - 24.0, figure.whole_x());
        let y_marks = y_marks(figure);
        let mut frame = Self { body, height: 0.0, left, right, top: 14.0, bottom: 0.0, x, y, whole_x, y_marks };
        if !figure.title.is_empty() {
            let title = super::shorten(&figure.title, 88);
            frame.raw(&format!(
                "<text x=\"{:.1}\" y=\"24\" font-size=\"15\" font-weight=\"600\" text-anchor=\"middle\">{}</text>",
                WIDTH / 2.0,
                escape(&title)
            ));
            frame.top += 24.0;
        }
        frame.legend(legend);
        frame.bottom = frame.top + plot_height;
        frame.height = frame.bottom + 32.0 + if figure.xlabel.is_empty() { 0.0 } else { 20.0 };
        frame
    }

    fn legend(&mut self, entries: &[(String, usize, bool)]) {
        if entries.is_empty() {
            return;
        }
        let mut x = self.left;
        self.top += 8.0;
        for (name, i, line) in entries {
            let width = 30.0 + text_width(name) + 16.0;
            if x + width > self.right && x > self.left {
                x = self.left;
                self.top += 18.0;
            }
            let (colour, y) = (PALETTE[i % PALETTE.len()], self.top);
            if *line {
                let dash = dash(*i);
                self.raw(&format!(
                    "<line x1=\"{x:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"2.5\"{dash}/>",
                    x + 24.0
                ));
            } else {
                let y = y - 6.0;
                self.raw(&format!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"14\" height=\"12\" rx=\"2\" fill=\"{colour}\"/>"));
            }
            self.text(x + if *line { 30.0 } else { 20.0 }, self.top + 4.0, "start", name);
            x += width;
        }
        self.top += 16.0;
    }

    /// Adds SVG.
    pub fn raw(&mut self, svg: &str) {
        self.body.push_str(svg);
        self.body.push('\n');
    }

    /// Adds a line of text.
    pub fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.raw(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text)));
    }

    /// Adds a thin grey line.
    pub fn rule(&mut self, from: (f64, f64), to: (f64, f64), opacity: f64) {
        let (x1, y1, x2, y2) = (from.0, from.1, to.0, to.1);
        self.raw(&format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{GREY}\" stroke-opacity=\"{opacity}\"/>"
        ));
    }

    /// Where a value is drawn.
    pub fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let (across, up) = (share(x, self.x), share(y, self.y));
        (self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top))
    }

    /// Marks and name of the horizontal axis.
    pub fn x_axis(&mut self, label: &str, grid: bool) {
        let mut free = f64::NEG_INFINITY;
        for (value, text) in whole_ticks(self.x.0, self.x.1, 7, self.whole_x) {
            let x = self.place(value, self.y.0).0;
            if grid {
                self.rule((x, self.top), (x, self.bottom), 0.2);
            } else {
                self.rule((x, self.bottom), (x, self.bottom + 5.0), 0.8);
            }
            let half = text_width(&text) / 2.0;
            if x - half > free {
                self.text(x, self.bottom + 19.0, "middle", &text);
                free = x + half + 6.0;
            }
        }
        if !label.is_empty() {
            self.text((self.left + self.right) / 2.0, self.bottom + 40.0, "middle", label);
        }
    }

    /// Marks, grid and name of the vertical axis.
    pub fn y_axis(&mut self, label: &str) {
        for (value, text) in ticks(self.y.0, self.y.1, self.y_marks) {
            let y = self.place(self.x.0, value).1;
            self.rule((self.left, y), (self.right, y), 0.2);
            self.text(self.left - 8.0, y + 4.0, "end", &text);
        }
        self.rule((self.left, self.bottom), (self.right, self.bottom), 0.8);
        if !label.is_empty() {
            let middle = (self.top + self.bottom) / 2.0;
            self.raw(&format!(
                "<text x=\"16\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {middle:.1})\">{}</text>",
                escape(label)
            ));
        }
    }

    /// The document.
    pub fn finish(self, figure: &Figure) -> String {
        document(&figure.title, self.height, &self.body)
    }
}

/// Documents one under the other, as one.
pub(super) fn stacked(title: &str, documents: &[String]) -> String {
    let height_of = |document: &String| -> f64 {
        let end = document.split_once(&format!("viewBox=\"0 0 {WIDTH} ")).and_then(|(_, rest)| rest.split_once('"'));
        end.and_then(|(height, _)| height.parse().ok()).unwrap_or(0.0)
    };
    let mut y = 0.0;
    let mut body = String::new();
    for document in documents {
        // Inside another document the style of the page's one would collapse it.
        let inner = document.replacen(" style=\"max-width:100%;height:auto\"", &format!(" y=\"{y:.0}\""), 1);
        body.push_str(&inner);
        body.push('\n');
        y += height_of(document);
    }
    document(title, y, &body)
}

fn document(title: &str, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         style=\"max-width:100%;height:auto\" role=\"img\" aria-label=\"{name}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\" font-size=\"12\" fill=\"{GREY}\">\n{body}</svg>",
        name = escape(if title.is_empty() { "figure" } else { title }),
    )
}

/// About how many marks the vertical axis has.
fn y_marks(figure: &Figure) -> usize {
    if figure.low { 2 } else { 6 }
}

/// Room for the texts and the name of the vertical axis.
pub(super) fn left_margin(figure: &Figure) -> f64 {
    let (_, y) = figure.ranges();
    let widest = ticks(y.0, y.1, y_marks(figure)).iter().map(|(_, text)| text_width(text)).fold(0.0, f64::max);
    figure.margin.1.max(widest + 18.0 + if figure.ylabel.is_empty() { 0.0 } else { 24.0 })
}

/// The dash attribute of line `i`.
pub(super) fn dash(i: usize) -> String {
    match DASHES[i % DASHES.len()] {
        "" => String::new(),
        pattern => format!(" stroke-dasharray=\"{pattern}\""),
    }
}
