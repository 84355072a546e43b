//! Figures, tables and pages: what they hold, what they refuse, and that files are complete.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ftrepl::script::display;
use ftrepl::session::Session;
use ftrepl::show::{Figure, Plot, Series, Table};
use serde_json::json;
use std::path::Path;

fn eval_in(folder: &Path, code: &str) -> String {
    let mut session = Session::builder().out(folder).device("cpu").output(|_| {}).build().unwrap();
    match session.run_script(code, "test") {
        Ok(value) => display::text(&value),
        Err(error) => error.to_string(),
    }
}

fn eval(code: &str) -> String {
    eval_in(tempfile::tempdir().unwrap().path(), code)
}

const SCATTER: &str = r#"scatter([
    #{label: "full fine-tuning", x: 0.152, y: 0.83, x_low: 0.09, x_high: 0.22, y_low: 0.77, y_high: 0.88},
    #{label: "full + 15 % replay", x: 0.031, y: 0.82, x_low: -0.01, x_high: 0.07, y_low: 0.76, y_high: 0.87},
    #{label: "EWC 5000", x: 0.048, y: 0.74, x_low: 0.01, x_high: 0.09, y_low: 0.67, y_high: 0.80},
    #{label: "LoRA r=16", x: 0.021, y: 0.79, x_low: -0.02, x_high: 0.06, y_low: 0.73, y_high: 0.84},
    #{label: "LoRA r=64", x: 0.026, y: 0.80, x_low: -0.01, x_high: 0.06, y_low: 0.74, y_high: 0.85},
    #{label: "LoRA r=4", x: 0.012, y: 0.71, x_low: -0.02, x_high: 0.04, y_low: 0.64, y_high: 0.77},
    #{label: "L2-SP", x: 0.029, y: 0.785},
    #{label: "base model", x: 0.0, y: 0.22}],
    #{title: "Learning against forgetting", xlabel: "general accuracy lost", ylabel: "medicine accuracy"})"#;
const BARS: &str = r#"bars([#{label: "geography", before: 0.9, after: 0.72, before_low: 0.8, before_high: 0.96, after_low: 0.6, after_high: 0.82},
    #{label: "simple arithmetic with two numbers and more", before: 0.61, after: 0.35}, #{label: "history", before: 0.75, after: 0.7}],
    #{title: "Accuracy by category", xlabel: "share right", ylim: [0, 1]})"#;
const LINES: &str = r#"let naive = []; let lora = []; let ewc = [];
    for i in 0..60 { let x = i.to_float(); naive.push(2.5 * exp(-x / 12.0) + 0.3 + 0.05 * sin(x)); lora.push(2.5 * exp(-x / 20.0) + 0.45); ewc.push(2.5 * exp(-x / 16.0) + 0.6); }
    plot(#{naive: naive, lora: lora, ewc: ewc}, #{title: "Training loss", xlabel: "optimiser step", ylabel: "loss [nats per token]"})"#;

#[test]
fn figures_have_every_face() {
    for (code, words) in [(SCATTER, "full + 15 % replay"), (BARS, "geography"), (LINES, "lora")] {
        let folder = tempfile::tempdir().unwrap();
        let last = code.rfind(if code == LINES { "plot(" } else { "" }).filter(|_| code == LINES).unwrap_or(0);
        let (start, figure) = code.split_at(last);
        let saves = ["svg", "html", "txt", "json"].map(|suffix| format!("f.save(\"f.{suffix}\");")).concat();
        let text = eval_in(folder.path(), &format!("{start} let f = {figure}; {saves} f"));
        assert!(text.contains(words), "{text}");
        let read = |suffix: &str| std::fs::read_to_string(folder.path().join(format!("f.{suffix}"))).unwrap();
        assert!(read("svg").starts_with("<svg") && read("svg").trim_end().ends_with("</svg>"));
        for face in ["svg", "html", "txt"] {
            assert!(read(face).contains(words), "{face}");
        }
        assert!(serde_json::from_str::<serde_json::Value>(&read("json")).unwrap()["kind"].is_string());
        assert!(
            !read("html").contains("http://")
                || read("html").matches("http").count() == read("html").matches("http://www.w3.org/2000/svg").count()
        );
        if let Ok(keep) = std::env::var("SHOW_KEEP") {
            std::fs::write(Path::new(&keep).join(format!("{}.svg", &words[..4])), read("svg")).unwrap();
            println!("{text}\n");
        }
    }
}

#[test]
fn hard_figures_do_not_break() {
    for code in [
        "plot([])",
        "plot([1])",
        "plot([5, 5, 5])",
        "plot([1.0, 0.0/0.0, 2.0, 1e300])",
        "plot(#{})",
        "plot([[0, 1], [10, 3.5]])",
        "scatter([])",
        "scatter([#{x: 1, y: 1}, #{x: 1, y: 1}, #{x: 1, y: 1, label: \"<&>\"}])",
        "bars(#{})",
        "bars(#{a: -1, b: 2.5, c: ()})",
        "bars(#{math: #{before: 1, after: 0}})",
        "table([])",
        "table(#{a: 1, b: \"x\"})",
    ] {
        let text = eval(&format!("let f = {code}; f.html(); f"));
        assert!(!text.contains("Function not found") && !text.contains("rror"), "{code}: {text}");
    }
    // Values between gaps have no line, and are shown all the same; tensors count as their numbers.
    let gaps = "let nan = 0.0 / 0.0; let v = []; for i in 0..40 { v.push(if i % 2 == 0 { i * 1.0 } else { nan }); }";
    assert_eq!(eval(&format!("{gaps} plot(v).svg()")).matches("<circle").count(), 20);
    let dots = eval(&format!("{gaps} plot(v)")).chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count();
    assert!(dots >= 15, "{dots}");
    assert_eq!(eval("plot(tensor([1.0, 2.0])).svg()"), eval("plot([1.0, 2.0]).svg()"));
    assert_eq!(eval("plot([tensor(1.0), tensor(2.0)]).svg()"), eval("plot([1.0, 2.0]).svg()"));
    let svg = eval("scatter([#{x: 1, y: 1, label: \"<&>\"}], #{title: \"a \\\"b\\\"\"}).svg()");
    assert!(svg.contains("&lt;&amp;&gt;") && svg.contains("&quot;b&quot;") && !svg.contains("NaN"));
    for code in ["plot([1e308, -1e308])", "plot([[-1e308, 0], [1e308, 1]])", "bars(#{a: 1e308, b: -1e308})"] {
        let svg = eval(&format!("{code}.svg()"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{code}: {svg}");
        let drawn = eval(code).chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c) || *c == '█').count();
        assert!(drawn > 20, "{code}: {drawn}");
    }
    for width in [1, 10, 20, 40, 300] {
        let figure = Figure::new(Plot::Lines(vec![Series::of_values("a", vec![1.0, 2.0, f64::NAN, 4.0])]));
        assert!(figure.text(width, true).lines().count() > 10);
        let mut table = Table::new(["first", "second", "third"]);
        table.push(vec![json!("word ".repeat(200)), json!(1), json!(0.5)]);
        assert!(table.text(width).contains("0.5"));
    }
}

#[test]
fn mistakes_are_explained() {
    for (code, words) in [
        ("plot(\"x\")", "array of numbers"),
        ("plot([1, \"a\"])", "item 1 must be a number"),
        ("plot([1], #{titel: \"x\"})", "titel"),
        ("plot([1], #{ylim: [2, 1]})", "low below high"),
        ("scatter([#{x: 1}])", "point 0 lacks y"),
        ("scatter([#{x: 1, y: 2, z: 3}])", "the key `z`"),
        ("plot([1, |x| x])", "item 1 must be a number, but it is of type Fn"),
        ("scatter([tensor(1.0)])", "of type Tensor"),
        ("bars(#{a: 0.5, b: \"0.7\"})", "but b is \"0.7\""),
        (
            "bars(#{a: #{before: 1, after: 2}}, #{series: [\"befor\"]})",
            "no bar is called \"befor\"; series can be: after, before",
        ),
        ("bars(3)", "bars takes"),
        ("table(3)", "table takes"),
        ("table([#{a: 1}], #{columns: [\"b\"]})", "the columns are: a"),
        ("table([1])", "row 0 must be a map"),
        ("plot([1]).save(\"x.png\")", "the suffix must be one of .svg, .html, .txt, .json"),
        ("history(#{})", "log_history"),
        ("history(#{log_history: [#{step: 1, loss: 2}]}, #{value: \"lr\"})", "it has: loss, step"),
        ("report(#{sections: 3}, \"r.html\")", "sections must be an array"),
        ("report(#{a: 1}, \"r.pdf\")", "the page is HTML"),
    ] {
        let got = eval(code);
        assert!(got.contains(words), "{code}: {got}");
    }
}

#[test]
fn tables() {
    let table = r#"table([#{method: "full", accuracy: 0.5, steps: 100}, #{method: "LoRA | r=16", accuracy: 0.8125, steps: 20}],
        #{columns: ["method", "accuracy", "steps"], title: "Results"})"#;
    let text = eval(table);
    assert!(text.starts_with("Results\n┌") && text.contains("0.5000 ┆   100 │"), "{text}");
    assert!(eval(&format!("{table}.markdown()")).contains("| LoRA \\| r=16 | 0.8125 | 20 |"));
    assert!(eval(&format!("{table}.html()")).contains("<caption>Results</caption>"));
    // A loss that is no number leaves its column one of numbers, and a token stays what it is.
    let odd = "table([#{token: \"<s>\", loss: 0.5}, #{token: \"a\\\\|b\", loss: 0.0 / 0.0}])";
    assert!(eval(odd).contains("┆  nan │"), "{}", eval(odd));
    let markdown = eval(&format!("{odd}.markdown()"));
    assert!(markdown.starts_with("| token | loss |\n| --- | ---: |\n| \\<s> | 0.5 |\n| a\\\\\\|b | nan |"), "{markdown}");
    // What a model wrote does not steer the terminal.
    let coloured = eval("table([#{a: \"\\x1b[31mred\\r\\tx\"}])");
    assert!(coloured.contains("[31mred  x") && !coloured.contains(['\x1b', '\r', '\t']), "{coloured:?}");
    assert_eq!(eval("table(#{}, #{title: \"Drops\"})"), "Drops\n(nothing to show)");
    let dataset = "table(load_dataset(\"general_qa\"), #{columns: [\"category\", \"question\"], max_rows: 2})";
    assert!(eval(dataset).contains("2 of "), "{}", eval(dataset));
    let by_category = eval("table(#{math: #{correct: 3, total: 4}, art: #{correct: 1, total: 4}})");
    assert!(by_category.contains("math") && by_category.contains("correct"), "{by_category}");
}

#[test]
fn a_report_is_one_whole_page() {
    let folder = tempfile::tempdir().unwrap();
    let code = format!(
        r#"report(#{{title: "What training made the model forget", text: "A narrow task was learnt.\n\nThen general questions were asked again.",
        facts: #{{accuracy_before: 0.82, accuracy_after: 0.74, drop: 0.08, p_value: 0.0021}},
        by_category: #{{math: #{{correct: 3, total: 4}}, art: #{{correct: 1, total: 4}}}},
        losses: [3, 2.5, 2.25],
        sections: [#{{heading: "Learning against forgetting", text: "Every method once.", figure: {SCATTER}}},
            #{{heading: "By category", figure: {BARS}, table: [#{{category: "math", before: 0.61, after: 0.35}}, #{{category: "art", before: 0.5, after: 0.5}}]}},
            #{{heading: "Answers", code: "Q: 2 + 2?\nA: <b>4</b>"}}]}}, "r/page.html")"#
    );
    assert_eq!(eval_in(folder.path(), &code), "()");
    let page = std::fs::read_to_string(folder.path().join("r/page.html")).unwrap();
    for words in [
        "<title>What training",
        "<dt>drop</dt><dd>0.08</dd>",
        "<h2>By category</h2>",
        "&lt;b&gt;4",
        "by_category",
        "losses",
        "</html>",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("<script") && !page.contains("src=") && page.matches("<svg").count() == 3);
    if let Ok(keep) = std::env::var("SHOW_KEEP") {
        std::fs::write(Path::new(&keep).join("page.html"), page).unwrap();
    }
    assert_eq!(eval_in(folder.path(), "report([#{a: 1}, #{a: 2}], \"any.html\")"), "()");
}

#[test]
fn training_history() {
    let result = r#"#{log_history: [#{step: 10, loss: 2.5, learning_rate: 0.001}, #{step: 20, loss: 1.5, learning_rate: 0.0}, #{step: 20, eval_loss: 1.7}]}"#;
    assert!(eval(&format!("history({result})")).contains("A loss   B eval_loss"));
    assert!(eval(&format!("history({result}, #{{value: \"learning_rate\"}}).svg()")).contains("learning_rate"));
    // Entries without a loss, or with one that is no number, are on the axis of both plots.
    let gaps = r#"#{log_history: [#{step: 1, learning_rate: 0.001}, #{step: 10, loss: 2.5, learning_rate: 0.0008},
        #{step: 20, loss: 1.5, learning_rate: 0.0006}, #{step: 40, loss: 0.0 / 0.0, learning_rate: 0.0}]}"#;
    let text = eval(&format!("history({gaps})"));
    let lines: Vec<&str> = text.lines().collect();
    let axes: Vec<&str> = (1..lines.len()).filter(|i| lines[i - 1].contains('└')).map(|i| lines[i]).collect();
    assert!(axes.len() == 2 && axes[0] == axes[1] && axes[0].contains("40"), "{text}");
}
