//! The sink agent: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_sink::main_from(std::env::args_os())
}
