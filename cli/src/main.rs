//! `strait`: the command line. A gRPC client of the source agent, a demonstration, and, since one binary is enough, both agents.

mod client;
mod commands;
mod demo;
mod format;
mod json;
mod progress;
mod report;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use strait_common::tls::{Dialling, IdentityFiles};

use strait_bundle::Depth;

use crate::client::Connection;
use crate::commands::backup::Way;
use crate::commands::bundle::Command as Bundle;
use crate::report::{Outcome, Output};

/// Replicates partitioned tables between two clusters: exactly once, whole partitions, bounded memory
#[derive(Debug, Parser)]
#[command(name = "strait", version, after_help = report::EXIT_CODES)]
struct Arguments {
    /// The source agent
    #[arg(
        long,
        global = true,
        env = "STRAIT_AGENT",
        value_name = "URL",
        default_value = "http://127.0.0.1:7401"
    )]
    agent: String,
    /// PEM file of the authority that the agent's certificate comes from, for an https URL
    #[arg(long, global = true, env = "STRAIT_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file of your certificate, where the agent asks for one
    #[arg(long, global = true, env = "STRAIT_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, global = true, env = "STRAIT_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// One JSON object on standard output, for machines
    #[arg(long, global = true)]
    json: bool,
    /// No progress, only the result
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy what a selection selects, and watch it
    Sync(commands::sync::Arguments),
    /// Copy to a directory that is carried to where there is no link: --to file:///DIR on the agent's machine. The next one adds what differs
    Backup(commands::sync::Arguments),
    /// Copy from such a directory, after every file of it was found whole: --from file:///DIR on the agent's machine
    Restore(commands::sync::Arguments),
    /// Look at such a directory, or tell what of it has arrived
    #[command(subcommand)]
    Bundle(commands::bundle::Command),
    /// Show what a sync would do; moves nothing
    Plan(commands::plan::Arguments),
    /// Read both sides back and compare them, partition by partition
    Verify(commands::verify::Arguments),
    /// List, watch and steer runs
    #[command(subcommand)]
    Runs(commands::runs::Command),
    /// List, watch and steer groups: runs of several tables in one request
    #[command(subcommand)]
    Groups(commands::groups::Command),
    /// List the tables of the agent's stores and of its sinks
    Tables(commands::tables::Arguments),
    /// Store, list, start and steer jobs, which start by themselves
    #[command(subcommand)]
    Job(commands::job::Command),
    /// Explain what a job did last, and why, for each partition
    Why(commands::job::WhyArguments),
    /// Remove files of a table at a sink that no reader needs any more
    Vacuum(commands::vacuum::Arguments),
    /// Ask an agent whether it is well
    Health,
    /// Print a script that completes these commands in a shell
    Completions {
        /// Which shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Replicate a generated table between two lakes on this machine
    Demo(demo::Arguments),
    /// Run the source agent (the same as the program agent-source)
    #[command(disable_help_flag = true)]
    AgentSource {
        /// Its arguments; see `strait agent-source --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run the sink agent (the same as the program agent-sink)
    #[command(disable_help_flag = true)]
    AgentSink {
        /// Its arguments; see `strait agent-sink --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::try_parse().unwrap_or_else(|error| {
        // Machines get their object even for words that cannot be understood.
        if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
            report::print_usage_error(&error.to_string());
        }
        error.exit()
    });
    let named = |name: &str, rest: Vec<OsString>| std::iter::once(OsString::from(name)).chain(rest);
    let command = match arguments.command {
        Command::AgentSource { arguments } => {
            return agent_source::main_from(named("agent-source", arguments));
        }
        Command::AgentSink { arguments } => {
            return agent_sink::main_from(named("agent-sink", arguments));
        }
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "strait", &mut script);
            // Whoever reads only its beginning has left.
            let _ = std::io::stdout().write_all(&script);
            return ExitCode::SUCCESS;
        }
        command => command,
    };
    let output = Output::new(arguments.json, arguments.quiet);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let agent = arguments.agent;
    let (ca, cert, key) = (arguments.ca, arguments.cert, arguments.key);
    let result = runtime.block_on(async {
        let connect = || {
            let identity = IdentityFiles::of("--", cert.clone(), key.clone())?;
            let tls = Dialling {
                ca: ca.clone(),
                identity,
            };
            Connection::new(&agent, &tls)
        };
        let result = match command {
            Command::Sync(arguments) => commands::sync::run(&connect()?, &output, arguments).await,
            Command::Backup(arguments) => {
                commands::backup::run(&connect()?, &output, Way::Backup, arguments).await
            }
            Command::Restore(arguments) => {
                commands::backup::run(&connect()?, &output, Way::Restore, arguments).await
            }
            Command::Bundle(Bundle::Verify {
                directory,
                table,
                sizes,
            }) => {
                let depth = if sizes { Depth::Sizes } else { Depth::Contents };
                return commands::bundle::verify(&output, &directory, table, depth).await;
            }
            Command::Bundle(Bundle::Receipt { selectors, out }) => {
                commands::bundle::receipt(&connect()?, &output, selectors, out.as_deref()).await
            }
            Command::Plan(arguments) => commands::plan::run(&connect()?, &output, arguments).await,
            Command::Verify(arguments) => {
                commands::verify::run(&connect()?, &output, arguments).await
            }
            Command::Runs(command) => commands::runs::run(&connect()?, &output, command).await,
            Command::Groups(command) => commands::groups::run(&connect()?, &output, command).await,
            Command::Tables(arguments) => {
                commands::tables::run(&connect()?, &output, arguments).await
            }
            Command::Job(command) => commands::job::run(&connect()?, &output, command).await,
            Command::Why(arguments) => commands::job::why(&connect()?, &output, arguments).await,
            Command::Vacuum(arguments) => {
                commands::vacuum::run(&connect()?, &output, arguments).await
            }
            Command::Health => commands::health::run(&connect()?, &output).await,
            Command::Demo(arguments) => return demo::run(&output, arguments).await,
            Command::AgentSource { .. }
            | Command::AgentSink { .. }
            | Command::Completions { .. } => Ok(Outcome::Done),
        };
        result.map_err(|failure| failure.of_agent(&agent))
    });
    output.exit(result)
}
