//! Values as the protocol's messages.

use crate::session::faces::Faces;
use jupyter_protocol::{DisplayData, ExecuteResult, ExecutionCount, Media, MediaType, Transient};
use rhai::Dynamic;

/// Every face of a value.
pub(super) fn bundle(value: &Dynamic) -> Media {
    let Faces { svg, html, text } = Faces::of(value);
    let faces = [svg.map(MediaType::Svg), html.map(MediaType::Html), Some(MediaType::Plain(text))];
    Media::new(faces.into_iter().flatten().collect())
}

/// The message that shows a value in the middle of a cell.
pub(super) fn shown(value: &Dynamic) -> DisplayData {
    // The protocol's schema wants an object here, though it may be empty.
    DisplayData { transient: Some(Transient::default()), ..DisplayData::new(bundle(value)) }
}

/// The message that shows a cell's value.
pub(super) fn result(count: ExecutionCount, data: Media) -> ExecuteResult {
    ExecuteResult { transient: Some(Transient::default()), ..ExecuteResult::new(count, data) }
}

/// Text alone.
pub(super) fn plain(text: String) -> Media {
    Media::new(vec![MediaType::Plain(text)])
}
