//! Ctrl-C: the first sets the flag that long work polls; one more ends the process where nothing reacted to the first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The interrupt flag of this process, which all its sessions share: only one handler can be set. The first call begins to watch.
pub(super) fn flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let watch = || {
        let flag = Arc::new(AtomicBool::new(false));
        let watched = flag.clone();
        let handler = move || {
            // The session clears the flag when it has reacted; still set means that nothing did.
            if watched.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        };
        // Fails only where another part of the program has set a handler; theirs is as good.
        let _ = ctrlc::set_handler(handler);
        flag
    };
    FLAG.get_or_init(watch).clone()
}
