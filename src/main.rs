//! Starts the command line, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    openclaw_rs::cli::main()
}
