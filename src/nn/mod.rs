//! Parameters, autograd as PyTorch has it, and the modules that scripts build networks from.

pub mod autograd;
pub mod parameter;

pub use autograd::{backward, grad_enabled, no_grad};
pub use parameter::Parameter;
