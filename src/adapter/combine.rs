//! Adapters added up to a new one, by PEFT's `add_weighted_adapter`.
//!
//! "linear", "ties", "dare_linear", "dare_ties" and "magnitude_prune" work on A and B apart, each with `sqrt(|weight * scaling|)` and the
//! sign on A; "cat" puts the adapters side by side, exactly; the others, named "svd", work on the weights' changes and keep their largest
//! singular values. TIES is Yadav et al. 2023 (arXiv 2306.01708), DARE Yu et al. 2023 (arXiv 2311.03099).
//!
//! The result's scale is 1. PEFT's is too, but where the first adapter has `use_rslora`: it is the square root of the rank there, by which the
//! result is more than the sum.

use super::config::{Bias, LoraConfig, MOST_RANK, TargetModules};
use super::decompose::{Dense, singular};
use super::lora::LoraLayer;
use super::peft::Adapter;
use super::target::targets;
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::nn::Parameter;
use crate::random::Random;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How adapters are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the module says what they do")]
pub enum Combination {
    #[default]
    Svd,
    Linear,
    Cat,
    Ties,
    TiesSvd,
    DareLinear,
    DareTies,
    DareLinearSvd,
    DareTiesSvd,
    MagnitudePrune,
    MagnitudePruneSvd,
}

/// How a value's sign is elected in TIES.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MajoritySign {
    /// The sign of the sum.
    #[default]
    Total,
    /// The sign that most have.
    Frequency,
}

/// Options of a combination.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CombineOptions {
    /// "svd" (default), "linear", "cat", "ties", "dare_linear", "dare_ties", "magnitude_prune", and with "_svd" behind it each of the last four.
    pub combination_type: Combination,
    /// Rank of the result with "svd"; default: the largest of the adapters' ranks.
    pub svd_rank: Option<usize>,
    /// Quantile at which the result's values are cut off with "svd"; default: they are not. It is one of values with their signs, and a pair
    /// of singular vectors may have either sign: another program may cut off elsewhere.
    pub svd_clamp: Option<f64>,
    /// Share of the values that "ties", "dare_linear", "dare_ties" and "magnitude_prune" keep.
    pub density: Option<f64>,
    /// Whose sign wins with "ties" and "dare_ties": "total" (default) or "frequency".
    pub majority_sign_method: MajoritySign,
}

/// How values of several adapters become one.
#[derive(Clone, Copy, PartialEq)]
enum Sum {
    Plain,
    Ties,
    DarePlain,
    DareTies,
    Prune,
}

impl Combination {
    fn sum(self) -> Sum {
        match self {
            Self::Svd | Self::Linear | Self::Cat => Sum::Plain,
            Self::Ties | Self::TiesSvd => Sum::Ties,
            Self::DareLinear | Self::DareLinearSvd => Sum::DarePlain,
            Self::DareTies | Self::DareTiesSvd => Sum::DareTies,
            Self::MagnitudePrune | Self::MagnitudePruneSvd => Sum::Prune,
        }
    }

    fn by_svd(self) -> bool {
        matches!(self, Self::Svd | Self::TiesSvd | Self::DareLinearSvd | Self::DareTiesSvd | Self::MagnitudePruneSvd)
    }
}

impl CombineOptions {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Argument(format!("add_weighted_adapter: {message}")));
        match self.density {
            Some(density) if !(0.0..=1.0).contains(&density) => return refuse(format!("density must be 0 to 1, got {density}")),
            None if self.combination_type.sum() != Sum::Plain => {
                return refuse("this combination_type needs density, the share of the values to keep, for example 0.5".into());
            }
            _ => {}
        }
        match (self.svd_clamp, self.svd_rank) {
            (Some(clamp), _) if !(0.0..=1.0).contains(&clamp) => refuse(format!("svd_clamp must be 0 to 1, got {clamp}")),
            (_, Some(rank)) if !(1..=MOST_RANK).contains(&rank) => {
                refuse(format!("svd_rank must be 1 to {MOST_RANK}, got {rank}"))
            }
            _ => Ok(()),
        }
    }
}

/// A matrix of a layer.
struct Matrix {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Matrix {
    fn of(tensor: &Tensor) -> Result<Self> {
        let (rows, columns) = tensor.dims2()?;
        let values = tensor.to_device(&Device::Cpu)?.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Self { values, rows, columns })
    }
}

/// A new adapter that is the weighted sum of others; it is frozen, and does not act yet.
///
/// # Errors
/// Adapters that cannot be added, or options out of range.
pub(super) fn combine(
    adapters: &[(&Adapter, f64)],
    name: &str,
    options: &CombineOptions,
    decoder: &Decoder,
    random: &mut Random,
) -> Result<Adapter> {
    options.validate()?;
    let Some((first, _)) = adapters.first() else {
        return Err(Error::argument("add_weighted_adapter needs the names of some adapters"));
    };
    adapters.iter().try_for_each(|(adapter, _)| check(adapter))?;
    let kind = if adapters.len() == 1 { Combination::Linear } else { options.combination_type };
    let ranks: Vec<usize> = adapters.iter().map(|(adapter, _)| largest_rank(adapter.config())).collect();
    let most = ranks.iter().copied().max().unwrap_or(1);
    let rank = match kind {
        Combination::Cat => ranks.iter().sum(),
        kind if kind.by_svd() => options.svd_rank.unwrap_or(most),
        _ if ranks.iter().any(|rank| *rank != most) => {
            return Err(Error::Argument(format!(
                "add_weighted_adapter: this combination_type needs adapters of the same r, these have {ranks:?}; use \"cat\" or \"svd\""
            )));
        }
        _ => most,
    };
    let mut layers = Vec::new();
    for (module, projection) in decoder.projections() {
        let found: Vec<(&LoraLayer, f64)> = adapters
            .iter()
            .filter_map(|(adapter, weight)| {
                let (_, layer) = adapter.layers().iter().find(|(name, _)| *name == module)?;
                Some((&**layer, *weight))
            })
            .collect();
        if found.is_empty() {
            continue;
        }
        let (inputs, outputs) = projection.features();
        let (a, b) = match kind {
            Combination::Cat => side_by_side(&found, rank)?,
            kind if kind.by_svd() => largest_part(&found, (kind, rank), options, random)?,
            kind => apart(&found, kind, options, random)?,
        };
        if a.len() != rank * inputs {
            return Err(Error::Argument(format!(
                "add_weighted_adapter: {module} has another rank than r; use \"cat\" or \"svd\""
            )));
        }
        let parameter = |values, shape: &[usize]| -> Result<Parameter> {
            let parameter = Parameter::from_vec(values, shape, &decoder.device())?;
            parameter.set_requires_grad(false);
            Ok(parameter)
        };
        let layer = LoraLayer {
            a: parameter(a, &[rank, inputs])?,
            b: parameter(b, &[outputs, rank])?,
            bias: None,
            magnitude: None,
            taken: None,
            scaling: 1.0,
            dropout: first.config().lora_dropout,
            norms: Arc::default(),
        };
        layers.push((module, Arc::new(layer)));
    }
    let modules: Vec<&str> = layers.iter().map(|(module, _)| module.as_str()).collect();
    let config = LoraConfig {
        r: rank,
        lora_alpha: rank as f64,
        target_modules: Some(names_of(&modules, decoder)),
        lora_dropout: first.config().lora_dropout,
        task_type: first.config().task_type.clone(),
        ..LoraConfig::default()
    };
    Ok(Adapter::of_layers(name, config, first.family(), layers))
}

/// Fails where an adapter is more than A and B.
fn check(adapter: &Adapter) -> Result<()> {
    let config = adapter.config();
    let why = match adapter.layers().iter().find_map(|(_, layer)| layer.taken.as_ref()) {
        Some(_) => "starts as a part of the weight (PiSSA or OLoRA): save it with convert_to_lora: true and load that",
        None if config.use_dora => "is a DoRA adapter, whose factors cannot be added",
        None if config.lora_bias => "has biases of its own (lora_bias)",
        None if adapter.embedding().is_some() || !adapter.tokens().is_empty() => "changes the embedding",
        None if !adapter.copies().is_empty() || config.bias != Bias::None => "has trained copies (modules_to_save or bias)",
        None => return Ok(()),
    };
    Err(Error::Argument(format!("add_weighted_adapter: the adapter \"{}\" {why}", adapter.name())))
}

fn largest_rank(config: &LoraConfig) -> usize {
    config.rank_pattern.values().copied().chain([config.r]).max().unwrap_or(config.r)
}

/// The shortest names that mean these modules and no others.
fn names_of(modules: &[&str], decoder: &Decoder) -> TargetModules {
    let mut kinds: Vec<String> = modules.iter().filter_map(|name| name.rsplit('.').next()).map(str::to_string).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let projections = decoder.projections();
    let all: Vec<&str> = projections.iter().map(|(name, _)| name.as_str()).collect();
    let config = LoraConfig { target_modules: Some(TargetModules::Names(kinds.clone())), ..LoraConfig::default() };
    match targets(&config, &all, &[]) {
        Ok(meant) if meant == modules => TargetModules::Names(kinds),
        _ => TargetModules::Names(modules.iter().map(|name| name.to_string()).collect()),
    }
}

/// A and B one below and beside the other, with zeros up to the rank.
fn side_by_side(layers: &[(&LoraLayer, f64)], rank: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    let (mut a, mut blocks) = (Vec::new(), Vec::new());
    let (mut inputs, mut outputs) = (0, 0);
    for (layer, weight) in layers {
        let (own_a, own_b) = (Matrix::of(&layer.a.value())?, Matrix::of(&layer.b.value())?);
        (inputs, outputs) = (own_a.columns, own_b.rows);
        let factor = (weight * layer.scaling) as f32;
        a.extend(own_a.values.iter().map(|v| v * factor));
        blocks.push(own_b);
    }
    a.resize(rank * inputs, 0.0);
    let mut b = vec![0.0; outputs * rank];
    for (output, row) in b.chunks_exact_mut(rank.max(1)).enumerate() {
        let values = blocks.iter().flat_map(|block| &block.values[output * block.columns..(output + 1) * block.columns]);
        row.iter_mut().zip(values).for_each(|(o, v)| *o = *v);
    }
    Ok((a, b))
}

/// A and B each summed.
fn apart(
    layers: &[(&LoraLayer, f64)],
    kind: Combination,
    options: &CombineOptions,
    random: &mut Random,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let factors: Vec<f64> = layers.iter().map(|(layer, weight)| weight * layer.scaling).collect();
    let of = |parameter: fn(&LoraLayer) -> &Parameter| -> Result<Vec<Matrix>> {
        layers.iter().map(|(layer, _)| Matrix::of(&parameter(layer).value())).collect()
    };
    let (a, b) = (of(|layer| &layer.a)?, of(|layer| &layer.b)?);
    if a.iter().any(|matrix| matrix.rows != a[0].rows) {
        return Err(Error::argument("add_weighted_adapter: the adapters have different ranks here; use \"cat\" or \"svd\""));
    }
    // A negative sum is one of A's: on both it would cancel.
    let roots: Vec<f32> = factors.iter().map(|f| (f.abs().sqrt() * f.signum()) as f32).collect();
    let positive: Vec<f32> = factors.iter().map(|f| f.abs().sqrt() as f32).collect();
    let values = |matrices: Vec<Matrix>| matrices.into_iter().map(|matrix| matrix.values).collect();
    Ok((sum(values(a), &roots, kind.sum(), options, random), sum(values(b), &positive, kind.sum(), options, random)))
}

/// The largest singular values of the summed changes.
fn largest_part(
    layers: &[(&LoraLayer, f64)],
    (kind, rank): (Combination, usize),
    options: &CombineOptions,
    random: &mut Random,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let changes = layers.iter().map(|(layer, _)| Matrix::of(&layer.weight_change()?)).collect::<Result<Vec<_>>>()?;
    let (rows, columns) = (changes[0].rows, changes[0].columns);
    let weights: Vec<f32> = layers.iter().map(|(_, weight)| *weight as f32).collect();
    let values = sum(changes.into_iter().map(|change| change.values).collect(), &weights, kind.sum(), options, random);
    let found = singular(&Dense { values: &values, rows, columns }, rank, &mut Random::new(0));
    let mut a: Vec<f32> = found.right.iter().flatten().map(|v| *v as f32).collect();
    a.resize(rank * columns, 0.0);
    let mut b = vec![0.0; rows * rank];
    for (place, (left, size)) in found.left.iter().zip(&found.values).enumerate() {
        left.iter().enumerate().for_each(|(row, v)| b[row * rank + place] = (v * size) as f32);
    }
    if let Some(share) = options.svd_clamp {
        cut_off(&mut a, &mut b, share);
    }
    Ok((a, b))
}

/// Bounds the values by their quantile at `share`, and by minus that.
fn cut_off(a: &mut [f32], b: &mut [f32], share: f64) {
    let limit = quantile(a.iter().chain(b.iter()).copied().collect(), share);
    // Where the quantile is below 0, all become it, as with PyTorch's `clamp`.
    a.iter_mut().chain(b).for_each(|v| *v = v.max(-limit).min(limit));
}

/// The value below which this share of the values lies, interpolated as PyTorch does.
fn quantile(mut values: Vec<f32>, share: f64) -> f32 {
    values.sort_by(f32::total_cmp);
    let place = share * (values.len().max(1) - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    match (values.get(below), values.get(above)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract() as f32,
        _ => 0.0,
    }
}

/// The weighted sum of several adapters' values.
fn sum(mut all: Vec<Vec<f32>>, weights: &[f32], kind: Sum, options: &CombineOptions, random: &mut Random) -> Vec<f32> {
    let density = options.density.unwrap_or(1.0);
    for values in &mut all {
        match kind {
            Sum::Plain => {}
            Sum::Ties | Sum::Prune => keep_largest(values, density),
            Sum::DarePlain | Sum::DareTies if density > 0.0 => {
                // What is kept is scaled up, so that the expectation stays.
                let mask = random.dropout_mask(values.len(), 1.0 - density);
                values.iter_mut().zip(mask).for_each(|(v, m)| *v *= m);
            }
            Sum::DarePlain | Sum::DareTies => values.fill(0.0),
        }
    }
    let at = |i: usize| all.iter().map(move |values| values[i]);
    let plain = |i: usize| at(i).zip(weights).map(|(v, w)| v * w).sum::<f32>();
    let elected = |i: usize| {
        let sign = |v: f32| if v == 0.0 { 0.0 } else { v.signum() };
        let sum: f32 = match options.majority_sign_method {
            MajoritySign::Total => at(i).sum(),
            MajoritySign::Frequency => at(i).map(sign).sum(),
        };
        let majority = if sum >= 0.0 { 1.0 } else { -1.0 };
        let chosen = || at(i).zip(weights).filter(|(v, _)| sign(*v) == majority);
        chosen().map(|(v, w)| v * w).sum::<f32>() / (chosen().count().max(1)) as f32
    };
    let count = all.first().map_or(0, Vec::len);
    (0..count).map(|i| if matches!(kind, Sum::Ties | Sum::DareTies) { elected(i) } else { plain(i) }).collect()
}

/// Sets all but the largest values to zero.
fn keep_largest(values: &mut [f32], density: f64) {
    let keep = (density * values.len() as f64) as usize;
    if density >= 1.0 || keep >= values.len() {
        return;
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.select_nth_unstable_by(keep, |i, j| values[*j].abs().total_cmp(&values[*i].abs()));
    order[keep..].iter().for_each(|i| values[*i] = 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(density: f64) -> CombineOptions {
        CombineOptions { density: Some(density), ..CombineOptions::default() }
    }

    #[test]
    fn the_largest_are_kept_whatever_their_sign() {
        let mut values = [0.1, -4.0, 3.0, 0.0, -0.2, 5.0, 1.0];
        keep_largest(&mut values, 0.5);
        assert_eq!(values, [0.0, -4.0, 3.0, 0.0, 0.0, 5.0, 0.0]);
        keep_largest(&mut values, 0.0);
        assert_eq!(values, [0.0; 7]);
        keep_largest(&mut [], 0.5);
    }

    #[test]
    fn quantiles_are_interpolated_as_in_pytorch() {
        // torch.quantile(torch.tensor([3.0, -1.0, 0.5, 2.0]), q)
        for (share, expected) in [(0.0, -1.0), (0.25, 0.125), (0.5, 1.25), (0.9, 2.7), (1.0, 3.0)] {
            assert!((quantile(vec![3.0, -1.0, 0.5, 2.0], share) - expected).abs() < 1e-6, "{share}");
        }
    }

    #[test]
    fn singular_vectors_are_cut_off_as_by_peft() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/peft/several/clamp.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let values = |name: &str| golden[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for share in ["0.2", "0.9", "1.0"] {
            let (mut a, mut b) = (values("a.whole"), values("b.whole"));
            cut_off(&mut a, &mut b, share.parse().unwrap());
            for (name, found) in [("a", a), ("b", b)] {
                let expected = values(&format!("{name}.{share}"));
                assert_eq!(found.len(), expected.len());
                found.iter().zip(expected).for_each(|(v, w)| assert!((v - w).abs() < 1e-6, "{name}.{share}: {v} {w}"));
            }
        }
    }

    #[test]
    fn signs_are_elected_by_size_or_by_number() {
        let all = || vec![vec![3.0, -1.0], vec![-1.0, -1.0], vec![-1.0, 0.0]];
        let elected = |majority_sign_method| {
            let options = CombineOptions { majority_sign_method, ..options(1.0) };
            sum(all(), &[1.0, 0.5, 0.25], Sum::Ties, &options, &mut Random::new(0))
        };
        assert_eq!(elected(MajoritySign::Total), [3.0, -0.75]);
        assert_eq!(elected(MajoritySign::Frequency), [-0.375, -0.75]);
    }

    /// What is dropped at random is made up for: each value is the sum of some of its terms over the density, and their mean is the sum.
    #[test]
    fn what_dare_drops_keeps_the_expectation() {
        const COUNT: usize = 100_000;
        let (weights, density) = ([0.5, -0.25], 0.3);
        let all = vec![vec![1.0; COUNT], vec![2.0; COUNT]];
        let found = sum(all.clone(), &weights, Sum::DarePlain, &options(density), &mut Random::new(7));
        let terms = [0.5 / 0.3, -0.5 / 0.3].map(|term: f32| [0.0, term]);
        let possible = |v: f32| terms[0].iter().any(|a| terms[1].iter().any(|b| (a + b - v).abs() < 1e-5));
        assert!(found.iter().all(|v| possible(*v)));
        // Both terms are 0.5 in size: the variance of a value is 2 * 0.25 * 0.7 / 0.3, and five deviations of the mean are 0.017.
        let mean = found.iter().map(|v| f64::from(*v)).sum::<f64>() / COUNT as f64;
        assert!(mean.abs() < 0.017, "{mean}");
        let one = sum(all[..1].to_vec(), &weights[..1], Sum::DarePlain, &options(density), &mut Random::new(8));
        let mean = one.iter().map(|v| f64::from(*v)).sum::<f64>() / COUNT as f64;
        assert!((mean - 0.5).abs() < 0.013, "{mean}");
        let kept = one.iter().filter(|v| **v != 0.0).count() as f64 / COUNT as f64;
        assert!((kept - density).abs() < 0.008, "{kept}");
        // With density 1 nothing is drawn, with density 0 nothing is left.
        assert_eq!(sum(all.clone(), &weights, Sum::DarePlain, &options(1.0), &mut Random::new(9)), vec![0.0; COUNT]);
        assert_eq!(sum(all, &weights, Sum::DareTies, &options(0.0), &mut Random::new(9)), vec![0.0; COUNT]);
    }
}
