//! `strait vacuum`.

use strait_common::config::Span;
use strait_proto::v1;

use crate::client::Connection;
use crate::format;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The table at the sink, as in dr:db1/mt
    #[arg(long, value_name = "SINK[/STORE]:DATABASE/TABLE")]
    table: String,
    /// Keep what readers may have needed so recently
    #[arg(long, value_name = "TIME", default_value = "7d")]
    retention: Span,
    /// Remove them; without it they are only named
    #[arg(long)]
    yes: bool,
}

/// Files named where people read.
const NAMED_MAX: usize = 20;

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    arguments: Arguments,
) -> Result<Outcome> {
    let retention_ms = arguments.retention.0.as_millis();
    let request = v1::VacuumTableRequest {
        table: arguments.table,
        retention_ms: u64::try_from(retention_ms).unwrap_or(u64::MAX),
        dry_run: !arguments.yes,
    };
    let reply = connection.control().vacuum_table(request).await?;
    let reply = reply.into_inner();
    let mut lines: Vec<String> = reply.paths.iter().take(NAMED_MAX).cloned().collect();
    if reply.paths.len() > NAMED_MAX {
        lines.push("… (--json names more)".to_owned());
    }
    let (done, hint) = match arguments.yes {
        true => ("removed", ""),
        false => ("would remove", "; --yes removes them"),
    };
    let files = reply.files + reply.staged_files;
    lines.push(match files {
        0 => "nothing to remove".to_owned(),
        _ => format!(
            "{done} {} files, {}: {} that the table no longer has, {} that were only staged{hint}",
            format::count(files),
            format::bytes(reply.bytes + reply.staged_bytes),
            format::count(reply.files),
            format::count(reply.staged_files)
        ),
    });
    output.print(&lines.join("\n"));
    output.print_json(&serde_json::json!({
        "status": if arguments.yes { "done" } else { "planned" },
        "files": reply.files,
        "bytes": reply.bytes,
        "staged_files": reply.staged_files,
        "staged_bytes": reply.staged_bytes,
        "paths": reply.paths,
    }));
    Ok(Outcome::Done)
}
