//! The requests of a front end: run, complete, inspect, and the rest of the protocol.

use super::Sender;
use super::display::{bundle, plain, result};
use crate::session::complete::{Candidate, Completer};
use crate::session::syntax::calls_around;
use crate::session::{Session, help, incomplete, is_interrupt, parseable, tokens};
use jupyter_protocol::{
    CommInfoReply, CompleteReply, CompleteRequest, ErrorOutput, ExecuteInput, ExecuteReply, ExecuteRequest, ExecutionCount,
    ExpressionResult, HistoryEntry, HistoryReply, HistoryRequest, InspectReply, InspectRequest, IsCompleteReply, JupyterMessage,
    JupyterMessageContent, KernelInfoReply, LanguageInfo, Media, MediaType, Payload, ReplyError, ReplyStatus, ShutdownReply,
    Status, UnknownMessage,
};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

/// What a kernel keeps between requests.
pub(super) struct Requests {
    session: Session,
    completer: Completer,
    outgoing: Sender,
    count: usize,
    /// With the texts of their results.
    inputs: Vec<(String, String)>,
    #[cfg(feature = "rust-cells")]
    rust: Option<super::rust_cells::RustCells>,
}

/// What comes after a request.
#[derive(Debug)]
pub(super) enum Next {
    /// The next one.
    Go,
    /// These, which waited while a cell failed, are not run.
    Drop(Vec<JupyterMessage>),
    /// Nothing.
    Stop,
}

/// What the kernel is.
pub(super) fn kernel_info() -> KernelInfoReply {
    KernelInfoReply {
        status: ReplyStatus::Ok,
        protocol_version: "5.3".into(),
        implementation: "ftrepl".into(),
        implementation_version: env!("CARGO_PKG_VERSION").into(),
        language_info: LanguageInfo {
            name: "rhai".into(),
            version: "1".into(),
            mimetype: Some("text/x-rhai".into()),
            file_extension: Some(".rhai".into()),
            pygments_lexer: Some("rust".into()),
            codemirror_mode: Some(jupyter_protocol::CodeMirrorMode::Simple("rust".into())),
            nbconvert_exporter: None,
        },
        banner: concat!("ftrepl ", env!("CARGO_PKG_VERSION"), ": fine-tuning of language models").into(),
        help_links: Vec::new(),
        debugger: false,
        error: None,
    }
}

impl Requests {
    pub(super) fn new(session: Session, outgoing: Sender) -> Self {
        Self {
            session,
            completer: Completer::default(),
            outgoing,
            count: 0,
            inputs: Vec::new(),
            #[cfg(feature = "rust-cells")]
            rust: None,
        }
    }

    /// Answers a request that waited while a cell failed: what would run is not run.
    pub(super) fn drop(&mut self, request: &JupyterMessage) {
        if !matches!(request.content, JupyterMessageContent::ExecuteRequest(_)) {
            self.answer(request, &Vec::new);
            return;
        }
        self.outgoing.answering(Some(request.clone()));
        self.outgoing.publish(Status::busy().into());
        let reply = ExecuteReply {
            status: ReplyStatus::Aborted,
            execution_count: ExecutionCount::new(self.count),
            ..ExecuteReply::default()
        };
        self.outgoing.reply(reply.as_child_of(request));
        self.outgoing.publish(Status::idle().into());
        self.outgoing.answering(None);
    }

    /// Answers one request; `waiting` takes those that wait behind it.
    pub(super) fn answer(&mut self, request: &JupyterMessage, waiting: &dyn Fn() -> Vec<JupyterMessage>) -> Next {
        self.outgoing.answering(Some(request.clone()));
        self.outgoing.publish(Status::busy().into());
        let mut next = Next::Go;
        match &request.content {
            JupyterMessageContent::KernelInfoRequest(_) => self.outgoing.reply(kernel_info().as_child_of(request)),
            JupyterMessageContent::ExecuteRequest(given) => {
                let reply = self.execute(given);
                if reply.status == ReplyStatus::Error && given.stop_on_error {
                    // Before the front end is told: what it sends when it knows is meant to run.
                    next = Next::Drop(waiting());
                }
                self.outgoing.reply(reply.as_child_of(request));
            }
            JupyterMessageContent::CompleteRequest(given) => self.outgoing.reply(self.complete(given).as_child_of(request)),
            JupyterMessageContent::InspectRequest(given) => self.outgoing.reply(self.inspect(given).as_child_of(request)),
            JupyterMessageContent::IsCompleteRequest(given) => {
                self.outgoing.reply(self.is_complete(&given.code).as_child_of(request));
            }
            JupyterMessageContent::HistoryRequest(given) => self.outgoing.reply(self.history(given).as_child_of(request)),
            // There are no widgets: none are open, and what is sent to one is nobody's.
            JupyterMessageContent::CommInfoRequest(_) => self.outgoing.reply(CommInfoReply::default().as_child_of(request)),
            JupyterMessageContent::ShutdownRequest(given) => {
                let reply = ShutdownReply { restart: given.restart, ..ShutdownReply::default() };
                self.outgoing.reply(reply.as_child_of(request));
                next = Next::Stop;
            }
            JupyterMessageContent::UnknownMessage(unknown) => {
                if let Some(name) = unknown.msg_type.strip_suffix("_request") {
                    let content = serde_json::json!({ "status": "error", "ename": "Error", "traceback": [],
                        "evalue": format!("this kernel cannot read this {}", unknown.msg_type) });
                    let reply = UnknownMessage { msg_type: format!("{name}_reply"), content };
                    self.outgoing.reply(reply.as_child_of(request));
                }
            }
            // Messages of widgets, which nobody has opened.
            _ => {}
        }
        self.outgoing.publish(Status::idle().into());
        self.outgoing.answering(None);
        if matches!(next, Next::Stop) {
            // Until what was sent is on its way.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        next
    }

    fn execute(&mut self, request: &ExecuteRequest) -> ExecuteReply {
        let code = request.code.trim_end();
        let counts = request.store_history && !request.silent && !code.is_empty();
        if counts {
            self.count += 1;
            self.inputs.push((code.to_string(), String::new()));
        }
        let count = ExecutionCount::new(self.count);
        if !request.silent {
            self.outgoing.publish(ExecuteInput { code: request.code.clone(), execution_count: count }.into());
        }
        let mut reply =
            ExecuteReply { execution_count: count, user_expressions: Some(HashMap::new()), ..ExecuteReply::default() };
        if let Some(text) = self.help(code) {
            reply.payload.push(Payload::Page { data: plain(text), start: 0 });
            return reply;
        }
        let outcome = self.run(code, !request.silent);
        self.session.control().flag().store(false, Ordering::SeqCst);
        if outcome.is_ok() {
            let expressions = request.user_expressions.iter().flatten();
            reply.user_expressions = Some(expressions.map(|(name, code)| (name.clone(), self.expression(code))).collect());
        }
        match outcome {
            Ok(Some(data)) if !request.silent => {
                if let Some((_, shown)) = self.inputs.last_mut().filter(|_| counts) {
                    *shown = plain_of(&data);
                }
                self.outgoing.publish(result(count, data).into());
            }
            Ok(_) => {}
            Err(error) => {
                if !request.silent {
                    let ReplyError { ename, evalue, traceback } = error.clone();
                    self.outgoing.publish(ErrorOutput { ename, evalue, traceback }.into());
                }
                reply.status = ReplyStatus::Error;
                reply.error = Some(Box::new(error));
            }
        }
        reply
    }

    /// The answer to `?name` and `??name`.
    fn help(&self, code: &str) -> Option<String> {
        let question = help::question(code)?;
        Some(match question {
            help::Question::Source(name) => help::source_or_help(&self.session, name),
            help::Question::About(name) => help::about(&self.session.reference(), self.session.options(), name),
        })
    }

    /// What a front end asked to know after a cell.
    fn expression(&mut self, code: &str) -> ExpressionResult {
        match self.run(code, false) {
            Ok(data) => ExpressionResult::Ok { data: data.unwrap_or_else(|| plain(String::new())), metadata: Default::default() },
            Err(ReplyError { ename, evalue, traceback }) => ExpressionResult::Error { ename, evalue, traceback },
        }
    }

    /// Runs a cell of Rust.
    #[cfg(feature = "rust-cells")]
    fn run_rust(&mut self, code: &str) -> Result<Option<Media>, ReplyError> {
        if self.rust.is_none() {
            self.rust = Some(super::rust_cells::RustCells::new(&self.outgoing)?);
        }
        match &mut self.rust {
            Some(rust) => rust.run(code, &mut self.session),
            None => Ok(None),
        }
    }

    /// Says what a cell of Rust needs.
    #[cfg(not(feature = "rust-cells"))]
    fn run_rust(&mut self, _: &str) -> Result<Option<Media>, ReplyError> {
        let evalue =
            "cells of Rust are not in this build; `cargo install --path . --features rust-cells` builds them in".to_string();
        Err(ReplyError { ename: "Error".into(), traceback: vec![evalue.clone()], evalue })
    }

    /// Runs a cell; its value becomes `ans` only where a user sees it.
    fn run(&mut self, code: &str, seen: bool) -> Result<Option<Media>, ReplyError> {
        self.session.control().flag().store(false, Ordering::SeqCst);
        if is_rust(code) {
            return self.run_rust(code);
        }
        let name = format!("cell[{}]", self.count);
        match self.session.run_script(code, &name) {
            Ok(value) => {
                let shown = !value.is_unit() && !self.session.is_muted(code);
                let data = shown.then(|| bundle(&value));
                if shown && seen {
                    self.session.set("ans", value);
                }
                Ok(data)
            }
            Err(error) if is_interrupt(&error) => Err(ReplyError {
                ename: "Interrupted".into(),
                evalue: "interrupted".into(),
                traceback: vec!["interrupted".into()],
            }),
            Err(error) => {
                let words = self.session.report(&error, &name, false);
                let evalue = words.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string();
                let traceback = self.session.report(&error, &name, true).lines().map(str::to_string).collect();
                Err(ReplyError { ename: "Error".into(), evalue, traceback })
            }
        }
    }

    fn complete(&self, request: &CompleteRequest) -> CompleteReply {
        let at = byte_of(&request.code, request.cursor_pos);
        let mut found = self.completer.complete(&self.session, &request.code, at);
        if found.path && found.candidates.is_empty() {
            found.candidates = paths(request.code.get(found.start..at).unwrap_or_default());
        }
        let kinds: Vec<serde_json::Value> = found
            .candidates
            .iter()
            .map(|candidate| serde_json::json!({ "text": candidate.replacement, "type": kind_of(&candidate.label), "signature": candidate.label }))
            .collect();
        let mut metadata = serde_json::Map::new();
        metadata.insert("_jupyter_types_experimental".into(), kinds.into());
        CompleteReply {
            matches: found.candidates.into_iter().map(|candidate| candidate.replacement).collect(),
            cursor_start: request.code[..found.start].chars().count(),
            cursor_end: request.cursor_pos.min(request.code.chars().count()),
            metadata,
            ..CompleteReply::default()
        }
    }

    fn inspect(&self, request: &InspectRequest) -> InspectReply {
        let at = byte_of(&request.code, request.cursor_pos);
        let pieces = tokens::pieces(self.session.engine(), &request.code);
        let name_at = |piece: &tokens::Piece| {
            let name =
                matches!(piece.kind, tokens::Kind::Name | tokens::Kind::Call | tokens::Kind::Property | tokens::Kind::Module);
            name && (piece.range.start..=piece.range.end).contains(&at)
        };
        let under_cursor = pieces.iter().find(|piece| name_at(piece)).map(|piece| piece.of(&request.code).to_string());
        let before = request.code.get(..at).unwrap_or_default();
        // Else that of the call whose arguments are being written.
        let names = under_cursor.into_iter().chain(calls_around(before, &tokens::pieces(self.session.engine(), before)));
        match names.into_iter().find_map(|name| self.about(&name, request.detail_level == Some(1))) {
            Some(text) => InspectReply { found: true, data: plain(text), ..InspectReply::default() },
            None => InspectReply::default(),
        }
    }

    /// What is known about a name.
    fn about(&self, name: &str, source: bool) -> Option<String> {
        let reference = self.session.reference();
        if let Some(value) = self.session.scope().get(name) {
            return Some(format!("{name}: {}", reference.type_name(value.type_name())));
        }
        let text = help::source(&self.session, name).or_else(|| help::of_global(name).map(str::to_string));
        match (source, reference.find(name).is_empty()) {
            (true, _) if text.is_some() => text,
            (_, true) => text,
            (_, false) => Some(help::about(&reference, self.session.options(), name)),
        }
    }

    fn is_complete(&self, code: &str) -> IsCompleteReply {
        if is_rust(code) {
            return IsCompleteReply::complete();
        }
        let text = parseable(code);
        if incomplete::is_incomplete(self.session.engine(), &text) {
            return IsCompleteReply::incomplete("    ".into());
        }
        match self.session.engine().compile(&*text) {
            Ok(_) => IsCompleteReply::complete(),
            Err(_) if help::question(code).is_some() => IsCompleteReply::complete(),
            Err(_) => IsCompleteReply::invalid(),
        }
    }

    fn history(&self, request: &HistoryRequest) -> HistoryReply {
        let (HistoryRequest::Range { output, .. } | HistoryRequest::Tail { output, .. } | HistoryRequest::Search { output, .. }) =
            request;
        let entry = |(index, (input, shown)): (usize, &(String, String))| match output {
            true => HistoryEntry::InputOutput(0, index + 1, (input.clone(), shown.clone())),
            false => HistoryEntry::Input(0, index + 1, input.clone()),
        };
        let all: Vec<(usize, &(String, String))> = self.inputs.iter().enumerate().collect();
        let last = |found: Vec<_>, n: i32| {
            let left_out = found.len().saturating_sub(usize::try_from(n).unwrap_or(0));
            found.into_iter().skip(left_out).collect::<Vec<_>>()
        };
        let wanted = match request {
            HistoryRequest::Tail { n, .. } => last(all, *n),
            HistoryRequest::Range { start, stop, .. } => {
                let number = |given: &i32, default| usize::try_from(*given).unwrap_or(default);
                let range = number(start, 0)..number(stop, usize::MAX);
                all.into_iter().filter(|(index, _)| range.contains(&(index + 1))).collect()
            }
            HistoryRequest::Search { pattern, n, unique, .. } => {
                // `*` and `?` as in file names.
                let pattern = regex::escape(pattern).replace("\\*", ".*").replace("\\?", ".");
                let Ok(pattern) = regex::Regex::new(&format!("(?s)^{pattern}$")) else { return HistoryReply::new(Vec::new()) };
                let mut hits: Vec<_> = all.into_iter().filter(|(_, (input, _))| pattern.is_match(input)).collect();
                if *unique {
                    let mut seen = HashSet::new();
                    hits.reverse();
                    hits.retain(|(_, (input, _))| seen.insert(input));
                    hits.reverse();
                }
                last(hits, *n)
            }
        };
        HistoryReply::new(wanted.into_iter().map(entry).collect())
    }
}

/// Whether a cell is Rust.
fn is_rust(code: &str) -> bool {
    code.split_whitespace().next() == Some("%%rust")
}

/// The files and folders whose path begins with a text; hidden ones where its last part begins with a period.
fn paths(typed: &str) -> Vec<Candidate> {
    let (folder, begin) = typed.rsplit_once('/').map_or(("", typed), |(folder, begin)| (&typed[..=folder.len()], begin));
    let entries = std::fs::read_dir(if folder.is_empty() { "." } else { folder });
    let path = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let wanted = name.starts_with(begin) && (begin.starts_with('.') || !name.starts_with('.'));
        let end = if entry.path().is_dir() { "/" } else { "" };
        wanted.then(|| Candidate { replacement: format!("{folder}{name}{end}"), label: format!("{name}: path") })
    };
    let mut found: Vec<Candidate> = entries.into_iter().flatten().flatten().filter_map(path).collect();
    found.sort();
    found
}

/// What a candidate is, in a word for which front ends have an icon.
fn kind_of(label: &str) -> &str {
    match label.split_once(": ") {
        _ if label.contains('(') => "function",
        Some((_, kind @ ("module" | "path"))) => kind,
        Some(_) => "instance",
        None => "keyword",
    }
}

fn plain_of(data: &Media) -> String {
    let text = data.content.iter().find_map(|face| match face {
        MediaType::Plain(text) => Some(text.clone()),
        _ => None,
    });
    text.unwrap_or_default()
}

/// Positions count characters.
fn byte_of(text: &str, characters: usize) -> usize {
    text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at)
}
