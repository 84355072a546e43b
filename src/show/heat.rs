//! A field of cells whose colour tells a value: the change of the weights by layer, the Fisher information.

use super::figure::Figure;
use super::frame::{Frame, GREY, WIDTH, text_width};
use super::number::short;
use super::{escape, shorten};

/// Values by row and column; what is not finite is left empty.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Heat {
    /// Names of the rows: "self_attn.q_proj".
    pub rows: Vec<String>,
    /// Names of the columns: layers.
    pub columns: Vec<String>,
    /// One array a row, one value a column.
    pub values: Vec<Vec<f64>>,
    /// Colours by order of magnitude; what is not above 0 is left empty.
    pub logarithmic: bool,
}

/// Cividis (Nuñez, Anderton, Renslow, PLoS ONE 13, 2018), from low to high: seen alike with all kinds of colour vision. Its dark end
/// is lighter here, so that it stands out from a dark page.
const RAMP: [(f64, f64, f64); 6] = [
    (32.0, 62.0, 118.0),
    (69.0, 87.0, 112.0),
    (108.0, 113.0, 118.0),
    (149.0, 141.0, 117.0),
    (198.0, 175.0, 98.0),
    (254.0, 232.0, 80.0),
];
/// On a terminal without colours.
const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];
/// Longest name of a row.
const LONGEST_NAME: usize = 28;
/// Cells of the scale.
const STEPS: usize = 48;

impl Heat {
    fn scaled(&self, value: f64) -> f64 {
        match (self.logarithmic, value > 0.0) {
            (false, _) => value,
            (true, true) => value.log10(),
            (true, false) => f64::NAN,
        }
    }

    /// Lowest and highest value, in the scale's terms.
    fn range(&self) -> (f64, f64) {
        let finite = self.values.iter().flatten().map(|value| self.scaled(*value)).filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        match (low <= high, low < high) {
            (false, _) => (0.0, 1.0),
            // All alike: one colour, from the middle of the scale.
            (_, false) => (low - 0.5, high + 0.5),
            (_, true) => (low, high),
        }
    }

    /// 0 for the lowest, 1 for the highest value.
    fn share(&self, value: f64) -> Option<f64> {
        let (low, high) = self.range();
        let scaled = self.scaled(value);
        scaled.is_finite().then(|| ((scaled - low) / (high - low)).clamp(0.0, 1.0))
    }

    /// The value at a share of the scale.
    fn at(&self, share: f64) -> f64 {
        let (low, high) = self.range();
        let value = low + share * (high - low);
        if self.logarithmic { 10f64.powf(value) } else { value }
    }
}

fn colour(share: f64) -> (u8, u8, u8) {
    let place = share * (RAMP.len() - 1) as f64;
    let lower = (place.floor() as usize).min(RAMP.len() - 2);
    let (a, b, t) = (RAMP[lower], RAMP[lower + 1], place - lower as f64);
    let mix = |a: f64, b: f64| (a + (b - a) * t).round() as u8;
    (mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

fn hex(share: f64) -> String {
    let (r, g, b) = colour(share);
    format!("#{r:02x}{g:02x}{b:02x}")
}

pub(super) fn svg(figure: &Figure, heat: &Heat) -> String {
    let names: Vec<String> = heat.rows.iter().map(|name| shorten(name, LONGEST_NAME)).collect();
    let widest = names.iter().map(|name| text_width(name)).fold(0.0, f64::max);
    let left = widest + 20.0;
    let height = (heat.rows.len() as f64 * 24.0).clamp(24.0, 640.0);
    let mut frame = Frame::new(figure, left, height, &[]);
    // Marks of the scale need room under the names of the columns.
    frame.height += 36.0;
    let cell = ((frame.right - frame.left) / heat.columns.len().max(1) as f64, height / heat.rows.len().max(1) as f64);
    for (i, (name, values)) in names.iter().zip(&heat.values).enumerate() {
        let y = frame.top + i as f64 * cell.1;
        frame.text(frame.left - 8.0, y + cell.1 / 2.0 + 4.0, "end", name);
        for (j, value) in values.iter().enumerate() {
            let (x, column) = (frame.left + j as f64 * cell.0, heat.columns.get(j).map_or("", String::as_str));
            let (fill, opacity) = match heat.share(*value) {
                Some(share) => (hex(share), 1.0),
                None => (GREY.to_string(), 0.12),
            };
            let told = escape(&format!("{} {column}: {}", heat.rows[i], short(*value)));
            frame.raw(&format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\" fill-opacity=\"{opacity}\"><title>{told}</title></rect>",
                (cell.0 - 1.0).max(0.5),
                (cell.1 - 1.0).max(0.5)
            ));
        }
    }
    let mut free = f64::NEG_INFINITY;
    for (j, name) in heat.columns.iter().enumerate() {
        let (x, half) = (frame.left + (j as f64 + 0.5) * cell.0, text_width(name) / 2.0);
        if x - half > free {
            frame.text(x, frame.bottom + 17.0, "middle", name);
            free = x + half + 6.0;
        }
    }
    let mut y = frame.bottom + 24.0;
    if !figure.xlabel.is_empty() {
        frame.text((frame.left + frame.right) / 2.0, frame.bottom + 36.0, "middle", &figure.xlabel);
        y += 20.0;
    }
    scale(&mut frame, heat, &figure.ylabel, y);
    frame.finish(figure)
}

/// The colours with the values that they stand for.
fn scale(frame: &mut Frame, heat: &Heat, label: &str, y: f64) {
    let (from, to) = (frame.left, frame.right.min(frame.left + 300.0));
    let step = (to - from) / STEPS as f64;
    for i in 0..STEPS {
        let x = from + i as f64 * step;
        let fill = hex((i as f64 + 0.5) / STEPS as f64);
        frame.raw(&format!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"10\" fill=\"{fill}\"/>", step + 0.3));
    }
    for (share, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
        frame.text(from + share * (to - from), y + 24.0, anchor, &short(heat.at(share)));
    }
    if !label.is_empty() {
        let room = WIDTH - to - 16.0;
        frame.text(to + 12.0, y + 9.0, "start", &shorten(label, (room / 6.6) as usize));
    }
}

pub(super) fn text(figure: &Figure, heat: &Heat, width: usize, coloured: bool) -> String {
    let names: Vec<String> = heat.rows.iter().map(|name| shorten(name, (width / 3).clamp(6, LONGEST_NAME))).collect();
    let name_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let room = width.saturating_sub(name_width + 1).max(1);
    // Two columns of characters make about a square; where they do not fit, every column gets one, and the rest is left out.
    let each = if heat.columns.len() * 2 <= room { 2 } else { 1 };
    let shown = heat.columns.len().min(room / each);
    let cell = |share: Option<f64>| match (share, coloured) {
        (None, _) => " ".repeat(each),
        (Some(share), true) => {
            let (r, g, b) = colour(share);
            format!("\x1b[38;2;{r};{g};{b}m{}\x1b[0m", "█".repeat(each))
        }
        (Some(share), false) => {
            let shade = SHADES[((share * SHADES.len() as f64) as usize).min(SHADES.len() - 1)];
            shade.to_string().repeat(each)
        }
    };
    let mut out: Vec<String> = Vec::new();
    out.extend((!figure.title.is_empty()).then(|| figure.title.clone()));
    for (name, values) in names.iter().zip(&heat.values) {
        let cells: String = values.iter().take(shown).map(|value| cell(heat.share(*value))).collect();
        out.push(format!("{name:<name_width$} {cells}").trim_end().to_string());
    }
    let mut under = " ".repeat(name_width + 1);
    for (j, name) in heat.columns.iter().take(shown).enumerate() {
        let at = name_width + 1 + j * each;
        if at >= under.chars().count() && at + name.chars().count() <= width {
            under = format!("{under:<at$}{name} ");
        }
    }
    out.push(under.trim_end().to_string());
    let pad = " ".repeat(name_width + 1);
    out.extend((!figure.xlabel.is_empty()).then(|| format!("{pad}{}", figure.xlabel)));
    let steps = [0.0, 0.25, 0.5, 0.75, 1.0];
    let marks: Vec<String> = steps.iter().map(|share| format!("{} {}", cell(Some(*share)), short(heat.at(*share)))).collect();
    let label = if figure.ylabel.is_empty() { String::new() } else { format!("  {}", figure.ylabel) };
    let legend = format!("{}{label}", marks.join("  "));
    out.push(if coloured || legend.chars().count() <= width {
        legend
    } else {
        format!("{}\n{}", marks.join(" "), figure.ylabel)
    });
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::Plot;

    fn figure(logarithmic: bool) -> Figure {
        let rows = vec!["q_proj".to_string(), "k_proj".to_string()];
        let values = vec![vec![0.001, 0.1], vec![f64::NAN, 0.01]];
        let heat = Heat { rows, columns: vec!["0".into(), "1".into()], values, logarithmic };
        Figure { xlabel: "layer".into(), ylabel: "change".into(), ..Figure::new(Plot::Heat(heat)) }
    }

    #[test]
    fn cells_are_shaded_by_value() {
        assert_eq!(
            figure(true).text(80, false),
            "q_proj ··██\nk_proj   ▒▒\n       0 1\n       layer\n·· 0.001  ░░ 0.003162  ▒▒ 0.01  ▓▓ 0.03162  ██ 0.1  change"
        );
        assert!(figure(false).text(80, false).starts_with("q_proj ··██\nk_proj   ··"));
        assert!(figure(true).text(20, false).lines().all(|line| line.chars().count() <= 60));
    }

    #[test]
    fn the_drawing_has_a_cell_a_value_and_a_scale() {
        let svg = figure(true).svg();
        assert_eq!(svg.matches("<title>").count(), 4);
        assert_eq!(svg.matches("<rect").count(), 4 + STEPS);
        assert!(svg.contains("q_proj 1: 0.1") && svg.contains(">layer<") && svg.contains(">change<"));
        assert!(svg.contains(&hex(1.0)) && svg.contains("fill-opacity=\"0.12\""));
        // Nothing to show is no division by zero.
        let empty = Heat { rows: vec![], columns: vec![], values: vec![], logarithmic: false };
        assert!(!Figure::new(Plot::Heat(empty)).svg().contains("NaN"));
    }
}
