//! The source agent: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_source::main_from(std::env::args_os())
}
