//! What a notebook or a program in Rust needs at hand: `use ftrepl::prelude::*;`.

pub use crate::adapter::{LoraConfig, ModelHandle};
pub use crate::control::Control;
pub use crate::data::Dataset;
pub use crate::error::{Error, Result};
pub use crate::eval::statistics::{Interval, PairedDifference, wilson_interval};
pub use crate::model::Tokenizer;
pub use crate::model::lm::{GenerateOptions, LanguageModel};
pub use crate::notebook::{EvcxrDisplay, FromScript, IntoScript, Lab, LabError, Shown};
pub use crate::session::Session;
pub use crate::show::{Block, Figure, Plot, Point, Report, Section, Series, Table};
pub use crate::train::{TrainResult, Trainer, TrainingArguments};
pub use candle_core::{DType, Device, Tensor};
