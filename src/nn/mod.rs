//! Parameters, autograd as PyTorch has it, and the modules that scripts build networks from.

pub mod activation;
pub mod algebra;
mod host;
pub mod layers;
pub mod linear;
pub mod losses;
pub mod module;
pub mod norms;
pub mod power;
pub mod reduce;
pub mod select;

pub use crate::autograd::{Parameter, backward, grad_enabled, no_grad};
pub use layers::{Dropout, Embedding, LayerNorm, RMSNorm};
pub use linear::Linear;
pub use module::{Module, Sequential};
