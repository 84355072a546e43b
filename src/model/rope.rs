//! The inverse frequencies of rotary position embeddings, by the rules that transformers has for the llama family.

use super::config::ModelConfig;

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
}

impl ModelConfig {
    /// The rotary inverse frequencies, `[head_dim / 2]`: position `p` turns pair `i` by the angle `p * inv_freq[i]`.
    ///
    /// Computed in f32 as transformers does (`_compute_default_rope_parameters`, `_compute_llama3_parameters`).
    pub fn inv_freq(&self) -> Vec<f32> {
        inverse_frequencies(self.head_dim, self.rope_theta, &self.rope_scaling)
    }
}

pub(super) fn inverse_frequencies(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Vec<f32> {
    let base = (0..head_dim).step_by(2).map(|i| 1.0 / (theta as f32).powf(i as f32 / head_dim as f32));
    match *scaling {
        RopeScaling::Default => base.collect(),
        RopeScaling::Linear { factor } => base.map(|f| f / factor as f32).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let (factor, low, high) = (factor as f32, low_freq_factor as f32, high_freq_factor as f32);
            let context = original_max_position_embeddings as f32;
            base.map(|f| {
                let wavelength = 2.0 * std::f32::consts::PI / f;
                if wavelength > context / low {
                    f / factor
                } else if wavelength < context / high {
                    f
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            })
            .collect()
        }
    }
}
