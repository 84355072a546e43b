//! Ctrl-C: the first sets the flag that long work polls; one more ends the process where nothing reacted to the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Watches for Ctrl-C and requests to terminate. `flag` is the session's interrupt flag.
pub(super) fn watch(flag: Arc<AtomicBool>) {
    let handler = move || {
        // The session clears the flag when it has reacted; still set means that nothing did.
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    // Fails only where a handler is set already, as when several sessions run in one process; theirs is as good.
    let _ = ctrlc::set_handler(handler);
}
