//! The command `ftrepl`.

fn main() -> std::process::ExitCode {
    // Cells of Rust run in this program started again.
    #[cfg(feature = "rust-cells")]
    evcxr::runtime_hook();
    ftrepl::autograd::buffer::keep_freed_memory();
    ftrepl::cli::main()
}
