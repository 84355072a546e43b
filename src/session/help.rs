//! Help: what a name is, with its options, its relatives and the steps of the lesson in which it occurs; its source where it is
//! written in the language; and the search by words.

use super::{Session, lessons, stdlib, tokens};
use crate::script::context::{context, print};
use crate::script::docs::search::{search, see_also};
use crate::script::docs::{Entry, Kind, Reference, render};
use crate::script::error::ScriptResult;
use crate::script::options::OptionInfo;
use crate::script::registry::OptionCatalogue;
use crate::show::terminal_width;
use rhai::Engine;
use rhai::plugin::*;

/// How many results of a search are shown.
const MOST_FOUND: usize = 12;

/// What a line asks about a name instead of running code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question<'a> {
    /// `?name` and `name?`: what it is.
    About(&'a str),
    /// `??name` and `name??`: its source.
    Source(&'a str),
}

/// The question that a line is, if it is one.
pub fn question(line: &str) -> Option<Question<'_>> {
    let line = line.trim();
    // `name?`, as IPython takes it.
    let in_front = |mark: &str| {
        let name = line.strip_suffix(mark)?;
        name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '.')).then_some(name).filter(|name| !name.is_empty())
    };
    if let Some(name) = line.strip_prefix("??").or_else(|| in_front("??")) {
        return Some(Question::Source(name));
    }
    line.strip_prefix('?').or_else(|| in_front("?")).map(Question::About)
}

/// The variables that are there without being declared.
const GLOBALS: &[(&str, &str)] = &[
    ("args", "args: array\n\n  The words behind `--` on the command line, as strings: `ftrepl run FILE.rhai -- WORD WORD`."),
    (
        "FORGETTING_CHECKLIST",
        "FORGETTING_CHECKLIST: array\n\n  The tests that `run_forgetting_checklist` makes unless others are given: a map each with `test` (its name), `prompt`,\n  \
         `check` (a closure from the answer to true or false) and `severity`.\n\n  See also: run_forgetting_checklist",
    ),
];

/// What a variable is that is there without being declared.
pub fn of_global(name: &str) -> Option<&'static str> {
    GLOBALS.iter().find(|(global, _)| *global == name.trim()).map(|(_, text)| *text)
}

/// Everything about a name; of what is unknown, what was probably meant.
pub fn about(reference: &Reference, options: &OptionCatalogue, name: &str) -> String {
    let name = name.trim();
    let name = name.strip_suffix("::").unwrap_or(name);
    if name.is_empty() {
        return render::overview(reference, terminal_width());
    }
    let entries = reference.find(name);
    let global = of_global(name).map(str::to_string);
    if entries.is_empty() {
        return global.unwrap_or_else(|| nothing_called(reference, name));
    }
    // A module, or a word that several types share: a list says more than all of them in full.
    let in_module = entries.iter().all(|entry| entry.name.starts_with(&format!("{name}::")));
    if in_module {
        return list(&entries);
    }
    let described = entries.iter().map(|entry| one(reference, options, entry));
    let sections: Vec<String> = global.into_iter().chain(described).collect();
    sections.join("\n\n")
}

fn one(reference: &Reference, options: &OptionCatalogue, entry: &Entry) -> String {
    let mut text = render::text(&[entry]);
    if let Some(options) = options.of(&entry.name).filter(|_| entry.kind == Kind::Function) {
        text += "\n\n  Options:\n";
        text += &options_list(&options);
    }
    let related = see_also(reference, entry);
    if !related.is_empty() {
        text += &format!("\n\n  See also: {}", related.join(", "));
    }
    let steps: Vec<String> = lessons::using(&entry.name).map(|step| format!("{} ({})", step.name(), step.title())).collect();
    if !steps.is_empty() && entry.ours && entry.kind == Kind::Function {
        text += &format!("\n  In lesson 4: {}", steps.join(", "));
    }
    text
}

fn options_list(options: &[OptionInfo]) -> String {
    let width = options.iter().map(|option| option.name.len()).max().unwrap_or(0);
    let line = |option: &OptionInfo| format!("    {:width$}  {}", option.name, option.summary());
    options.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn list(entries: &[&Entry]) -> String {
    render::list(entries, terminal_width())
}

fn nothing_called(reference: &Reference, name: &str) -> String {
    let found = search(reference, name);
    if found.is_empty() {
        return reference.unknown(name);
    }
    let shown = &found[..found.len().min(MOST_FOUND)];
    format!("nothing is called `{name}`; about it:\n{}", list(shown))
}

/// What is found by words, or the help of a name where there is just that.
pub fn find(reference: &Reference, options: &OptionCatalogue, words: &str) -> String {
    let found = search(reference, words);
    let exact = reference.entries().iter().any(|entry| entry.ours && entry.name == words.trim());
    if exact {
        return about(reference, options, words);
    }
    if found.is_empty() {
        return about(reference, options, words);
    }
    let left = found.len().saturating_sub(MOST_FOUND);
    let more = if left > 0 { format!("\nand {left} more; use more words, or `?NAME` for one") } else { String::new() };
    format!("{}{more}", list(&found[..found.len() - left]))
}

/// The text of a function that is written in the language: the standard library's, or the session's own.
pub fn source(session: &Session, name: &str) -> Option<String> {
    let name = name.trim().trim_end_matches("()");
    let own = session.sources().of_function(name).and_then(|file| session.sources().text(file));
    let texts = own.into_iter().chain(stdlib::FILES.iter().map(|(_, source)| *source));
    for text in texts {
        let found = functions(session, text, name);
        if !found.is_empty() {
            return Some(found.join("\n\n"));
        }
    }
    None
}

/// Every definition of a function in a text, with the comment above it.
fn functions(session: &Session, text: &str, name: &str) -> Vec<String> {
    let pieces = tokens::pieces(session.engine(), text);
    let mut found = Vec::new();
    for (i, pair) in pieces.windows(2).enumerate() {
        if pair[0].of(text) != "fn" || pair[1].of(text) != name {
            continue;
        }
        let mut depth = 0usize;
        let mut end = pair[1].range.end;
        for piece in &pieces[i..] {
            match piece.of(text) {
                "{" | "#{" => depth += 1,
                "}" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        end = piece.range.end;
                        break;
                    }
                }
                _ => {}
            }
        }
        let mut start = pair[0].range.start;
        for piece in pieces[..i].iter().rev().take_while(|piece| piece.of(text).starts_with("//")) {
            // A comment of the file ends with an empty line.
            if text[piece.range.end..start].matches('\n').count() > 1 {
                break;
            }
            start = piece.range.start;
        }
        found.push(text[start..end].to_string());
    }
    found
}

/// What `??name` says.
pub fn source_or_help(session: &Session, name: &str) -> String {
    match source(session, name) {
        Some(text) => text,
        None => {
            let reference = session.reference();
            match reference.find(name).is_empty() {
                true => nothing_called(&reference, name.trim()),
                false => format!(
                    "`{}` is written in Rust, not in the language; what it does:\n\n{}",
                    name.trim(),
                    about(&reference, session.options(), name)
                ),
            }
        }
    }
}

#[allow(clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod functions_of_help {
    /// Prints help: of a function by its name, else of everything that has to do with the words.
    ///
    /// ```rhai
    /// help("compare forgetting");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn help(call: NativeCallContext, words: &str) -> ScriptResult<()> {
        let session = context(&call)?;
        let reference = Reference::of(call.engine());
        if reference.find(words).is_empty() && of_global(words).is_none() && search(&reference, words).is_empty() {
            return Err(reference.unknown(words.trim()).into());
        }
        print(&call, super::find(&reference, &session.options, words))
    }

    /// Prints the list of all functions, a line each.
    ///
    /// ```rhai
    /// help();
    /// ```
    #[rhai_fn(name = "help", return_raw)]
    pub fn help_all(call: NativeCallContext) -> ScriptResult<()> {
        print(&call, render::overview(&Reference::of(call.engine()), terminal_width()))
    }
}

/// Adds the functions to the language.
pub(super) fn register(engine: &mut Engine) {
    engine.register_global_module(exported_module!(functions_of_help).into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_shows_options_relatives_and_lessons() {
        let session = Session::builder().device("cpu").build().unwrap();
        let text = about(&session.reference(), session.options(), "LoraConfig");
        for wanted in
            ["LoraConfig(given: map)", "lora_dropout", "float = 0.0", "See also: ", "get_peft_model", "In lesson 4: lora"]
        {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert!(about(&session.reference(), session.options(), "nn").contains("nn::Linear"));
        assert!(about(&session.reference(), session.options(), "rehearsal").contains("create_replay_dataset"));
        assert!(about(&session.reference(), session.options(), "LoraConfg").contains("LoraConfig"));
        // Every name that a script can use is known, and so is every way of writing one.
        for name in session.global_names() {
            assert!(about(&session.reference(), session.options(), &name).starts_with(&format!("{name}: ")), "{name}");
        }
        assert!(about(&session.reference(), session.options(), "nn::").contains("nn::Linear"));
        assert!(about(&session.reference(), session.options(), "").contains("get_peft_model"));
        assert_eq!(session.reference().closest("from_pretraind"), Some("AutoModelForCausalLM::from_pretrained"));
        assert_eq!(session.reference().closest("Linaer"), Some("nn::Linear"));
    }

    #[test]
    fn sources_of_functions_in_the_language() {
        let mut session = Session::builder().device("cpu").build().unwrap();
        let _ = session.eval_line("// about it\nfn twice(x) {\n    #{ a: x * 2 }.a // }\n}").unwrap();
        assert_eq!(source(&session, "twice").unwrap(), "// about it\nfn twice(x) {\n    #{ a: x * 2 }.a // }\n}");
        let text = source(&session, "compare_forgetting").unwrap();
        assert!(text.starts_with("/// Compares two results") && text.trim_end().ends_with('}'), "{text}");
        assert!(source_or_help(&session, "LoraConfig").contains("written in Rust"));
    }
}
