//! `strait bundle`: looks at a directory that was backed up to or carried, without any agent, and tells what of it has arrived.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use strait_bundle::{Bundle, Checked, Depth};
use strait_common::cpu::CpuPool;
use strait_common::engine::Receipt;
use strait_common::ids::TableName;
use strait_common::{Error, Kind, OrError};
use strait_proto::v1;

use super::Selectors;
use crate::client::Connection;
use crate::format;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare every file with the newest manifest of its table: existence, size and SHA-256; needs no agent
    Verify {
        /// The directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// One table of it, as in db1/mt; all of them without it
        #[arg(long, value_name = "DATABASE/TABLE")]
        table: Option<TableName>,
        /// Existence and size alone: reads no content
        #[arg(long)]
        sizes: bool,
    },
    /// Write the receipts of what the sink has of a bundle, to be carried back and given to `strait backup --receipts`
    Receipt {
        #[command(flatten)]
        selectors: Selectors,
        /// Where to write them, here; one JSON object a line [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// A table of a bundle, as `--json` has it.
#[derive(Debug, Serialize)]
struct Shown {
    table: String,
    /// The newest manifest that could be read, what it is of, and when it was made.
    manifest: Option<u64>,
    from: Option<String>,
    made_at: Option<i64>,
    partitions: u64,
    files: u64,
    bytes: u64,
    flawed: u64,
    flaws: Vec<ShownFlaw>,
}

#[derive(Debug, Serialize)]
struct ShownFlaw {
    path: String,
    partition: Option<String>,
    problem: String,
}

impl From<&Checked> for Shown {
    fn from(checked: &Checked) -> Shown {
        let manifest = checked.manifest.as_ref();
        let flaws = checked.flaws.iter().map(|flaw| ShownFlaw {
            path: flaw.path.clone(),
            partition: flaw.partition.as_ref().map(ToString::to_string),
            problem: flaw.problem.to_string(),
        });
        Shown {
            table: checked.table.to_string(),
            manifest: manifest.map(|manifest| manifest.head.number),
            from: manifest.map(|manifest| manifest.head.from.clone()),
            made_at: manifest.map(|manifest| manifest.head.made_at / 1_000_000_000),
            partitions: manifest.map_or(0, |manifest| manifest.end.partitions),
            files: manifest.map_or(0, |manifest| manifest.end.files),
            bytes: manifest.map_or(0, |manifest| manifest.end.bytes),
            flawed: checked.flawed,
            flaws: flaws.collect(),
        }
    }
}

/// `strait bundle verify`.
pub(crate) async fn verify(
    output: &Output,
    directory: &Path,
    table: Option<TableName>,
    depth: Depth,
) -> Result<Outcome> {
    let root = std::path::absolute(directory).or_error(Kind::Config, directory.display())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let bundle = Bundle::at(&root, CpuPool::new(threads));
    let tables = match table {
        Some(table) => vec![table],
        None => bundle.tables()?,
    };
    if tables.is_empty() {
        return Err(Error::config(format!(
            "{} has no table with a manifest; is it the directory that was backed up to, and was the backup finished?",
            root.display()
        ))
        .into());
    }
    let mut shown = Vec::new();
    for table in tables {
        shown.push(Shown::from(&bundle.check(&table, depth).await?));
    }
    output.print(&text(&shown, depth));
    let flawed = shown.iter().any(|table| table.flawed > 0);
    output.print_json(&serde_json::json!({ "status": "done", "tables": shown }));
    Ok(if flawed {
        Outcome::Differences
    } else {
        Outcome::Done
    })
}

fn text(shown: &[Shown], depth: Depth) -> String {
    let none = || "-".to_owned();
    let row = |table: &Shown| {
        vec![
            table.table.clone(),
            table
                .manifest
                .map_or_else(none, |number| number.to_string()),
            table.from.clone().unwrap_or_else(none),
            format::count(table.partitions),
            format::count(table.files),
            format::bytes(table.bytes),
            match (table.flawed, depth) {
                (0, Depth::Contents) => "✓".to_owned(),
                (0, Depth::Sizes) => "✓ sizes".to_owned(),
                (flawed, _) => format!("{} files are not as written", format::count(flawed)),
            },
        ]
    };
    let rows: Vec<_> = shown.iter().map(row).collect();
    let header = [
        "table",
        "manifest",
        "of",
        "partitions",
        "files",
        "bytes",
        "state",
    ];
    let mut lines = vec![format::table(&header, &rows, 1)];
    for table in shown {
        for flaw in &table.flaws {
            let partition = flaw.partition.as_ref();
            let partition = partition.map_or(String::new(), |key| format!(" (partition {key})"));
            lines.push(format!(
                "{}/{}{partition}: {}",
                table.table, flaw.path, flaw.problem
            ));
        }
        if table.flawed > table.flaws.len() as u64 {
            lines.push(format!(
                "{}: and {} more",
                table.table,
                format::count(table.flawed - table.flaws.len() as u64)
            ));
        }
    }
    lines.join("\n")
}

/// `strait bundle receipt`.
pub(crate) async fn receipt(
    connection: &Connection,
    output: &Output,
    selectors: Selectors,
    out: Option<&Path>,
) -> Result<Outcome> {
    let request = v1::ListReceiptsRequest {
        selectors: Some(selectors.into()),
    };
    let pages = connection.control().list_receipts(request).await?;
    let mut pages = pages.into_inner();
    let mut lines = Vec::new();
    let mut count = 0u64;
    while let Some(page) = pages.message().await? {
        for receipt in page.receipts {
            let receipt = Receipt::try_from(receipt)?;
            serde_json::to_writer(&mut lines, &receipt)
                .or_error(Kind::Internal, "write a receipt")?;
            lines.push(b'\n');
            count += 1;
        }
    }
    match out {
        Some(path) => {
            let written = std::fs::write(path, &lines);
            written.or_error(Kind::Config, format!("write {}", path.display()))?;
            output.print(&format!(
                "{} receipts are in {}; carry it back, and give it to `strait backup --receipts`",
                format::count(count),
                path.display()
            ));
            output.print_json(&serde_json::json!({ "status": "done", "receipts": count }));
        }
        None => std::io::stdout()
            .write_all(&lines)
            .or_error(Kind::Config, "standard output")?,
    }
    Ok(Outcome::Done)
}
