//! LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B learns faster than A, in PEFT's parameter groups.

use super::{ParamGroup, is_layer_norm};
use crate::error::Result;
use crate::nn::Parameter;
use serde::{Deserialize, Serialize};

/// Options of LoRA+.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraPlusOptions {
    /// Learning rate of A, and of modules that are saved in full. Default 1e-3.
    pub lr: f64,
    /// B's learning rate as a multiple of A's; 16 in the paper, for hard tasks. Default 16.
    pub loraplus_lr_ratio: f64,
    /// Learning rate of adapters on embeddings. Default 1e-6.
    pub loraplus_lr_embedding: f64,
    /// Decoupled weight decay of all but biases and LayerNorms. Default 0.
    pub loraplus_weight_decay: f64,
    /// AdamW's decay rates of the moments. Default [0.9, 0.999].
    pub betas: [f64; 2],
    /// AdamW's term against division by zero. Default 1e-8.
    pub eps: f64,
}

impl Default for LoraPlusOptions {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            loraplus_lr_ratio: 16.0,
            loraplus_lr_embedding: 1e-6,
            loraplus_weight_decay: 0.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
        }
    }
}

impl LoraPlusOptions {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field and what is allowed.
    pub fn validate(&self) -> Result<()> {
        super::check_at_least_zero("lr", self.lr)?;
        super::check_at_least_zero("loraplus_lr_ratio", self.loraplus_lr_ratio)?;
        super::check_at_least_zero("loraplus_lr_embedding", self.loraplus_lr_embedding)?;
        super::check_at_least_zero("loraplus_weight_decay", self.loraplus_weight_decay)
    }

    /// The groups of these parameters, named as PEFT names them: A and saved modules, adapters on embeddings, B and vectors, which learn as
    /// B does, and of these the biases and LayerNorms, which do not decay.
    pub fn groups(&self, named: &[(String, Parameter)]) -> Vec<ParamGroup> {
        let of_embedding = |name: &str| name.contains("lora_embedding_");
        let like_b = |name: &str, parameter: &Parameter| name.contains("lora_B") || parameter.dims().len() == 1;
        let decays = |name: &str| !name.contains("bias") && !is_layer_norm(name);
        let group = |wanted: &dyn Fn(&str, &Parameter) -> bool, weight_decay: f64, lr_scale: f64| {
            let parameters = named.iter().filter(|(name, p)| wanted(name, p)).map(|(_, p)| p.clone()).collect();
            ParamGroup { lr_scale, ..ParamGroup::new(parameters).with_weight_decay(weight_decay) }
        };
        let (decay, ratio) = (self.loraplus_weight_decay, self.loraplus_lr_ratio);
        let of_embeddings = if self.lr > 0.0 { self.loraplus_lr_embedding / self.lr } else { 0.0 };
        vec![
            group(&|name, p| !of_embedding(name) && !like_b(name, p), decay, 1.0),
            group(&|name, _| of_embedding(name), decay, of_embeddings),
            group(&|name, p| !of_embedding(name) && like_b(name, p) && decays(name), decay, ratio),
            group(&|name, p| !of_embedding(name) && like_b(name, p) && !decays(name), 0.0, ratio),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn biases_and_layer_norms_learn_as_b_does_and_do_not_decay() {
        let made = |name: &str| {
            let dims: &[usize] = if name.contains("lora_") && !name.contains("bias") { &[2, 2] } else { &[4] };
            (name.to_string(), Parameter::from_vec(vec![0.0; 4], dims, &Device::Cpu).unwrap())
        };
        // In PEFT's order of groups, for GPT-2 and for a norm that is no nn.LayerNorm.
        let named = [
            "base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight",
            "base_model.model.transformer.wte.lora_embedding_A.default",
            "base_model.model.transformer.h.0.attn.c_attn.lora_B.default.weight",
            "base_model.model.model.norm.modules_to_save.default.weight",
            "base_model.model.transformer.h.0.attn.c_attn.lora_B.default.bias",
            "base_model.model.transformer.ln_f.modules_to_save.default.weight",
            "base_model.model.transformer.ln_f.modules_to_save.default.bias",
        ]
        .map(made);
        let options =
            LoraPlusOptions { lr: 0.1, loraplus_lr_ratio: 4.0, loraplus_weight_decay: 0.5, ..LoraPlusOptions::default() };
        let groups = options.groups(&named);
        let counts: Vec<(usize, Option<f64>)> = groups.iter().map(|group| (group.parameters.len(), group.weight_decay)).collect();
        assert_eq!(counts, [(1, Some(0.5)), (1, Some(0.5)), (2, Some(0.5)), (3, Some(0.0))]);
        assert_eq!((groups[0].lr_scale, groups[2].lr_scale, groups[3].lr_scale), (1.0, 4.0, 4.0));
    }
}
