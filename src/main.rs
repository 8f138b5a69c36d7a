//! Starts the command line, nothing else.

use std::process::ExitCode;

use openclaw_rs::cli::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    openclaw_rs::cli::main()
}
