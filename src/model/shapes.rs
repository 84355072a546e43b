//! The shapes of a model's parameters, by its configuration alone.

use super::config::ModelConfig;
use super::family::Part;
use crate::ops::norm::NormKind;

/// What a part of a block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartShape {
    /// A matrix `[outputs, inputs]`, and a vector of biases `[outputs]` where it has one.
    Projection {
        /// Width of what goes in.
        inputs: usize,
        /// Width of what comes out.
        outputs: usize,
        /// Whether it has biases.
        bias: bool,
    },
    /// A norm of vectors of this width.
    Norm(usize),
}

/// Where a parameter is in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The embedding of tokens; the head too, where that is tied.
    Embedding,
    /// The embedding of positions.
    Positions,
    /// A part of the block with this number.
    Block(usize, Part),
    /// The norm after the blocks.
    Norm,
    /// A head of its own.
    Head,
}

/// A parameter's place, name and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterShape {
    /// Where it is.
    pub place: Place,
    /// Its Hugging Face name.
    pub name: String,
    /// Its shape as it is computed with, `[outputs, inputs]`.
    pub dims: Vec<usize>,
}

impl ModelConfig {
    /// The shape of a part of a block.
    pub fn part_shape(&self, part: Part) -> PartShape {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (queries, keys) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let head_norm = |width: usize| PartShape::Norm(if self.norm_of_all_heads { width } else { self.head_dim });
        let projection = |inputs, outputs, bias| PartShape::Projection { inputs, outputs, bias };
        match part {
            Part::Query => projection(hidden, queries, self.query_key_value_bias),
            Part::Key | Part::Value => projection(hidden, keys, self.query_key_value_bias),
            Part::QueryKeyValue => projection(hidden, queries + 2 * keys, self.query_key_value_bias),
            Part::Output => projection(queries, hidden, self.output_bias),
            Part::Gate | Part::Up => projection(hidden, inner, self.mlp_bias),
            Part::GateUp => projection(hidden, 2 * inner, self.mlp_bias),
            Part::Down => projection(inner, hidden, self.mlp_bias),
            Part::QueryNorm => head_norm(queries),
            Part::KeyNorm => head_norm(keys),
            Part::InputNorm | Part::AttentionNorm | Part::InnerNorm | Part::OutputNorm => PartShape::Norm(hidden),
        }
    }

    /// Every parameter, in PyTorch's order; a tied head is not listed again.
    pub fn parameter_shapes(&self) -> Vec<ParameterShape> {
        let names = self.family.traits().names;
        let mut all = Vec::new();
        let mut add = |place, name: String, dims: Vec<usize>| all.push(ParameterShape { place, name, dims });
        add(Place::Embedding, format!("{}.weight", names.embedding), vec![self.vocab_size, self.hidden_size]);
        if let Some(positions) = names.positions {
            add(Place::Positions, format!("{positions}.weight"), vec![self.max_position_embeddings, self.hidden_size]);
        }
        let norm_bias = self.norm == NormKind::Layer;
        for block in 0..self.num_hidden_layers {
            for (part, name) in names.parts {
                let (place, name) = (Place::Block(block, *part), format!("{}.{block}.{name}", names.blocks));
                let (weight, bias) = match self.part_shape(*part) {
                    PartShape::Projection { inputs, outputs, bias } => (vec![outputs, inputs], bias.then_some(outputs)),
                    PartShape::Norm(width) => (vec![width], norm_bias.then_some(width)),
                };
                add(place, format!("{name}.weight"), weight);
                if let Some(width) = bias {
                    add(place, format!("{name}.bias"), vec![width]);
                }
            }
        }
        add(Place::Norm, format!("{}.weight", names.norm), vec![self.hidden_size]);
        if norm_bias {
            add(Place::Norm, format!("{}.bias", names.norm), vec![self.hidden_size]);
        }
        if !self.tie_word_embeddings {
            add(Place::Head, "lm_head.weight".into(), vec![self.vocab_size, self.hidden_size]);
        }
        all
    }
}
