//! What the arithmetic has to know of a model: its parameters' shapes, the bytes that each takes, and which are trained.

use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::decoder::{Decoder, stored_name};
use crate::model::family::Part;
use crate::model::precision::Precision;
use crate::model::projection::{Pass, Slot};
use crate::model::shapes::{ParameterShape, PartShape, Place};
use crate::model::source::Source;
use candle_core::DType;
use candle_core::quantized::GgmlDType;

/// Bytes that a tokenizer takes for each of its tokens, with what reading it leaves behind.
const TOKENIZER: u64 = 800;

/// How a file stores a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// As floats.
    Float(DType),
    /// In quantised blocks.
    Blocks(GgmlDType),
}

/// A parameter.
#[derive(Debug, Clone)]
pub struct OutlinedParameter {
    /// Where it is.
    pub place: Place,
    /// Its shape.
    pub dims: Vec<usize>,
    /// The bytes that it takes in memory.
    pub bytes: u64,
    /// Whether an optimiser that trains it keeps an exact copy beside it.
    pub half: bool,
    /// Whether it is trained.
    pub trains: bool,
}

/// The low-rank change of a projection.
#[derive(Debug, Clone)]
pub struct OutlinedAdapter {
    /// The block that the projection is in; none: the head.
    pub block: Option<usize>,
    /// Width of what goes in.
    pub inputs: usize,
    /// Width of what comes out.
    pub outputs: usize,
    /// Its rank.
    pub rank: usize,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trained {
    /// Nothing.
    Nothing,
    /// Everything.
    All,
    /// An adapter of this rank on the projections whose names end with one of these; "all-linear": on all but the head.
    Adapter {
        /// The rank.
        rank: usize,
        /// The ends of the projections' names; none: those that PEFT takes for the family.
        targets: Vec<String>,
    },
}

/// A model as the arithmetic sees it.
#[derive(Debug, Clone)]
pub struct Outline<'a> {
    /// The configuration.
    pub config: &'a ModelConfig,
    /// The parameters of the base model.
    pub parameters: Vec<OutlinedParameter>,
    /// The adapter.
    pub adapters: Vec<OutlinedAdapter>,
    /// Bytes that the tokenizer takes.
    pub tokenizer: u64,
}

impl OutlinedParameter {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().map(|n| *n as u64).product()
    }
}

/// The name of a projection in a block, which an adapter can be put on.
pub(super) fn adaptable(shape: &ParameterShape) -> Option<&str> {
    let projection = matches!(shape.place, Place::Block(..)) && shape.dims.len() == 2;
    shape.name.strip_suffix(".weight").filter(|_| projection)
}

/// Whether a target is a projection's name, or its end after a point.
pub(super) fn is_target(module: &str, target: &str) -> bool {
    let ends = || module.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    target == "all-linear" || ends()
}

impl<'a> Outline<'a> {
    /// A model that is not loaded: by its files where there are some, else by its configuration.
    ///
    /// # Errors
    /// The files have a dtype that weights are not computed in.
    pub fn new(config: &'a ModelConfig, source: Option<&Source>, precision: Precision, trained: &Trained) -> Result<Self> {
        let shapes = config.parameter_shapes();
        let traits = config.family.traits();
        let defaults = || traits.lora_targets.iter().map(|name| name.to_string()).collect();
        let (rank, targets): (usize, Vec<String>) = match trained {
            Trained::Adapter { rank, targets } if targets.is_empty() => (*rank, defaults()),
            Trained::Adapter { rank, targets } => (*rank, targets.clone()),
            _ => (0, Vec::new()),
        };
        let adapted = |shape: &ParameterShape| match (shape.place, adaptable(shape)) {
            (Place::Block(block, _), Some(module)) if rank > 0 => {
                let meant = |target: &String| is_target(module, target);
                let adapter = OutlinedAdapter { block: Some(block), inputs: shape.dims[1], outputs: shape.dims[0], rank };
                targets.iter().any(meant).then_some(adapter)
            }
            _ => None,
        };
        let adapters = shapes.iter().filter_map(adapted).collect();
        let parameter = |shape: ParameterShape| {
            let name = source.map(|source| stored_name(source, traits.names.base, &shape.name));
            let stored = match (source, name) {
                (Some(source), Some(name)) if source.contains(&name) => source.stored(&name)?,
                _ => Stored::Float(config.dtype.unwrap_or(DType::F32)),
            };
            let (bytes, half) = in_memory(&shape.dims, stored, precision);
            let trains = *trained == Trained::All;
            Ok(OutlinedParameter { place: shape.place, dims: shape.dims, bytes, half, trains })
        };
        let parameters = shapes.into_iter().map(parameter).collect::<Result<_>>()?;
        Ok(Self { config, parameters, adapters, tokenizer: TOKENIZER * config.vocab_size as u64 })
    }

    /// A model that is loaded, with what is trained of it and its adapter.
    pub fn of_decoder(decoder: &'a Decoder) -> Self {
        let config = decoder.config();
        let slots = decoder.slots();
        // The order of both is that of PyTorch; a head that an adapter trains in place of a tied one comes last.
        let places = config.parameter_shapes().into_iter().map(|shape| shape.place).chain([Place::Head]);
        let outlined = |(place, (_, slot)): (Place, &(String, &Slot))| {
            let parameter = slot.current();
            let half = parameter.dtype() != DType::F32;
            let bytes = parameter.size_in_bytes() as u64;
            OutlinedParameter { place, dims: parameter.dims(), bytes, half, trains: parameter.requires_grad() }
        };
        let parameters = places.zip(&slots).map(outlined).collect();
        let per_block = config.family.traits().names.parts.iter().filter(|(part, _)| is_projection(config, *part)).count();
        let mut adapters = Vec::new();
        for (place, (_, projection)) in decoder.projections().into_iter().enumerate() {
            let (inputs, outputs) = projection.features();
            let block = Some(place / per_block.max(1)).filter(|block| *block < config.num_hidden_layers);
            let ranks = projection.layer(0, Pass::default()).map(|layer| layer.changes.low_ranks).unwrap_or_default();
            adapters.extend(ranks.iter().map(|low| OutlinedAdapter { block, inputs, outputs, rank: low.a.dims()[0] }));
        }
        // A model that is loaded has its tokenizer already.
        Self { config, parameters, adapters, tokenizer: 0 }
    }

    /// The bytes of the base model's weights.
    pub fn weights(&self) -> u64 {
        self.parameters.iter().map(|parameter| parameter.bytes).sum()
    }

    /// The number of the base model's parameters.
    pub fn count(&self) -> u64 {
        self.parameters.iter().map(OutlinedParameter::elements).sum()
    }

    /// The number of the adapter's parameters.
    pub fn adapter_count(&self) -> u64 {
        self.adapters.iter().map(|adapter| (adapter.rank * (adapter.inputs + adapter.outputs)) as u64).sum()
    }
}

fn is_projection(config: &ModelConfig, part: Part) -> bool {
    matches!(config.part_shape(part), PartShape::Projection { .. })
}

/// The bytes of a tensor in memory, and whether it is held in half floats. As [`Source::parameter`] loads it.
fn in_memory(dims: &[usize], stored: Stored, precision: Precision) -> (u64, bool) {
    let elements: u64 = dims.iter().map(|n| *n as u64).product();
    let float = |dtype: DType| (elements * dtype.size_in_bytes() as u64, dtype != DType::F32);
    let blocks = |blocks: GgmlDType| (elements / blocks.block_size() as u64 * blocks.type_size() as u64, false);
    match (precision, precision.blocks(), stored) {
        (Precision::Float(dtype), ..) => float(dtype),
        (_, None, Stored::Float(dtype)) => float(dtype),
        (_, None, Stored::Blocks(_)) => float(DType::F32),
        // Vectors are small, and everything multiplies by them.
        (_, Some(_), _) if dims.len() == 1 => float(DType::F32),
        (_, Some(_), Stored::Blocks(kind)) => blocks(kind),
        (_, Some(wanted), Stored::Float(_)) if dims[1].is_multiple_of(wanted.block_size()) => blocks(wanted),
        (_, Some(_), Stored::Float(dtype)) => float(dtype),
    }
}
