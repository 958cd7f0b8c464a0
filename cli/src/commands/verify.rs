//! `strait verify`.

use strait_proto::v1;
use strait_proto::v1::verify_reply::Body;

use super::{Selectors, Several};
use crate::client::Connection;
use crate::format;
use crate::json;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) selectors: Selectors,
    #[command(flatten)]
    several: Several,
    /// How partitions are told to be equal
    #[arg(long, value_enum, default_value_t = By::Digests)]
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum By {
    /// Both sides are read, and the digests of all rows compared
    Digests,
    /// Where both stores compute the same checksums by themselves, nothing is read; the others are compared by digests
    Sums,
}

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    arguments: Arguments,
) -> Result<Outcome> {
    if arguments.several.are_asked_for(&arguments.selectors) {
        return all(connection, output, arguments).await;
    }
    let verification = verify(connection, arguments.selectors.into(), arguments.by).await?;
    output.print(&text(&verification));
    output.print_json(&verification);
    Ok(if verification.different.is_empty() {
        Outcome::Done
    } else {
        Outcome::Differences
    })
}

/// Each table of a pattern. One that cannot be compared does not stop the others.
async fn all(connection: &Connection, output: &Output, arguments: Arguments) -> Result<Outcome> {
    let mut tables = Vec::new();
    for selectors in arguments
        .several
        .each(connection, &arguments.selectors)
        .await?
    {
        let (from, to) = (selectors.from.clone(), selectors.to.clone());
        let (verification, failure) = match verify(connection, selectors.into(), arguments.by).await
        {
            Ok(verification) => (Some(verification), None),
            Err(failure) if failure.unreachable => return Err(failure),
            Err(failure) => (None, Some(failure)),
        };
        let said = match (&verification, &failure) {
            (Some(verification), _) => text(verification),
            (None, failure) => {
                let why = failure.as_ref().map(|failure| failure.message.as_str());
                format!("cannot be compared: {}", why.unwrap_or_default())
            }
        };
        output.print(&format!("{from} -> {to}\n{said}\n"));
        tables.push(json::OfTable::new(from, to, verification, failure));
    }
    let differ = tables.iter().filter_map(|table| table.result.as_ref());
    let differ = differ.filter(|verification| !verification.different.is_empty());
    let differ = differ.count();
    let failed = tables.iter().filter(|table| !table.message.is_empty());
    let (failed, count) = (failed.count(), tables.len());
    output.print(&format!(
        "{} of {count} tables equal, {differ} differ, {failed} could not be compared",
        count - differ - failed
    ));
    let status = if failed == 0 { "done" } else { "partial" };
    output.print_json(&serde_json::json!({ "status": status, "tables": tables }));
    Ok(match (failed, differ) {
        (failed, _) if failed == count => Outcome::Failed,
        (_, 1..) => Outcome::Differences,
        (0, _) => Outcome::Done,
        _ => Outcome::Partial,
    })
}

pub(crate) async fn verify(
    connection: &Connection,
    selectors: v1::Selectors,
    by: By,
) -> Result<json::Verification> {
    let request = v1::VerifyRequest {
        selectors: Some(selectors),
        sums: by == By::Sums,
    };
    let mut replies = connection.control().verify(request).await?.into_inner();
    let (mut totals, mut different) = (v1::VerifyTotals::default(), Vec::new());
    while let Some(reply) = replies.message().await? {
        match reply.body {
            Some(Body::Page(page)) => {
                let unequal = page
                    .partitions
                    .into_iter()
                    .filter(|partition| partition.result != "equal");
                different.extend(unequal.map(|partition| json::DifferentPartition {
                    key: partition.key,
                    result: partition.result,
                    rows_source: partition.rows_source,
                    rows_sink: partition.rows_sink,
                    message: partition.message,
                }));
            }
            Some(Body::Totals(found)) => totals = found,
            None => {}
        }
    }
    Ok(json::Verification {
        status: "done",
        partitions: totals.partitions,
        equal: totals.equal,
        equal_by_sums: totals.equal_by_sums,
        differs: totals.differs,
        behind: totals.behind,
        extra: totals.extra,
        rows_source: totals.rows_source,
        rows_sink: totals.rows_sink,
        different,
    })
}

pub(crate) fn text(verification: &json::Verification) -> String {
    let mut lines = Vec::new();
    if !verification.different.is_empty() {
        let rows: Vec<Vec<String>> = verification
            .different
            .iter()
            .map(|partition| {
                vec![
                    if partition.key.is_empty() {
                        "(all)".to_owned()
                    } else {
                        partition.key.clone()
                    },
                    partition.result.clone(),
                    format!(
                        "{}: {} rows at the source, {} at the sink",
                        partition.message,
                        format::count(partition.rows_source),
                        format::count(partition.rows_sink)
                    ),
                ]
            })
            .collect();
        lines.push(format::table(&["partition", "result", "why"], &rows, 3));
    }
    let by_sums = match verification.equal_by_sums {
        0 => String::new(),
        some => format!(" ({} by the stores' own checksums)", format::count(some)),
    };
    lines.push(format!(
        "{} of {} partitions equal{by_sums}, {} differ, {} behind, {} only at the sink\n{} rows at the source, {} at the sink",
        format::count(verification.equal),
        format::count(verification.partitions),
        format::count(verification.differs),
        format::count(verification.behind),
        format::count(verification.extra),
        format::count(verification.rows_source),
        format::count(verification.rows_sink)
    ));
    lines.join("\n")
}
