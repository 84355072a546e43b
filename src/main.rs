//! The command `ftrepl`.

fn main() -> std::process::ExitCode {
    ftrepl::autograd::buffer::keep_freed_memory();
    ftrepl::cli::main()
}
