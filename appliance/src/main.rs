//! The `farside` binary: every role of the appliance in one program.

fn main() -> std::process::ExitCode {
    farside::cli::main()
}
