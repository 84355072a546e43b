//! What is warned of while a test runs.

use ftrepl::control::{Control, ProgressSink, ProgressUpdate};
use std::sync::{Arc, Mutex};

/// Keeps every warning.
#[derive(Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// A keeper, and a control that tells it.
    pub fn with_control() -> (Arc<Self>, Control) {
        let warnings = Arc::new(Self::default());
        let control = Control::new(Arc::default(), warnings.clone());
        (warnings, control)
    }

    /// The warnings so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl ProgressSink for Warnings {
    fn update(&self, _: &ProgressUpdate) {}
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_string());
    }
}
