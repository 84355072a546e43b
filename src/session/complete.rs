//! What could be typed next: names of variables and functions, methods by the receiver's type, keys of maps, the options of the call
//! around the cursor, words that an option may be, names of models and data sets. Paths of files are left to the front.

use super::Session;
use super::open::{Open, open_at_end};
use super::syntax::{called_function, enclosing, full_name, is_period, is_word, keys_in, opening};
use super::tokens::{Kind as Token, Piece, pieces};
use crate::script::docs::{Entry, Kind, Reference, Signature};
use rhai::Dynamic;
use std::cell::OnceCell;
use std::collections::BTreeSet;

/// Something that could be typed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// What stands at [`Completion::start`] then.
    pub replacement: String,
    /// How a list shows it: a signature, a type, a default.
    pub label: String,
}

/// What could be typed at a place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Completion {
    /// The byte from which the text would be replaced.
    pub start: usize,
    /// In alphabetical order.
    pub candidates: Vec<Candidate>,
    /// The cursor is in a string in which a path may be meant.
    pub path: bool,
}

/// Words of the language that start something.
const KEYWORDS: &[&str] = &[
    "let", "const", "fn", "if", "else", "switch", "for", "in", "while", "loop", "do", "until", "break", "continue", "return",
    "throw", "try", "catch", "import", "true", "false", "this",
];

/// Keys of a map that are offered; more would not be read.
const MOST_KEYS: usize = 200;

/// Completes texts. The reference is read when it is first needed.
#[derive(Debug, Default)]
pub struct Completer {
    reference: OnceCell<Reference>,
}

/// What is known about an expression.
enum Known {
    Value(Dynamic),
    Type(String),
}

impl Completer {
    /// The reference, as it was when it was first asked for.
    pub fn reference(&self, session: &Session) -> &Reference {
        self.reference.get_or_init(|| session.reference())
    }

    /// What could be typed at byte `at` of `text`.
    pub fn complete(&self, session: &Session, text: &str, at: usize) -> Completion {
        let Some(before) = text.get(..at) else { return Completion::default() };
        if let Open::Text(quote) | Open::Template(quote) = open_at_end(before) {
            return self.within_text(session, before, quote);
        }
        let start = before.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |i| {
            // Not past a letter of several bytes.
            i + before[i..].chars().next().map_or(1, char::len_utf8)
        });
        let word = &before[start..];
        let parts = pieces(session.engine(), &before[..start]);
        let last = parts.last().map(|piece| piece.of(before)).unwrap_or_default();
        let candidates = match last {
            "." | "?." => self.members(session, before, &parts[..parts.len() - 1]),
            "::" => self.of_module(session, &parts, before),
            _ => {
                let options = self.options(session, before, &parts);
                match options {
                    Some(options) => options,
                    None if word.is_empty() => Vec::new(),
                    None => self.names(session),
                }
            }
        };
        finish(start, word, candidates)
    }

    /// Variables, functions, modules and keywords.
    fn names(&self, session: &Session) -> Vec<Candidate> {
        let reference = self.reference(session);
        let mut found: Vec<Candidate> = KEYWORDS.iter().map(|word| plain(word, "")).collect();
        let scope = session.scope();
        found.extend(scope.iter_raw().map(|(name, _, value)| plain(name, &reference.type_name(value.type_name()))));
        found.extend(session.global_names().iter().map(|name| plain(name, "")));
        for function in session.library().iter_functions().filter(|function| !function.name.starts_with("anon$")) {
            found.push(Candidate {
                replacement: function.name.to_string(),
                label: format!("{}({})", function.name, function.params.join(", ")),
            });
        }
        let global = |entry: &&Entry| entry.kind == Kind::Function && !entry.name.contains("::");
        found.extend(reference.entries().iter().filter(global).map(|entry| called(&entry.name, entry, None)));
        let imported = session.modules().keys().map(String::as_str);
        found.extend(reference.modules().into_iter().chain(imported).map(|module| plain(&format!("{module}::"), "module")));
        found
    }

    fn of_module(&self, session: &Session, parts: &[Piece], text: &str) -> Vec<Candidate> {
        let reference = self.reference(session);
        let Some(module) = parts.len().checked_sub(2).map(|i| parts[i].of(text)) else { return Vec::new() };
        let prefix = format!("{module}::");
        let inside = reference.entries().iter().filter(|entry| entry.name.starts_with(&prefix));
        let imported = session.modules().get(module).into_iter().flatten().map(|shown| Candidate {
            replacement: shown.split('(').next().unwrap_or_default().to_string(),
            label: shown.clone(),
        });
        inside.map(|entry| called(&entry.name[prefix.len()..], entry, None)).chain(imported).collect()
    }

    /// Keys, properties and methods of what stands in front of a period.
    fn members(&self, session: &Session, text: &str, parts: &[Piece]) -> Vec<Candidate> {
        let known = self.expression(session, text, parts);
        let reference = self.reference(session);
        let mut found = Vec::new();
        let kind = match &known {
            Some(Known::Value(value)) => {
                if let Ok(map) = value.as_map_ref() {
                    let key = |(key, value): (&rhai::Identifier, &Dynamic)| plain(key, &reference.type_name(value.type_name()));
                    found.extend(map.iter().take(MOST_KEYS).map(key));
                }
                Some(reference.type_name(value.type_name()))
            }
            Some(Known::Type(kind)) if kind != "any" => Some(kind.clone()),
            _ => None,
        };
        for entry in reference.entries() {
            let fits = entry.signatures.iter().any(|signature| match (&kind, signature.parameters.first()) {
                (Some(kind), Some((_, first))) => first == kind,
                // Nothing is known of it: everything that can stand behind a period.
                (None, Some(_)) => entry.ours,
                (_, None) => false,
            });
            match entry.kind {
                Kind::Function if fits && !entry.name.contains("::") => {
                    found.push(called(&entry.name, entry, Some(kind.as_deref())))
                }
                Kind::Property if fits => {
                    let returns = entry.signatures.first().map(|signature| signature.returns.as_str()).unwrap_or_default();
                    found.push(plain(&entry.name, returns));
                }
                _ => {}
            }
        }
        found
    }

    /// What is known about the expression that ends with the last piece: a variable, what a function gives, a chain of members.
    fn expression(&self, session: &Session, text: &str, parts: &[Piece]) -> Option<Known> {
        let reference = self.reference(session);
        let last = parts.last()?;
        match last.kind {
            Token::Text => Some(Known::Type("string".into())),
            Token::Number => Some(Known::Type(if last.of(text).contains('.') { "float" } else { "int" }.into())),
            Token::Name | Token::Property | Token::Call if parts.len() >= 2 && is_period(parts[parts.len() - 2].of(text)) => {
                let receiver = self.expression(session, text, &parts[..parts.len() - 2])?;
                member(reference, &receiver, last.of(text))
            }
            Token::Name | Token::Call | Token::Property => {
                let name = last.of(text);
                let value = session.scope().get(name).map(|value| Known::Value(value.clone()));
                value.or_else(|| constant(session, name))
            }
            Token::Sign if last.of(text) == "()" => self.call(session, text, &parts[..parts.len() - 1]),
            Token::Close => {
                let open = opening(parts)?;
                match parts[open].of(text) {
                    "(" if open > 0 && is_word(&parts[open - 1]) => self.call(session, text, &parts[..open]),
                    "(" => self.expression(session, text, &parts[open + 1..parts.len() - 1]),
                    "#{" => Some(Known::Type("map".into())),
                    "[" if open > 0 && (is_word(&parts[open - 1]) || parts[open - 1].kind == Token::Close) => {
                        self.element(session, text, &parts[..open])
                    }
                    "[" => Some(Known::Type("array".into())),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// What the function gives whose name is the last piece.
    fn call(&self, session: &Session, text: &str, parts: &[Piece]) -> Option<Known> {
        let reference = self.reference(session);
        let name = parts.last()?.of(text);
        if parts.len() >= 2 && is_period(parts[parts.len() - 2].of(text)) {
            let receiver = self.expression(session, text, &parts[..parts.len() - 2])?;
            return member(reference, &receiver, name);
        }
        let full = full_name(text, parts);
        let entry = reference.entries().iter().find(|entry| entry.kind == Kind::Function && entry.name == full)?;
        entry.signatures.first().map(|signature| Known::Type(signature.returns.clone()))
    }

    /// What an element of the expression is.
    fn element(&self, session: &Session, text: &str, parts: &[Piece]) -> Option<Known> {
        match self.expression(session, text, parts)? {
            Known::Value(value) => {
                if let Ok(items) = value.as_array_ref() {
                    return items.first().map(|item| Known::Value(item.clone()));
                }
                let kind = self.reference(session).type_name(value.type_name());
                matches!(kind.as_str(), "Tensor").then_some(Known::Type(kind))
            }
            Known::Type(kind) if kind == "Tensor" => Some(Known::Type(kind)),
            Known::Type(_) => None,
        }
    }

    /// The options of the call around a `#{` at whose key the text ends, without those that are there already.
    fn options(&self, session: &Session, text: &str, parts: &[Piece]) -> Option<Vec<Candidate>> {
        let map = enclosing(parts).filter(|open| parts[*open].of(text) == "#{")?;
        // A key comes behind the brace or a comma.
        let last = parts.last()?.of(text);
        if !matches!(last, "#{" | ",") {
            return None;
        }
        let (_, options) = self.called_options(session, text, &parts[..map])?;
        let given: BTreeSet<&str> = keys_in(text, &parts[map + 1..]);
        let open = options.into_iter().filter(|option| !given.contains(option.name.as_str()));
        Some(
            open.map(|o| Candidate { replacement: format!("{}: ", o.name), label: format!("{}: {}", o.name, o.summary()) })
                .collect(),
        )
    }

    /// The function whose argument list is open at the end of the pieces, and its options.
    fn called_options(
        &self,
        session: &Session,
        text: &str,
        parts: &[Piece],
    ) -> Option<(String, Vec<crate::script::options::OptionInfo>)> {
        let name = called_function(text, parts)?;
        let options = session.options().of(&name).or_else(|| {
            // A method may be written with the name of its module's function.
            session.options().of(name.rsplit("::").next().unwrap_or(&name))
        })?;
        Some((name, options))
    }

    /// In a string: the words that the option or argument may be, else a path.
    fn within_text(&self, session: &Session, before: &str, quote: usize) -> Completion {
        let start = quote + 1;
        let word = &before[start..];
        let parts = pieces(session.engine(), &before[..quote]);
        let words = self.words(session, before, &parts);
        let candidates = words.iter().map(|word| Candidate { replacement: format!("{word}\""), label: word.clone() }).collect();
        Completion { path: true, ..finish(start, word, candidates) }
    }

    /// What a string may say here.
    fn words(&self, session: &Session, text: &str, parts: &[Piece]) -> Vec<String> {
        // `key: "`
        if let Some(map) = enclosing(parts).filter(|open| parts[*open].of(text) == "#{")
            && let [.., key, colon] = parts
            && colon.of(text) == ":"
        {
            let choices = self.called_options(session, text, &parts[..map]).and_then(|(_, options)| {
                let option = options.into_iter().find(|option| option.name == key.of(text))?;
                Some(option.choices().map(str::to_string).collect::<Vec<_>>())
            });
            return choices.unwrap_or_default();
        }
        // `name("`
        if parts.last().is_none_or(|piece| piece.of(text) != "(") {
            return Vec::new();
        }
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        match called_function(text, parts).as_deref() {
            Some("AutoModelForCausalLM::from_pretrained" | "AutoTokenizer::from_pretrained") => {
                crate::model::catalogue::CATALOGUE.iter().map(|model| model.name.to_string()).collect()
            }
            Some("load_dataset") => {
                let bundled = crate::data::bundled::BUNDLED.iter().map(|set| set.name);
                ["json", "csv", "parquet", "text"].into_iter().chain(bundled).map(str::to_string).collect()
            }
            Some("get_scheduler") => owned(&["linear", "cosine", "constant", "constant_with_warmup"]),
            Some("pipeline") => owned(&["text-generation"]),
            Some("review") => owned(&["full", "lora", "qlora"]),
            _ => Vec::new(),
        }
    }
}

/// What a member of something is.
fn member(reference: &Reference, receiver: &Known, name: &str) -> Option<Known> {
    let kind = match receiver {
        Known::Value(value) => {
            if let Some(inner) = value.as_map_ref().ok().and_then(|map| map.get(name).cloned()) {
                return Some(Known::Value(inner));
            }
            reference.type_name(value.type_name())
        }
        Known::Type(kind) => kind.clone(),
    };
    let signatures = reference.entries().iter().filter(|entry| entry.name == name).flat_map(|entry| &entry.signatures);
    let mut own = signatures.filter(|signature| signature.parameters.first().is_some_and(|(_, first)| *first == kind));
    own.next().map(|signature| Known::Type(signature.returns.clone()))
}

/// A constant of the standard library: its value is not in the scope.
fn constant(session: &Session, name: &str) -> Option<Known> {
    session.global_names().iter().any(|known| known == name).then(|| Known::Type("array".into()))
}

fn plain(name: &str, label: &str) -> Candidate {
    let label = if label.is_empty() { name.to_string() } else { format!("{name}: {label}") };
    Candidate { replacement: name.to_string(), label }
}

/// A function, or a method behind a period with the type of what stands there, as far as it is known.
fn called(name: &str, entry: &Entry, receiver: Option<Option<&str>>) -> Candidate {
    let fits = |signature: &&Signature| match receiver.flatten() {
        Some(kind) => signature.parameters.first().is_some_and(|(_, first)| first == kind),
        None => true,
    };
    // The signature that takes most says most; of equals the first, which the others vary.
    let signature = entry.signatures.iter().filter(fits).rev().max_by_key(|signature| signature.parameters.len());
    let Some(signature) = signature else { return plain(name, "") };
    let mut shown = signature.clone();
    if receiver.is_some() && !shown.parameters.is_empty() {
        shown.parameters.remove(0);
    }
    Candidate { replacement: name.to_string(), label: shown.show(name, Kind::Function) }
}

/// Those that begin with what is there, sorted, each once.
fn finish(start: usize, word: &str, mut candidates: Vec<Candidate>) -> Completion {
    candidates.retain(|candidate| candidate.replacement.starts_with(word) && !candidate.replacement.contains('$'));
    candidates.sort();
    candidates.dedup_by(|a, b| a.replacement == b.replacement);
    Completion { start, candidates, path: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(session: &Session, text: &str) -> Vec<String> {
        let completer = Completer::default();
        completer.reference(session);
        let found = completer.complete(session, text, text.len());
        found.candidates.into_iter().map(|candidate| candidate.replacement).collect()
    }

    fn session(code: &str) -> Session {
        let mut session = Session::builder().device("cpu").build().unwrap();
        let _ = session.eval_line(code).unwrap();
        session
    }

    #[test]
    fn names_of_variables_functions_and_modules() {
        let session = session("let learned = 1; fn lesson_loss(a, b) { a }");
        assert_eq!(names(&session, "1 + lea"), ["learned"]);
        assert_eq!(names(&session, "less"), ["lesson_loss"]);
        assert!(names(&session, "le").contains(&"let".to_string()));
        assert!(names(&session, "load_d").contains(&"load_dataset".to_string()));
        assert!(names(&session, "nn").contains(&"nn::".to_string()));
        assert!(names(&session, "FORG").contains(&"FORGETTING_CHECKLIST".to_string()));
        assert_eq!(names(&session, "nn::Lin"), ["Linear"]);
        assert!(names(&session, "1 + ").is_empty());
    }

    #[test]
    fn methods_by_the_type_in_front() {
        let session = session("let x = tensor([1.0]); let m = #{ loss: 2.5, inner: #{ deep: 1 }, rows: [#{ answer: 1 }] };");
        assert!(names(&session, "x.matm").contains(&"matmul".to_string()));
        assert!(names(&session, "x.sha").contains(&"shape".to_string()));
        assert!(!names(&session, "x.").contains(&"generate".to_string()));
        assert_eq!(names(&session, "m.los"), ["loss"]);
        assert_eq!(names(&session, "m.inner.dee"), ["deep"]);
        assert_eq!(names(&session, "m.rows[0].answ"), ["answer"]);
        // By what functions give, without running them.
        assert!(names(&session, "randn([2]).ab").contains(&"abs".to_string()));
        assert!(names(&session, "x.abs().sq").contains(&"sqrt".to_string()));
        assert!(names(&session, "AutoModelForCausalLM::from_pretrained(\"a\", #{ }).gen").contains(&"generate".to_string()));
        assert!(names(&session, "\"text\".to_up").contains(&"to_upper".to_string()));
    }

    #[test]
    fn options_of_the_call_around_the_cursor() {
        let session = session("let model = 1;");
        assert_eq!(names(&session, "LoraConfig(#{ lora_d"), ["lora_dropout: "]);
        assert!(!names(&session, "LoraConfig(#{ r: 8, ").contains(&"r: ".to_string()));
        let completer = Completer::default();
        let text = "Trainer(#{ model: model, args: TrainingArguments(#{ learning_r";
        let found = completer.complete(&session, text, text.len()).candidates;
        assert_eq!(found[0].label, "learning_rate: float = 5e-05");
        assert_eq!(names(&session, "TrainingArguments(#{ lr_scheduler_type: \"lin"), ["linear\""]);
        assert!(names(&session, "model.generate(\"a\", #{ max_new").contains(&"max_new_tokens: ".to_string()));
        // A value is no key.
        assert!(!names(&session, "LoraConfig(#{ r: lora_d").contains(&"lora_dropout: ".to_string()));
    }

    #[test]
    fn words_in_strings() {
        let session = session("1");
        assert!(names(&session, "AutoTokenizer::from_pretrained(\"smol").iter().any(|name| name.starts_with("smollm2")));
        assert_eq!(names(&session, "load_dataset(\"drug"), ["drug_qa\""]);
        let completer = Completer::default();
        let found = completer.complete(&session, "load_json(\"some", 15);
        assert!(found.path && found.start == 11 && found.candidates.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_thousand_names_take_less_than_twenty_milliseconds() {
        let code: String = (0..1000).map(|i| format!("let variable_{i} = {i};")).collect();
        let session = session(&code);
        // With the reading of the reference, which comes once a session. The processor's time: other tests run beside it.
        let spent = || {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the structure is this function's own.
            unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
            std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        };
        let took = (0..10).map(|_| {
            let start = spent();
            let found = Completer::default().complete(&session, "variable_", 9);
            assert_eq!(found.candidates.len(), 1000);
            spent() - start
        });
        let best = took.min().unwrap();
        // A debug build is slower by far.
        let limit = if cfg!(debug_assertions) { 400 } else { 20 };
        assert!(best.as_millis() < limit, "{best:?}");
    }
}
