//! What a value looks like in a notebook: one bundle of SVG, HTML and text, from which the front end takes the richest that it shows.

use crate::script::display;
use crate::script::result::blocks;
use crate::show::Block;
use rhai::Dynamic;

/// Columns of the text face: about what a notebook shows without wrapping.
pub const WIDTH: usize = 100;

/// The faces of one value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faces {
    /// The figure, where the value is one or holds one.
    pub svg: Option<String>,
    /// Everything, for notebooks.
    pub html: Option<String>,
    /// Everything, for terminals.
    pub text: String,
}

impl Faces {
    /// Of a value of the language.
    pub fn of(value: &Dynamic) -> Self {
        match blocks(value) {
            Some(blocks) => Self::of_blocks(&blocks),
            None => Self { svg: None, html: display::html(value), text: display::brief(value) },
        }
    }

    /// Of something already taken apart.
    pub fn of_blocks(blocks: &[Block]) -> Self {
        let svg = blocks.iter().find_map(|block| match block {
            Block::Figure(figure) => Some(figure.svg()),
            _ => None,
        });
        let html = blocks.iter().map(html).collect();
        let text = blocks.iter().map(|block| block.text(WIDTH, false)).collect::<Vec<_>>().join("\n");
        Self { svg, html: Some(html), text }
    }

    /// MIME types and contents, the richest first.
    pub fn bundle(self) -> Vec<(&'static str, String)> {
        let rich = [("image/svg+xml", self.svg), ("text/html", self.html)];
        let rich = rich.into_iter().filter_map(|(kind, face)| face.map(|face| (kind, face)));
        rich.chain([("text/plain", self.text)]).collect()
    }
}

/// As [`Block::html`], with figures as images: notebooks take drawings out of the HTML of files that they do not trust yet.
fn html(block: &Block) -> String {
    match block {
        Block::Figure(figure) => figure.image(),
        other => other.html(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;

    #[test]
    fn a_training_has_all_three_faces_and_a_number_has_one() {
        let mut session = Session::builder().device("cpu").build().unwrap();
        let run = "#{ train_loss: 2.5, steps: 2, log_history: [#{ step: 1, loss: 3.0 }, #{ step: 2, loss: 2.0 }] }";
        let faces = Faces::of(&session.eval_line(run).unwrap());
        assert!(faces.svg.as_deref().is_some_and(|svg| svg.starts_with("<svg")));
        assert!(
            faces
                .html
                .as_deref()
                .is_some_and(|html| html.contains("train_loss 2.5000") && html.contains("<img src=\"data:image/svg+xml,%3Csvg"))
        );
        assert!(faces.text.starts_with("train_loss 2.5000"));
        let long = session.eval_line("let a = []; for i in 0..5000 { a.push(i); } a").unwrap();
        assert_eq!(Faces::of(&long).text, "[0, 1, 2, ... 4994 more ..., 4997, 4998, 4999]");
        assert_eq!(Faces::of(&2i64.into()).bundle(), [("text/plain", "2".to_string())]);
    }
}
