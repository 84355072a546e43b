//! What evcxr shows of a cell's last value: SVG, HTML and text at once, from which the front end chooses.

use super::Shown;
use crate::data::Dataset;
use crate::eval::statistics::PairedDifference;
use crate::script::tensor::TensorValue;
use crate::session::faces::Faces;
use crate::show::{Block, Figure, Report, Table, Tone};
use crate::train::TrainResult;
use candle_core::Tensor;
use rhai::Dynamic;
use std::io::Write;

/// Shows a value in evcxr, which calls this method on what a cell ends with.
pub trait EvcxrDisplay {
    /// The value's faces.
    fn faces(&self) -> Faces;

    /// Writes the faces as evcxr reads them.
    fn evcxr_display(&self) {
        let mut text = String::new();
        for (kind, face) in self.faces().bundle() {
            if !face.is_empty() {
                text += &format!("EVCXR_BEGIN_CONTENT {kind}\n{face}\nEVCXR_END_CONTENT\n");
            }
        }
        // In one piece: other threads may print as well. A closed output is no reason to stop.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
}

impl EvcxrDisplay for Shown {
    fn faces(&self) -> Faces {
        self.faces.clone()
    }
}

impl EvcxrDisplay for Tensor {
    fn faces(&self) -> Faces {
        let value = TensorValue { tensor: self.detach(), leaf: None };
        let (shape, dtype) = (self.dims(), self.dtype().as_str());
        Faces { svg: None, html: None, text: format!("{value}\nshape {shape:?}, {dtype}") }
    }
}

impl EvcxrDisplay for Table {
    fn faces(&self) -> Faces {
        Faces::of_blocks(&[Block::Table(self.clone())])
    }
}

impl EvcxrDisplay for Figure {
    fn faces(&self) -> Faces {
        Faces::of_blocks(&[Block::Figure(self.clone())])
    }
}

impl EvcxrDisplay for Report {
    fn faces(&self) -> Faces {
        Faces::of_blocks(&self.sections.iter().flat_map(|section| section.blocks.clone()).collect::<Vec<_>>())
    }
}

impl EvcxrDisplay for Dataset {
    fn faces(&self) -> Faces {
        Faces::of(&Dynamic::from(self.clone()))
    }
}

impl EvcxrDisplay for TrainResult {
    fn faces(&self) -> Faces {
        match rhai::serde::to_dynamic(self) {
            Ok(value) => Faces::of(&value),
            Err(_) => Faces { text: format!("{self:?}"), ..Faces::default() },
        }
    }
}

impl EvcxrDisplay for PairedDifference {
    fn faces(&self) -> Faces {
        let (words, tone) = match (self.p_value < 0.05, self.drop > 0.0) {
            (true, true) => ("a drop that is no accident", Tone::Bad),
            (true, false) => ("a gain that is no accident", Tone::Good),
            (false, _) => ("no difference that could not be chance", Tone::Open),
        };
        let text = format!(
            "drop {:.1} points, 95 % interval {:.1} to {:.1}, p = {:.3}, n = {}: {} lost, {} gained",
            100.0 * self.drop,
            100.0 * self.interval.low,
            100.0 * self.interval.high,
            self.p_value,
            self.n,
            self.lost,
            self.gained
        );
        Faces::of_blocks(&[Block::Verdict(words.into(), tone), Block::Text(text)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::statistics::Interval;
    use crate::train::trainer::LogEntry;
    use candle_core::Device;

    #[test]
    fn the_librarys_types_have_faces() {
        let tensor = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
        assert_eq!(tensor.faces().text, "tensor([[1., 2.]])\nshape [1, 2], f32");
        let entry =
            |step, loss| LogEntry { step, epoch: 1.0, loss: Some(loss), grad_norm: None, learning_rate: None, eval_loss: None };
        let log_history = vec![entry(1, 3.0), entry(2, 2.0)];
        let run = TrainResult { train_loss: 2.5, steps: 2, tokens: 8, log_history, ..TrainResult::default() };
        let faces = run.faces();
        assert!(faces.text.starts_with("train_loss 2.5000, 2 steps") && faces.svg.is_some(), "{}", faces.text);
        let interval = Interval { low: 0.1, high: 0.3 };
        let difference = PairedDifference { n: 100, lost: 22, gained: 2, drop: 0.2, interval, p_value: 0.0001 };
        assert!(difference.faces().text.contains("no accident\ndrop 20.0 points"), "{}", difference.faces().text);
        let table = Table::new(["a"]);
        assert!(table.faces().html.is_some_and(|html| html.contains("<table>")));
    }
}
