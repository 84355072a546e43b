//! The frequencies of rotary position embeddings, by the rules that transformers has (`modeling_rope_utils.py`).

use super::config::ModelConfig;
use std::f64::consts::PI;

/// Which pairs of a head are turned by a position, and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many of a head's dimensions are turned, from the first; even.
    pub dims: usize,
    /// Change of the frequencies.
    pub scaling: RopeScaling,
}

/// How the frequencies are changed for contexts longer than those of pre-training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Unchanged (transformers' rope_type "default").
    Default,
    /// Every frequency divided by a factor (rope_type "linear").
    Linear {
        /// By how much positions are stretched.
        factor: f64,
    },
    /// A larger base for texts that are longer than the context of pre-training (rope_type "dynamic").
    Dynamic {
        /// By how much the context grows.
        factor: f64,
        /// The context of pre-training.
        original_max_position_embeddings: f64,
    },
    /// Llama 3.1's rule (rope_type "llama3"): long waves are stretched, short ones kept, those between interpolated.
    Llama3 {
        /// By how much long waves are stretched.
        factor: f64,
        /// Waves longer than `original_max_position_embeddings / low_freq_factor` are stretched in full.
        low_freq_factor: f64,
        /// Waves shorter than `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context of pre-training.
        original_max_position_embeddings: f64,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071; rope_type "yarn").
    Yarn {
        /// By how much slow pairs are stretched.
        factor: f64,
        /// Pairs that turn more often than this in the context of pre-training are kept.
        beta_fast: f64,
        /// Pairs that turn less often are stretched in full.
        beta_slow: f64,
        /// The context of pre-training.
        original_max_position_embeddings: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Whether the borders between kept and stretched pairs are whole numbers.
        truncate: bool,
    },
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753; rope_type "longrope"): a factor for every pair, and others for long texts.
    LongRope {
        /// Of texts within the context of pre-training.
        short_factor: Vec<f64>,
        /// Of longer ones.
        long_factor: Vec<f64>,
        /// The context of pre-training.
        original_max_position_embeddings: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
}

impl ModelConfig {
    /// The rotary inverse frequencies of texts within the context of pre-training; of the layers that see all positions where layers
    /// differ. Empty for a model that has none.
    pub fn inv_freq(&self) -> Vec<f32> {
        self.ropes.first().map(|rope| rope.inverse_frequencies(1)).unwrap_or_default()
    }
}

impl ModelConfig {
    /// The length of text beyond which the rotary frequencies are others, where they depend on it: what is cached of a text that
    /// grows over it has to be computed again.
    pub fn rope_changes_beyond(&self) -> Option<usize> {
        self.ropes.iter().find_map(Rope::changes_beyond)
    }
}

impl Rope {
    /// Position `p` turns pair `i` by the angle `p * inverse_frequencies[i]`, `[dims / 2]`, in a batch whose longest text has `longest`
    /// tokens. Computed in f32 as transformers does.
    pub fn inverse_frequencies(&self, longest: usize) -> Vec<f32> {
        let exponents = (0..self.dims).step_by(2).map(|i| i as f32 / self.dims as f32);
        let base: Vec<f32> = exponents.clone().map(|e| 1.0 / (self.theta as f32).powf(e)).collect();
        match &self.scaling {
            RopeScaling::Default => base,
            RopeScaling::Linear { factor } => base.iter().map(|f| f / *factor as f32).collect(),
            RopeScaling::Dynamic { factor, original_max_position_embeddings: original } => {
                if longest as f64 <= *original {
                    return base;
                }
                let dims = self.dims as f64;
                let grown = self.theta * (factor * longest as f64 / original - (factor - 1.0)).powf(dims / (dims - 2.0));
                exponents.map(|e| 1.0 / (grown as f32).powf(e)).collect()
            }
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
                let context = original_max_position_embeddings as f32;
                let scaled = |f: &f32| {
                    let wavelength = 2.0 * std::f32::consts::PI / f;
                    if wavelength > context / low {
                        f / factor
                    } else if wavelength < context / high {
                        *f
                    } else {
                        let smooth = (context / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                base.iter().map(scaled).collect()
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position_embeddings, truncate, .. } => {
                let turning = |turns: f64| {
                    let pair = (original_max_position_embeddings / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                    self.dims as f64 * pair
                };
                let (mut low, mut high) = (turning(*beta_fast), turning(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(self.dims as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let stretched = |(i, f): (usize, &f32)| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    f / *factor as f32 * ramp + f * (1.0 - ramp)
                };
                base.iter().enumerate().map(stretched).collect()
            }
            RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings, .. } => {
                let factors = if longest as f64 > *original_max_position_embeddings { long_factor } else { short_factor };
                exponents.zip(factors).map(|(e, factor)| 1.0 / (*factor as f32 * (self.theta as f32).powf(e))).collect()
            }
        }
    }

    /// The length of text beyond which the frequencies are others, where they depend on it.
    pub fn changes_beyond(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Dynamic { original_max_position_embeddings: original, .. }
            | RopeScaling::LongRope { original_max_position_embeddings: original, .. } => Some(original as usize),
            _ => None,
        }
    }

    /// The factor on cosines and sines.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor as f32
            }
            _ => 1.0,
        }
    }
}
