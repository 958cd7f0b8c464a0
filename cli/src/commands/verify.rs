//! `strait verify`.

use strait_proto::v1;
use strait_proto::v1::verify_reply::Body;

use super::Selectors;
use crate::client::Connection;
use crate::format;
use crate::json;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) selectors: Selectors,
}

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    arguments: Arguments,
) -> Result<Outcome> {
    let verification = verify(connection, arguments.selectors.into()).await?;
    output.print(&text(&verification));
    output.print_json(&verification);
    Ok(if verification.different.is_empty() {
        Outcome::Done
    } else {
        Outcome::Differences
    })
}

pub(crate) async fn verify(
    connection: &Connection,
    selectors: v1::Selectors,
) -> Result<json::Verification> {
    let request = v1::VerifyRequest {
        selectors: Some(selectors),
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
    lines.push(format!(
        "{} of {} partitions equal, {} differ, {} behind, {} only at the sink\n{} rows at the source, {} at the sink",
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
