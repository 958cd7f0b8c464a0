//! `strait tables`.

use serde::Serialize;
use strait_proto::v1;

use crate::client::Connection;
use crate::format;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// One store or sink, as in live, dr or dr/lake; all of them without it
    #[arg(value_name = "NAME", default_value = "")]
    name: String,
}

/// A table, as `--json` has it.
#[derive(Debug, Serialize)]
struct Shown {
    table: String,
    columns: u32,
    divided_by: Vec<String>,
    partitions: u64,
    rows: Option<u64>,
    bytes: Option<u64>,
    /// The unfinished run that owns it.
    run: Option<String>,
    /// Why it could not be looked at, and the kind of that error; else empty.
    message: String,
    kind: String,
}

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    arguments: Arguments,
) -> Result<Outcome> {
    let request = v1::ListTablesRequest {
        name: arguments.name,
    };
    let replies = connection.control().list_tables(request).await?;
    let mut replies = replies.into_inner();
    let mut shown = Vec::new();
    while let Some(info) = replies.message().await? {
        shown.push(Shown {
            table: info.place,
            columns: info.columns,
            divided_by: info.divided_by,
            partitions: info.partitions,
            rows: info.rows,
            bytes: info.bytes,
            run: info.run,
            message: info.message,
            kind: info.kind,
        });
    }
    output.print(&text(&shown));
    let failed = shown.iter().any(|table| !table.message.is_empty());
    let status = if failed { "partial" } else { "done" };
    output.print_json(&serde_json::json!({ "status": status, "tables": shown }));
    Ok(if failed {
        Outcome::Partial
    } else {
        Outcome::Done
    })
}

fn text(shown: &[Shown]) -> String {
    if shown.is_empty() {
        return "no tables yet".to_owned();
    }
    let unknown = || "?".to_owned();
    let row = |table: &Shown| {
        vec![
            table.table.clone(),
            table.columns.to_string(),
            table.divided_by.join(", "),
            format::count(table.partitions),
            table.rows.map_or_else(unknown, format::count),
            table.bytes.map_or_else(unknown, format::bytes),
            table
                .run
                .as_deref()
                .map_or("", |run| run.get(..8).unwrap_or(run))
                .to_owned(),
        ]
    };
    let seen: Vec<_> = shown
        .iter()
        .filter(|table| table.message.is_empty())
        .map(row)
        .collect();
    let mut lines = Vec::new();
    if !seen.is_empty() {
        let header = [
            "table",
            "columns",
            "divided by",
            "partitions",
            "rows",
            "stored",
            "owned by run",
        ];
        lines.push(format::table(&header, &seen, 1));
    }
    let unseen = shown.iter().filter(|table| !table.message.is_empty());
    lines.extend(unseen.map(|table| format!("{}: {}", table.table, table.message)));
    lines.join("\n")
}
