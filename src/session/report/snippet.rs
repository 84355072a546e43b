//! The look of an error: title, source lines with carets, notes.

use crate::show::columns;
use annotate_snippets::renderer::{DEFAULT_TERM_WIDTH, DecorStyle};
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use rhai::Position;

/// A place in a text.
pub(super) struct Site<'a> {
    file: String,
    source: Option<&'a str>,
    position: Position,
    label: String,
}

impl<'a> Site<'a> {
    pub(super) fn new(file: &str, source: Option<&'a str>, position: Position, label: &str) -> Self {
        Self { file: file.to_string(), source, position, label: label.to_string() }
    }

    /// The bytes to underline: the word or string at the position, else one letter.
    fn span(&self, source: &str) -> Option<std::ops::Range<usize>> {
        let line = self.position.line()?;
        let column = self.position.position().unwrap_or(1).max(1);
        let mut start = 0;
        for _ in 1..line {
            start += source.get(start..)?.find('\n')? + 1;
        }
        let text = source.get(start..)?.lines().next().unwrap_or("");
        let offset = text.char_indices().nth(column - 1).map_or(text.len(), |(offset, _)| offset);
        let rest = &text[offset..];
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
        let at = start + offset;
        // An empty span at the end of the text still needs something to point at.
        Some(if length > 0 { at..at + length } else { at..at })
    }

    fn place(&self) -> String {
        match (self.position.line(), self.position.position()) {
            (Some(line), Some(column)) => format!("{}:{line}:{column}", self.file),
            (Some(line), None) => format!("{}:{line}", self.file),
            _ => self.file.clone(),
        }
    }
}

/// An error ready to be drawn.
pub(super) struct Report<'a> {
    title: String,
    notes: Vec<String>,
    sites: Vec<Site<'a>>,
    calls: Vec<Site<'a>>,
    warning: bool,
}

/// Deeper call chains are cut in the middle of nowhere: the nearest calls say most.
const SHOWN_CALLS: usize = 5;

impl<'a> Report<'a> {
    pub(super) fn new(title: String, notes: Vec<String>) -> Self {
        Self { title, notes, sites: Vec::new(), calls: Vec::new(), warning: false }
    }

    pub(super) fn only_a_warning(&mut self) {
        self.warning = true;
    }

    pub(super) fn site(&mut self, site: Site<'a>) {
        self.sites.push(site);
    }

    pub(super) fn call(&mut self, site: Site<'a>) {
        self.calls.push(site);
    }

    pub(super) fn render(&self, color: bool) -> String {
        let level = if self.warning { Level::WARNING } else { Level::ERROR };
        let mut group: Group<'_> = Group::with_title(level.primary_title(self.title.as_str()));
        let mut missing = Vec::new();
        // All places in one text share a snippet, so that its lines are shown once and in their order.
        let mut snippets: Vec<(&str, &str, Vec<Annotation<'_>>)> = Vec::new();
        for (kind, site) in self.located() {
            match site.source.and_then(|source| Some((source, site.span(source)?))) {
                Some((source, span)) => {
                    let label = (!site.label.is_empty()).then_some(site.label.as_str());
                    let annotation = kind.span(span).label(label);
                    match snippets.iter_mut().find(|(file, ..)| *file == site.file) {
                        Some((_, _, annotations)) => annotations.push(annotation),
                        None => snippets.push((&site.file, source, vec![annotation])),
                    }
                }
                None if site.position.is_none() => {}
                None => missing.push(format!("at {}", site.place())),
            }
        }
        for (file, source, annotations) in snippets {
            group = group.element(Snippet::source(source).path(file).annotations(annotations));
        }
        let left = self.calls.len().saturating_sub(SHOWN_CALLS);
        let more = (left > 0).then(|| format!("and {left} more calls"));
        for note in self.notes.iter().chain(&missing).chain(&more) {
            let (level, text) = match note.strip_prefix("help: ") {
                Some(help) => (Level::HELP, help),
                None => (Level::NOTE, note.as_str()),
            };
            group = group.element(level.message(text));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        // A line that the terminal breaks takes the caret from under its word.
        let width = columns().map_or(DEFAULT_TERM_WIDTH, |columns| columns.min(DEFAULT_TERM_WIDTH));
        renderer.term_width(width).decor_style(DecorStyle::Ascii).render(&[group]).to_string()
    }

    fn located(&self) -> impl Iterator<Item = (AnnotationKind, &Site<'a>)> {
        let primary = self.sites.iter().map(|site| (AnnotationKind::Primary, site));
        primary.chain(self.calls.iter().take(SHOWN_CALLS).map(|site| (AnnotationKind::Context, site)))
    }
}
