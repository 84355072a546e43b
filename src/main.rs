//! The command `ftrepl`.

fn main() -> std::process::ExitCode {
    ftrepl::cli::main()
}
