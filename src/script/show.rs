//! Figures, tables and pages: values that the front shows in its own way, and that `save` writes to a file.

use super::context::{context, print};
use super::convert::{to_number, to_numbers};
use super::display;
use super::error::{IntoScript, ScriptResult};
use super::options::{OptionMap, options as parse};
use super::result::blocks;
use super::show_values::{FigureOptions, TableOptions, bars_of, history_of, learning_rate_of, points_of, report_of, table_of};
use super::tensor::TensorValue;
use super::tensor_data::{kind, list};
use crate::error::Error;
use crate::files::write_text;
use crate::script::registry::Registry;
use crate::show::{Figure, Plot, Series, Table, terminal_width};
use rhai::plugin::*;
use rhai::{Array, Map};
use std::path::Path;

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<FigureOptions>(&["plot", "scatter"], &[])
        .options::<FigureOptions>(&["bars"], &[("series", "array")])
        .options::<FigureOptions>(&["history"], &[("value", "string = \"loss\"")])
        .options::<TableOptions>(&["table"], &[]);
    engine.register_type_with_name::<Figure>("Figure").register_type_with_name::<Table>("Table");
    display::register_with_html::<Figure>(|figure| figure.text(terminal_width(), false), Figure::json, Figure::html);
    display::register_with_html::<Table>(|table| table.text(terminal_width()), Table::json, Table::html);
    engine.register_global_module(exported_module!(show_functions).into());
}

/// A figure with these options.
fn figure(function: &str, plot: Plot, given: Map) -> ScriptResult<Figure> {
    let given: FigureOptions = parse(function, given)?;
    Ok(given.apply(Figure::new(plot)))
}

/// An array of numbers, or of `[x, y]` pairs, as a line.
fn series(name: &str, value: &Dynamic) -> ScriptResult<Series> {
    let wrong = || format!("plot: {name} must be an array of numbers or of [x, y] pairs");
    let value = &numbers_of(value)?;
    let Some(items) = value.read_lock::<Array>() else {
        return Err(format!("{}, but it is of type {}", wrong(), kind(value)).into());
    };
    if items.first().is_none_or(|item| !item.is_array()) {
        return Ok(Series::of_values(name, to_numbers(&items, &format!("plot: {name}"))?));
    }
    let mut line = Series { name: name.to_string(), x: vec![], y: vec![] };
    for (i, item) in items.iter().enumerate() {
        let pair = item.read_lock::<Array>().map(|pair| pair.iter().map(to_number).collect::<Vec<_>>());
        match pair.as_deref() {
            Some([Some(x), Some(y)]) => {
                line.x.push(*x);
                line.y.push(*y);
            }
            _ => return Err(format!("{}, but item {i} is neither", wrong()).into()),
        }
    }
    Ok(line)
}

/// A tensor, or an array of tensors such as losses that were gathered, as the numbers in it; other values as they are.
fn numbers_of(value: &Dynamic) -> ScriptResult<Dynamic> {
    if let Some(tensor) = value.read_lock::<TensorValue>() {
        return list(&tensor.value()).script();
    }
    match value.read_lock::<Array>() {
        Some(items) if items.iter().any(|item| item.is::<TensorValue>()) => {
            Ok(items.iter().map(numbers_of).collect::<ScriptResult<Array>>()?.into())
        }
        _ => Ok(value.clone()),
    }
}

/// The lines of `plot`'s first argument.
fn all_series(value: &Dynamic) -> ScriptResult<Vec<Series>> {
    match value.read_lock::<Map>() {
        Some(map) => map.iter().map(|(name, values)| series(name, values)).collect(),
        None => Ok(vec![Series { name: String::new(), ..series("the argument", value)? }]),
    }
}

/// Writes a shown value; the suffix decides which face.
fn save(path: &Path, faces: &[(&str, &dyn Fn() -> String)]) -> ScriptResult<()> {
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default().to_ascii_lowercase();
    match faces.iter().find(|(name, _)| *name == suffix) {
        Some((_, face)) => write_text(path, &face()).script(),
        None => {
            let known: Vec<String> = faces.iter().map(|(name, _)| format!(".{name}")).collect();
            let message = format!("cannot save as {}: the suffix must be one of {}", path.display(), known.join(", "));
            Err(Error::Argument(message)).script()
        }
    }
}

fn page(title: &str, body: String) -> String {
    let title = crate::show::escape(if title.is_empty() { "ftrepl" } else { title });
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body>\n{body}\n</body></html>\n"
    )
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod show_functions {
    /// A line plot: an array of numbers, an array of `[x, y]` pairs, or a map of names to such arrays for several lines. Tensors count as
    /// their numbers.
    /// Options: `title`, `xlabel`, `ylabel` (name the unit), `ylim` ([low, high]).
    ///
    /// ```rhai
    /// let p = plot(#{ naive: [2.1, 1.4, 0.9], lora: [2.1, 1.6, 1.3] }, #{ title: "Loss", xlabel: "step", ylabel: "loss [nats]" });
    /// p.svg().starts_with("<svg") // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn plot(values: Dynamic, options: Map) -> ScriptResult<Figure> {
        figure("plot", Plot::Lines(all_series(&values)?), options)
    }

    #[rhai_fn(name = "plot", return_raw)]
    pub fn plot_default(values: Dynamic) -> ScriptResult<Figure> {
        plot(values, Map::new())
    }

    /// Shows a value at once, as the last value of an input is shown: a table, a figure, a training run with its loss curve. A
    /// notebook shows figures as pictures, in the middle of a cell as well.
    ///
    /// ```rhai
    /// display([#{ method: "LoRA", score: 0.75 }, #{ method: "full", score: 0.5 }]);
    /// ```
    #[rhai_fn(return_raw)]
    pub fn display(call: NativeCallContext, value: Dynamic) -> ScriptResult<()> {
        if let Some(canvas) = &context(&call)?.canvas {
            canvas.show(&value);
            return Ok(());
        }
        let width = terminal_width();
        let text = match blocks(&value) {
            Some(blocks) => blocks.iter().map(|block| block.text(width, false)).collect::<Vec<_>>().join("\n"),
            None => super::display::text(&value),
        };
        print(&call, text)
    }

    /// Takes away what the running cell of a notebook has shown so far; elsewhere nothing. With `wait` only when the next thing is
    /// shown, so that what is redrawn does not flicker.
    ///
    /// ```rhai
    /// for step in 1..3 { clear_output(true); display(`step ${step}`); }
    /// ```
    #[rhai_fn(return_raw)]
    pub fn clear_output(call: NativeCallContext, wait: bool) -> ScriptResult<()> {
        if let Some(canvas) = &context(&call)?.canvas {
            canvas.clear(wait);
        }
        Ok(())
    }

    #[rhai_fn(name = "clear_output", return_raw)]
    pub fn clear_output_now(call: NativeCallContext) -> ScriptResult<()> {
        clear_output(call, false)
    }

    /// Labelled points: an array of maps with `label`, `x`, `y` and, for error bars, `x_low`, `x_high`, `y_low`, `y_high`.
    /// Options: `title`, `xlabel`, `ylabel`, `ylim`.
    ///
    /// ```rhai
    /// let p = scatter([#{ label: "LoRA", x: 0.02, y: 0.71 }, #{ label: "full", x: 0.15, y: 0.83, y_low: 0.75, y_high: 0.88 }],
    ///     #{ xlabel: "forgotten", ylabel: "learned" });
    /// p.svg().contains("LoRA") // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn scatter(points: Array, options: Map) -> ScriptResult<Figure> {
        figure("scatter", Plot::Scatter(points_of(&points)?), options)
    }

    #[rhai_fn(name = "scatter", return_raw)]
    pub fn scatter_default(points: Array) -> ScriptResult<Figure> {
        scatter(points, Map::new())
    }

    /// Bars: a map of names to numbers; a map of names to maps (`#{ math: #{ before: 0.8, after: 0.5 } }`) for several bars
    /// each; or an array of maps with `label`, `value` and, for whiskers, `low` and `high`, or with `label` and one number a
    /// bar. Options: `title`, `xlabel`, `ylabel`, `ylim`, `series` (which bars, in this order).
    ///
    /// ```rhai
    /// let p = bars(#{ math: #{ before: 0.8, after: 0.5 }, history: #{ before: 0.9, after: 0.85 } }, #{ series: ["before", "after"] });
    /// p.svg().contains("history") // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn bars(values: Dynamic, options: Map) -> ScriptResult<Figure> {
        let mut given = OptionMap::new("bars", options);
        let wanted = given.take_any("series");
        Ok(given.parse::<FigureOptions>()?.apply(Figure::new(bars_of(&values, wanted.as_ref())?)))
    }

    #[rhai_fn(name = "bars", return_raw)]
    pub fn bars_default(values: Dynamic) -> ScriptResult<Figure> {
        bars(values, Map::new())
    }

    /// A table of an array of maps, a Dataset, or a map of names to maps. Options: `columns` (which, in this order), `title`,
    /// `max_rows` (for a Dataset 20).
    ///
    /// ```rhai
    /// let t = table([#{ method: "full", score: 0.5 }, #{ method: "LoRA", score: 0.75 }], #{ columns: ["method", "score"] });
    /// t.markdown() // => "| method | score |\n| --- | ---: |\n| full | 0.50 |\n| LoRA | 0.75 |\n"
    /// ```
    #[rhai_fn(return_raw)]
    pub fn table(rows: Dynamic, options: Map) -> ScriptResult<Table> {
        let given: TableOptions = parse("table", options)?;
        table_of(&rows, given)
    }

    #[rhai_fn(name = "table", return_raw)]
    pub fn table_default(rows: Dynamic) -> ScriptResult<Table> {
        table(rows, Map::new())
    }

    /// Plots a training run: the loss at every logged step of what `trainer.train()` returned, with `eval_loss` if there is one, and
    /// under it the learning rate, if it changed.
    ///
    /// ```rhai
    /// let result = #{ log_history: [#{ step: 1, loss: 2.5, learning_rate: 0.001 }, #{ step: 2, loss: 1.5, learning_rate: 0.0 }] };
    /// history(result).svg().contains("loss") // => true
    /// ```
    #[rhai_fn(name = "history", return_raw)]
    pub fn history_default(result: Map) -> ScriptResult<Figure> {
        history(result, Map::new())
    }

    /// As `history(result)`, with `value` for what is shown ("loss", "learning_rate", "grad_norm", ...) and plot's options.
    ///
    /// ```rhai
    /// let result = #{ log_history: [#{ step: 1, loss: 2.5, learning_rate: 0.001 }, #{ step: 2, loss: 1.5, learning_rate: 0.0 }] };
    /// history(result, #{ value: "learning_rate" }).svg().contains("learning_rate") // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn history(result: Map, options: Map) -> ScriptResult<Figure> {
        let mut given = OptionMap::new("history", options);
        let wanted: Option<String> = given.take_optional("value", "the name of a logged value")?;
        let lines = history_of(&result, wanted.as_deref())?;
        let mut shown = given.parse::<FigureOptions>()?.apply(Figure::new(Plot::Lines(lines)));
        if shown.xlabel.is_empty() {
            shown.xlabel = "optimiser step".into();
        }
        let rate = if wanted.is_none() { learning_rate_of(&result) } else { None };
        if shown.ylabel.is_empty() {
            shown.ylabel = wanted.unwrap_or_else(|| "loss [nats per token]".into());
        }
        Ok(match rate {
            Some(rate) => shown.above(rate),
            None => shown,
        })
    }

    /// Writes a page: one HTML file with everything inside. `results` is any map or array, or a map with `title`, `text`,
    /// `facts` (names and values to be seen first) and `sections`: an array of maps with `heading`, `text`, `code`, `table`,
    /// `figure` or `content` (anything, or an array of figures, tables and texts). Other keys become facts and sections.
    ///
    /// ```rhai
    /// report(#{ title: "Forgetting", facts: #{ drop: 0.08 }, sections: [#{ heading: "Loss", figure: plot([3, 2, 1]) }] }, "report.html");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn report(call: NativeCallContext, results: Dynamic, path: &str) -> ScriptResult<()> {
        let other = ["pdf", "md", "txt", "json", "svg", "png", "csv", "docx", "ipynb"];
        let suffix = Path::new(path).extension().and_then(|suffix| suffix.to_str()).unwrap_or_default().to_ascii_lowercase();
        if other.contains(&suffix.as_str()) {
            return Err(format!("report: the page is HTML, so give it a name that ends in .html, not {path}").into());
        }
        write_text(&context(&call)?.output_path(path), &report_of(&results)?.html()).script()
    }

    /// The figure as SVG text.
    ///
    /// ```rhai
    /// plot([1, 2]).svg().ends_with("</svg>") // => true
    /// ```
    #[rhai_fn(global, pure)]
    pub fn svg(figure: &mut Figure) -> String {
        figure.svg()
    }

    /// The figure or table as HTML.
    ///
    /// ```rhai
    /// table([#{ a: 1 }]).html().contains("<table>") // => true
    /// ```
    #[rhai_fn(global, name = "html", pure)]
    pub fn table_html(table: &mut Table) -> String {
        table.html()
    }

    #[rhai_fn(global, name = "html", pure)]
    pub fn figure_html(figure: &mut Figure) -> String {
        figure.html()
    }

    /// The table as Markdown.
    ///
    /// ```rhai
    /// table([#{ a: 1 }]).markdown() // => "| a |\n| ---: |\n| 1 |\n"
    /// ```
    #[rhai_fn(global, pure)]
    pub fn markdown(table: &mut Table) -> String {
        table.markdown()
    }

    /// Writes a figure (.svg, .html, .txt, .json) or a table (.html, .md, .txt, .json); a relative path is below `--out`.
    ///
    /// ```rhai
    /// plot([3, 2, 1]).save("loss.svg");
    /// ```
    #[rhai_fn(global, name = "save", return_raw, pure)]
    pub fn save_figure(call: NativeCallContext, figure: &mut Figure, path: &str) -> ScriptResult<()> {
        super::save(
            &context(&call)?.output_path(path),
            &[
                ("svg", &|| figure.svg()),
                ("html", &|| page(&figure.title, figure.html())),
                ("txt", &|| figure.text(100, false) + "\n"),
                ("json", &|| pretty(&figure.json())),
            ],
        )
    }

    #[rhai_fn(global, name = "save", return_raw, pure)]
    pub fn save_table(call: NativeCallContext, table: &mut Table, path: &str) -> ScriptResult<()> {
        super::save(
            &context(&call)?.output_path(path),
            &[
                ("html", &|| page(&table.title, table.html())),
                ("md", &|| table.markdown()),
                ("txt", &|| table.text(120) + "\n"),
                ("json", &|| pretty(&table.json())),
            ],
        )
    }
}
