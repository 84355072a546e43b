//! A result as one bundle: SVG, HTML and text, from which the front end takes the richest that it can show.

use crate::script::display;
use crate::script::result::blocks;
use crate::show::Block;
use jupyter_protocol::{DisplayData, ExecuteResult, ExecutionCount, Media, MediaType, Transient};
use rhai::Dynamic;

/// Columns of the text face.
const WIDTH: usize = 100;

/// Every face of a value.
pub(super) fn bundle(value: &Dynamic) -> Media {
    let mut faces = Vec::new();
    match blocks(value) {
        Some(blocks) => {
            if let [Block::Figure(figure)] = blocks.as_slice() {
                faces.push(MediaType::Svg(figure.svg()));
            }
            faces.push(MediaType::Html(blocks.iter().map(Block::html).collect()));
            faces.push(MediaType::Plain(blocks.iter().map(|block| block.text(WIDTH, false)).collect::<Vec<_>>().join("\n")));
        }
        None => {
            faces.extend(display::html(value).map(MediaType::Html));
            faces.push(MediaType::Plain(display::repr(value)));
        }
    }
    Media::new(faces)
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
