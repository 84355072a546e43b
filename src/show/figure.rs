//! A figure: lines, labelled points with intervals, or bars; as terminal text, SVG or JSON.

use super::heat::{self, Heat};
use super::{bars, frame, labels, number, svg, text};
use serde::Serialize;

/// A plot with its title and axis names. Axis names carry the unit: "loss [nats per token]".
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Shown above; may be empty.
    pub title: String,
    /// Name and unit of the horizontal axis; may be empty.
    pub xlabel: String,
    /// Name and unit of the vertical axis; may be empty.
    pub ylabel: String,
    /// The shown range of values; by default that of the data.
    pub ylim: Option<(f64, f64)>,
    /// A second figure with the same horizontal axis, shown low under this one: the learning rate under the loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below: Option<Box<Figure>>,
    /// Shown at a third of the height.
    #[serde(skip)]
    pub low: bool,
    /// Least room left of the plot, in characters and in pixels: figures one under the other begin at the same place.
    #[serde(skip)]
    pub margin: (usize, f64),
    /// The shown range of horizontal positions, by default that of the data: figures one under the other have the same.
    #[serde(skip)]
    pub xlim: Option<(f64, f64)>,
    /// What is shown.
    #[serde(flatten)]
    pub plot: Plot,
}

/// What a figure shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", content = "data", rename_all = "lowercase")]
pub enum Plot {
    /// Lines over a common horizontal axis.
    Lines(Vec<Series>),
    /// Points with labels.
    Scatter(Vec<Point>),
    /// Horizontal bars, one group a category, one bar a series.
    Bars {
        /// Names of the groups.
        categories: Vec<String>,
        /// The bars.
        series: Vec<BarSeries>,
    },
    /// A field of coloured cells.
    Heat(Heat),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// For the legend; may be empty if there is one line.
    pub name: String,
    /// Horizontal positions.
    pub x: Vec<f64>,
    /// Values; what is not finite leaves a gap.
    pub y: Vec<f64>,
}

impl Series {
    /// A line over 0, 1, 2, ...
    pub fn of_values(name: impl Into<String>, y: Vec<f64>) -> Self {
        Self { name: name.into(), x: (0..y.len()).map(|i| i as f64).collect(), y }
    }
}

/// One labelled point; limits draw an error bar.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Point {
    /// Shown beside the point.
    pub label: String,
    /// Horizontal position.
    pub x: f64,
    /// Vertical position.
    pub y: f64,
    /// Interval of `x`.
    pub x_interval: Option<(f64, f64)>,
    /// Interval of `y`.
    pub y_interval: Option<(f64, f64)>,
}

/// The bars of one colour, one a category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BarSeries {
    /// For the legend: "before", "after".
    pub name: String,
    /// One a category; what is not finite leaves a gap.
    pub values: Vec<f64>,
    /// One a category: the interval that a whisker shows.
    pub intervals: Vec<Option<(f64, f64)>>,
}

/// The least and the greatest value, where there are any.
type Range = Option<(f64, f64)>;

impl Figure {
    /// A figure without title and axis names.
    pub fn new(plot: Plot) -> Self {
        let (title, xlabel, ylabel) = Default::default();
        Self { title, xlabel, ylabel, ylim: None, below: None, low: false, margin: (0, 0.0), xlim: None, plot }
    }

    /// With another figure under it, at a third of the height.
    #[must_use]
    pub fn above(self, below: Figure) -> Self {
        Self { below: Some(Box::new(Figure { low: true, ..below })), ..self }
    }

    /// For a terminal of `width` columns; with `colour` the series are also told apart by ANSI colours.
    pub fn text(&self, width: usize, colour: bool) -> String {
        if let Some((above, below)) = self.aligned() {
            return format!("{}\n{}", above.text(width, colour), below.text(width, colour));
        }
        match &self.plot {
            Plot::Lines(series) => text::lines(self, series, width, colour),
            Plot::Scatter(points) => text::scatter(self, points, width),
            Plot::Bars { categories, series } => bars::text(self, categories, series, width),
            Plot::Heat(heat) => heat::text(self, heat, width, colour),
        }
    }

    /// This figure and the one below, with the same room at their left and the same horizontal axis.
    fn aligned(&self) -> Option<(Self, Self)> {
        let below = self.below.as_deref()?;
        let room = |figure: &Self| (text::margin(figure), frame::left_margin(figure));
        let (one, other) = (room(self), room(below));
        let margin = (one.0.max(other.0), one.1.max(other.1));
        let xlim = match (self.data_ranges().0, below.data_ranges().0) {
            (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
            (one, other) => one.or(other),
        };
        Some((Self { below: None, margin, xlim, ..self.clone() }, Self { margin, xlim, ..below.clone() }))
    }

    /// A whole SVG document, readable on light and dark ground, without outside resources.
    pub fn svg(&self) -> String {
        if let Some((above, below)) = self.aligned() {
            return frame::stacked(&self.title, &[above.svg(), below.svg()]);
        }
        match &self.plot {
            Plot::Lines(series) => svg::lines(self, series),
            Plot::Scatter(points) => labels::scatter(self, points),
            Plot::Bars { categories, series } => bars::svg(self, categories, series),
            Plot::Heat(heat) => heat::svg(self, heat),
        }
    }

    /// An `<img>` that holds the SVG.
    pub fn image(&self) -> String {
        let mut encoded = String::new();
        for character in self.svg().chars() {
            match character {
                '%' => encoded.push_str("%25"),
                '#' => encoded.push_str("%23"),
                '<' => encoded.push_str("%3C"),
                '>' => encoded.push_str("%3E"),
                '"' => encoded.push_str("%22"),
                '&' => encoded.push_str("%26"),
                '\n' => encoded.push_str("%0A"),
                other => encoded.push(other),
            }
        }
        let alternative = super::escape(if self.title.is_empty() { "figure" } else { &self.title });
        format!("<img src=\"data:image/svg+xml,{encoded}\" alt=\"{alternative}\">\n")
    }

    /// The SVG in a `<figure>`.
    pub fn html(&self) -> String {
        format!("<figure>{}</figure>", self.svg())
    }

    /// Everything that is shown, as data.
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Whether every horizontal position is a whole number: steps, epochs, indices.
    pub(super) fn whole_x(&self) -> bool {
        match &self.plot {
            Plot::Lines(series) => series.iter().flat_map(|one| &one.x).all(|x| x.fract() == 0.0),
            _ => false,
        }
    }

    /// Ranges of the data with a little room; none where there is nothing to show.
    fn data_ranges(&self) -> (Range, Range) {
        let pad = |(low, high): (f64, f64), share: f64| {
            // Half the span is a number even where the span is beyond the largest one.
            let room = (0.5 * high - 0.5 * low) * (2.0 * share);
            ((low - room).max(f64::MIN), (high + room).min(f64::MAX))
        };
        let limits = |interval: Option<(f64, f64)>| interval.into_iter().flat_map(|(low, high)| [low, high]);
        match &self.plot {
            Plot::Lines(series) => (
                number::range(series.iter().flat_map(|s| s.x.iter().zip(&s.y)).filter(|(_, y)| y.is_finite()).map(|(x, _)| *x)),
                number::range(series.iter().flat_map(|s| s.y.iter().copied())).map(|range| pad(range, 0.05)),
            ),
            Plot::Scatter(points) => (
                number::range(points.iter().flat_map(|p| limits(p.x_interval).chain([p.x]))).map(|range| pad(range, 0.08)),
                number::range(points.iter().flat_map(|p| limits(p.y_interval).chain([p.y]))).map(|range| pad(range, 0.08)),
            ),
            Plot::Bars { series, .. } => {
                let ends =
                    series.iter().flat_map(|s| s.values.iter().copied().chain(s.intervals.iter().flat_map(|i| limits(*i))));
                (number::range(ends.chain([0.0])).map(|(low, high)| (low.min(0.0), high.max(0.0))), None)
            }
            Plot::Heat(_) => (None, None),
        }
    }

    /// Ranges of both axes; 0 to 1 where there is nothing to show.
    pub(super) fn ranges(&self) -> ((f64, f64), (f64, f64)) {
        let (x, y) = self.data_ranges();
        let x = self.xlim.or(x);
        let wanted = self.ylim.filter(|(low, high)| low < high);
        match self.plot {
            Plot::Bars { .. } => (wanted.or(x).unwrap_or((0.0, 1.0)), (0.0, 1.0)),
            _ => (x.unwrap_or((0.0, 1.0)), wanted.or(y).unwrap_or((0.0, 1.0))),
        }
    }
}
