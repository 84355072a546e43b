//! One block of the decoder: its parameters by part, and its forward pass, as one operation where the device has it and as a
//! composition of operations elsewhere.

use super::config::ModelConfig;
use super::family::Part;
use super::projection::{Pass, Projection, Slot};
use super::shapes::PartShape;
use crate::error::Result;
use crate::nn::Parameter;
use crate::ops::attention::{AttentionSpec, attention, attention_with_dropout};
use crate::ops::block::{Block as FusedBlock, BlockLayers, Inner, Mixer};
use crate::ops::cache::{KvCache, cached_attention};
use crate::ops::dropout::masked;
use crate::ops::gated::{Activation, activate, gated};
use crate::ops::norm::{Norm, NormKind};
use crate::ops::rope::{RopeTable, rope};
use crate::ops::{fused_for, gpu};
use candle_core::{D, Tensor};
use std::sync::Arc;

/// A norm's parameters, each in a slot.
pub(super) struct NormSlots {
    pub weight: Slot,
    pub bias: Option<Slot>,
    kind: NormKind,
    eps: f64,
}

impl NormSlots {
    /// A norm as the configuration wants it, whose parameters `get` finds by the end of their names and their width.
    pub fn new(config: &ModelConfig, width: usize, get: impl Fn(&str, &[usize]) -> Result<Parameter>) -> Result<Self> {
        let bias = if config.norm == NormKind::Layer { Some(get("bias", &[width])?) } else { None };
        let weight = Slot::new(get("weight", &[width])?);
        Ok(Self { weight, bias: bias.map(Slot::new), kind: config.norm, eps: config.norm_eps })
    }

    /// Weight and bias.
    pub fn slots(&self) -> (&Slot, Option<&Slot>) {
        (&self.weight, self.bias.as_ref())
    }

    /// The norm with the parameters in use.
    pub fn current(&self) -> Norm {
        let bias = self.bias.as_ref().map(Slot::current);
        Norm { kind: self.kind, weight: self.weight.current(), bias, eps: self.eps }
    }
}

/// A part of a block.
pub(super) enum Module {
    Projection(Projection),
    Norm(NormSlots),
}

impl Module {
    /// Weight and bias.
    pub fn slots(&self) -> (&Slot, Option<&Slot>) {
        match self {
            Self::Projection(projection) => (&projection.weight, projection.bias.as_ref()),
            Self::Norm(norm) => norm.slots(),
        }
    }
}

/// One block of the decoder.
pub(super) struct Block {
    /// The parts under their names, in the order in which PyTorch lists their parameters.
    parts: Vec<(Part, &'static str, Module)>,
    activation: Activation,
    residual_scale: f32,
    residual_dropout: f64,
    attention_dropout: f64,
    /// Which of the kinds of layers that the model has.
    kind: usize,
}

/// Finds a parameter by its name within the block, its shape, and whether a file has it transposed.
pub(super) type Find<'a> = &'a dyn Fn(&str, &[usize], bool) -> Result<Parameter>;

/// What the blocks of one forward pass share.
pub(super) struct Shared<'a> {
    /// By the kinds of layers: the angles of the tokens' positions, and heads and sequences.
    pub kinds: Vec<(Option<RopeTable>, Arc<AttentionSpec>)>,
    pub pass: Pass<'a>,
}

impl Block {
    /// A block with its parameters.
    pub fn load(config: &ModelConfig, kind: usize, get: Find<'_>) -> Result<Self> {
        let c = config;
        let traits = c.family.traits();
        let module = |part: Part, name: &str| -> Result<Module> {
            match c.part_shape(part) {
                PartShape::Norm(width) => {
                    NormSlots::new(c, width, |end, shape| get(&format!("{name}.{end}"), shape, false)).map(Module::Norm)
                }
                PartShape::Projection { inputs, outputs, bias } => {
                    let weight = get(&format!("{name}.weight"), &[outputs, inputs], traits.transposed)?;
                    let bias = if bias { Some(get(&format!("{name}.bias"), &[outputs], false)?) } else { None };
                    Ok(Module::Projection(Projection::new(weight, bias).stored_transposed(traits.transposed)))
                }
            }
        };
        let parts = traits.names.parts.iter().map(|(part, name)| Ok((*part, *name, module(*part, name)?)));
        Ok(Self {
            parts: parts.collect::<Result<_>>()?,
            activation: c.activation,
            residual_scale: c.scales.residual as f32,
            residual_dropout: c.dropout.residual,
            attention_dropout: c.dropout.attention,
            kind,
        })
    }

    /// The parts under their names, in the order in which PyTorch lists their parameters.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Module)> {
        self.parts.iter().map(|(_, name, module)| (*name, module))
    }

    /// The projection that is this part, if the block has it.
    pub fn projection(&self, part: Part) -> Option<&Projection> {
        self.parts.iter().find_map(|(p, _, module)| match module {
            Module::Projection(projection) if *p == part => Some(projection),
            _ => None,
        })
    }

    fn norm(&self, part: Part) -> Option<Norm> {
        self.parts.iter().find_map(|(p, _, module)| match module {
            Module::Norm(norm) if *p == part => Some(norm.current()),
            _ => None,
        })
    }

    fn needed(&self, part: Part) -> Result<&Projection> {
        let missing = || crate::Error::argument(format!("this family's blocks have no {part:?}; its table is incomplete"));
        self.projection(part).ok_or_else(missing)
    }

    /// Whether the pass drops something within the block.
    fn drops(&self, pass: Pass<'_>) -> bool {
        pass.dropout.is_some() && (self.residual_dropout > 0.0 || self.attention_dropout > 0.0)
    }

    /// The block as one operation, for a device that has it; none where the pass drops something that the operation does not.
    pub fn fused(&self, tokens: usize, shared: &Shared<'_>) -> Result<Option<FusedBlock>> {
        if self.drops(shared.pass) {
            return Ok(None);
        }
        let layer = |part: Part| self.needed(part)?.layer(tokens, shared.pass);
        // The layers' dropout masks are drawn in the order of their use.
        let mixer = match self.projection(Part::QueryKeyValue) {
            Some(joint) => Mixer::Joint(joint.layer(tokens, shared.pass)?),
            None => Mixer::Apart([layer(Part::Query)?, layer(Part::Key)?, layer(Part::Value)?]),
        };
        let o = layer(Part::Output)?;
        let inner = match (self.projection(Part::GateUp), self.projection(Part::Gate)) {
            (Some(joint), _) => Inner::Joint(joint.layer(tokens, shared.pass)?),
            (None, Some(gate)) => Inner::Apart([gate.layer(tokens, shared.pass)?, layer(Part::Up)?]),
            (None, None) => Inner::Plain(layer(Part::Up)?),
        };
        let layers = BlockLayers {
            input_norm: self.norm(Part::InputNorm),
            mixer,
            q_norm: self.norm(Part::QueryNorm),
            k_norm: self.norm(Part::KeyNorm),
            o,
            attention_norm: self.norm(Part::AttentionNorm),
            inner_norm: self.norm(Part::InnerNorm),
            inner,
            activation: self.activation,
            down: layer(Part::Down)?,
            output_norm: self.norm(Part::OutputNorm),
            residual_scale: self.residual_scale,
        };
        let (rope, spec) = &shared.kinds[self.kind];
        Ok(Some(FusedBlock { layers: Arc::new(layers), rope: rope.clone(), spec: spec.clone() }))
    }

    /// Applies the block to `x` [tokens, hidden]; `cache` is the block's index and what came before, to which it adds.
    pub fn forward(&self, x: &Tensor, shared: &Shared<'_>, cache: Option<(usize, &mut [&mut KvCache])>) -> Result<Tensor> {
        let (on_tensors, fused) = (gpu::serves(x), fused_for(x));
        match (if on_tensors || fused { self.fused(x.dim(0)?, shared)? } else { None }, &cache) {
            (Some(block), None) if on_tensors && gpu::serve_blocks(std::slice::from_ref(&block)) => {
                return Ok(gpu::apply_blocks(vec![block], x)?);
            }
            (Some(block), None) if fused => return Ok(crate::ops::stack::apply_blocks(vec![block], x)?),
            (Some(block), Some(_)) if fused => {
                if let Some((layer, caches)) = cache {
                    return Ok(block.apply_cached(x, layer, caches)?);
                }
            }
            _ => {}
        }
        let pass = shared.pass;
        let (table, spec) = &shared.kinds[self.kind];
        let normal = normed(self.norm(Part::InputNorm), x)?;
        let [q, k, v] = self.queries_keys_values(&normal, spec, pass)?;
        let turned = |x: Tensor, norm: Option<Norm>| -> Result<Tensor> {
            let x = by_head(norm, &x)?;
            Ok(match table {
                Some(table) => rope(&x, table)?,
                None => x,
            })
        };
        let (q, k) = (turned(q, self.norm(Part::QueryNorm))?, turned(k, self.norm(Part::KeyNorm))?);
        let mixed = match (cache, pass.dropout.filter(|_| self.attention_dropout > 0.0)) {
            (Some((layer, caches)), _) => cached_attention(&q, &k, &v, spec, layer, caches)?,
            (None, None) => attention(&q, &k, &v, (**spec).clone())?,
            (None, Some(random)) => {
                let mask = |elements| Arc::new(random.borrow_mut().dropout_mask(elements, self.attention_dropout));
                attention_with_dropout(&q, &k, &v, spec, &mask)?
            }
        };
        let added = normed(self.norm(Part::AttentionNorm), &self.needed(Part::Output)?.forward(&mixed, pass)?)?;
        let x = (x + self.branch(added, pass)?)?;
        let normal = normed(self.norm(Part::InnerNorm), &x)?;
        let inner = self.inner(&normal, pass)?;
        let added = normed(self.norm(Part::OutputNorm), &self.needed(Part::Down)?.forward(&inner, pass)?)?;
        Ok((&x + self.branch(added, pass)?)?)
    }

    fn queries_keys_values(&self, x: &Tensor, spec: &AttentionSpec, pass: Pass<'_>) -> Result<[Tensor; 3]> {
        let Some(joint) = self.projection(Part::QueryKeyValue) else {
            let part = |part| self.needed(part)?.forward(x, pass);
            return Ok([part(Part::Query)?, part(Part::Key)?, part(Part::Value)?]);
        };
        let together = joint.forward(x, pass)?;
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let columns = |from, width| together.narrow(D::Minus1, from, width)?.contiguous();
        Ok([columns(0, queries)?, columns(queries, keys)?, columns(queries + keys, keys)?])
    }

    fn inner(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        if let Some(joint) = self.projection(Part::GateUp) {
            let together = joint.forward(x, pass)?;
            let half = together.dim(D::Minus1)? / 2;
            let columns = |from| together.narrow(D::Minus1, from, half)?.contiguous();
            return Ok(gated(self.activation, &columns(0)?, &columns(half)?)?);
        }
        match self.projection(Part::Gate) {
            Some(gate) => {
                let gate = gate.forward(x, pass)?;
                Ok(gated(self.activation, &gate, &self.needed(Part::Up)?.forward(x, pass)?)?)
            }
            None => Ok(activate(self.activation, &self.needed(Part::Up)?.forward(x, pass)?)?),
        }
    }

    /// What is added to the residual stream.
    fn branch(&self, added: Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let added = dropped(added, self.residual_dropout, pass)?;
        Ok(if self.residual_scale == 1.0 { added } else { (added * f64::from(self.residual_scale))? })
    }
}

fn normed(norm: Option<Norm>, x: &Tensor) -> Result<Tensor> {
    Ok(match norm {
        Some(norm) => norm.apply(x)?,
        None => x.clone(),
    })
}

/// Norms every head of `x` [tokens, heads * head_dim], or all together, by the norm's width.
fn by_head(norm: Option<Norm>, x: &Tensor) -> Result<Tensor> {
    let Some(norm) = norm else { return Ok(x.clone()) };
    let width = norm.weight.elem_count();
    Ok(norm.apply(&x.contiguous()?.reshape(((), width))?)?.reshape(x.shape())?)
}

/// Drops elements with a probability, in a pass that does.
pub(super) fn dropped(x: Tensor, probability: f64, pass: Pass<'_>) -> Result<Tensor> {
    match pass.dropout.filter(|_| probability > 0.0) {
        Some(random) => {
            let mask = random.borrow_mut().dropout_mask(x.elem_count(), probability);
            Ok(masked(&x, Arc::new(mask))?)
        }
        None => Ok(x),
    }
}
