//! `strait plan`.

use strait_common::config::ByteSize;
use strait_proto::v1;
use strait_proto::v1::plan_reply::Body;

use super::{ModeArguments, Order, Selectors, Several};
use crate::client::Connection;
use crate::format;
use crate::json;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    selectors: Selectors,
    #[command(flatten)]
    several: Several,
    /// Which partitions of a table come first
    #[arg(long, value_enum, value_name = "ORDER", default_value_t)]
    order: Order,
    #[command(flatten)]
    mode: ModeArguments,
    /// Streams at a time [default: as many as the agent is configured for]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    streams: u32,
    /// The most that the run's frames take on the wire in a second, as in 20MiB, within the agent's own limit [default: no limit]
    #[arg(long, value_name = "SIZE")]
    bandwidth_max: Option<ByteSize>,
}

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    arguments: Arguments,
) -> Result<Outcome> {
    if !arguments.several.are_asked_for(&arguments.selectors) {
        let (plan, text) = one(connection, &arguments, arguments.selectors.clone()).await?;
        output.print(&text);
        output.print_json(&plan);
        return Ok(Outcome::Done);
    }
    let several = arguments.several.clone();
    let mut tables = Vec::new();
    for selectors in several.each(connection, &arguments.selectors).await? {
        let (from, to) = (selectors.from.clone(), selectors.to.clone());
        let planned = one(connection, &arguments, selectors).await;
        let text = match &planned {
            Ok((_, text)) => text.clone(),
            Err(failure) => format!("cannot be copied: {}", failure.message),
        };
        output.print(&format!("{from} -> {to}\n{text}\n"));
        let (plan, failure) = match planned {
            Ok((plan, _)) => (Some(plan), None),
            Err(failure) if failure.unreachable => return Err(failure),
            Err(failure) => (None, Some(failure)),
        };
        tables.push(json::OfTable::new(from, to, plan, failure));
    }
    let failed = tables.iter().filter(|table| !table.message.is_empty());
    let (failed, all) = (failed.count(), tables.len());
    let status = if failed == 0 { "planned" } else { "partial" };
    output.print_json(&serde_json::json!({ "status": status, "tables": tables }));
    Ok(match failed {
        0 => Outcome::Done,
        failed if failed == all => Outcome::Failed,
        _ => Outcome::Partial,
    })
}

/// The plan of one table, and how it reads.
async fn one(
    connection: &Connection,
    arguments: &Arguments,
    selectors: Selectors,
) -> Result<(json::Plan, String)> {
    let request = v1::PlanRequest {
        selectors: Some(arguments.mode.selectors(selectors)),
        streams: arguments.streams,
        bandwidth_max: arguments.bandwidth_max.as_ref().map(|size| size.0),
        mode: Some(arguments.mode.message(false)),
        schema_policy: arguments.mode.schema_policy().into(),
    };
    let mut replies = connection.control().plan(request).await?.into_inner();
    let (mut summary, mut totals, mut partitions) = (
        v1::PlanSummary::default(),
        v1::PlanTotals::default(),
        Vec::new(),
    );
    while let Some(reply) = replies.message().await? {
        match reply.body {
            Some(Body::Summary(found)) => summary = found,
            Some(Body::Page(page)) => partitions.extend(page.partitions),
            Some(Body::Totals(found)) => totals = found,
            None => {}
        }
    }
    if arguments.order == Order::Newest {
        partitions.reverse();
    }
    let text = text(&summary, &totals, &partitions);
    let plan = json::Plan {
        status: "planned",
        selection: summary.selection,
        now: summary.now,
        created: summary.created,
        notes: summary.notes,
        value_rules: summary.value_rules,
        warnings: summary.warnings,
        atomic: summary.atomic,
        streams: summary.streams,
        streams_admitted_source: summary.streams_admitted_source,
        streams_admitted_sink: summary.streams_admitted_sink,
        stream_bytes_source: summary.stream_bytes_source,
        stream_bytes_sink: summary.stream_bytes_sink,
        memory_bytes_source: summary.memory_bytes_source,
        memory_bytes_sink: summary.memory_bytes_sink,
        free_bytes_sink: summary.free_bytes_sink,
        compression: summary.compression,
        bandwidth_max: summary.bandwidth_max,
        least_ms: totals.least_ms,
        rows: totals.rows,
        bytes: totals.bytes,
        to_copy: totals.to_copy,
        to_replace: totals.to_replace,
        to_compare: totals.to_compare,
        to_drop: totals.to_drop,
        already: totals.already,
        refused: totals.refused,
        as_files: totals.as_files,
        rows_because: summary.rows_because,
        columns: summary
            .mapping
            .into_iter()
            .map(|column| json::PlannedColumn {
                name: column.name,
                source: column.source,
                sink: column.sink,
                what: column.what,
            })
            .collect(),
        partitions: partitions
            .into_iter()
            .map(|partition| json::PlannedPartition {
                key: partition.key,
                rows: partition.rows,
                bytes: partition.bytes,
                action: partition.action,
            })
            .collect(),
    };
    Ok((plan, text))
}

/// Each column at both sides, and what becomes of it.
fn columns(mapping: &[v1::ColumnPlan]) -> String {
    let none = || "-".to_owned();
    let row = |column: &v1::ColumnPlan| {
        vec![
            column.name.clone(),
            column.source.clone().unwrap_or_else(none),
            column.sink.clone().unwrap_or_else(none),
            match column.what.as_str() {
                "null" => "becomes null".to_owned(),
                "same" => String::new(),
                what => what.to_owned(),
            },
        ]
    };
    let rows: Vec<_> = mapping.iter().map(row).collect();
    format::table(&["column", "at the source", "at the sink", ""], &rows, 4)
}

/// Partitions shown; the totals count all of them.
const PARTITIONS_SHOWN: usize = 40;

fn text(
    summary: &v1::PlanSummary,
    totals: &v1::PlanTotals,
    partitions: &[v1::PlanPartition],
) -> String {
    let unknown = || "?".to_owned();
    let rows: Vec<Vec<String>> = partitions
        .iter()
        .take(PARTITIONS_SHOWN)
        .map(|partition| {
            vec![
                if partition.key.is_empty() {
                    "(all)".to_owned()
                } else {
                    partition.key.clone()
                },
                partition.rows.map_or_else(unknown, format::count),
                partition.bytes.map_or_else(unknown, format::bytes),
                partition.action.clone(),
            ]
        })
        .collect();
    let mut lines = vec![format::table(
        &["partition", "rows", "stored", "action"],
        &rows,
        1,
    )];
    if partitions.len() > PARTITIONS_SHOWN {
        lines.push(format!(
            "… {} more (--json lists all)",
            format::count((partitions.len() - PARTITIONS_SHOWN) as u64)
        ));
    }
    let counted = [
        (totals.to_copy, "to copy"),
        (totals.to_replace, "to replace"),
        (totals.to_compare, "to compare"),
        (totals.already, "already there"),
        (totals.refused, "refused"),
        (totals.to_drop, "only at the sink"),
    ];
    let counted = counted.iter().filter(|(count, _)| *count > 0);
    let counted: Vec<String> = counted
        .map(|(count, what)| format!("{} {what}", format::count(*count)))
        .collect();
    lines.push(format!(
        "{} partitions: {}; {} rows, {} stored",
        format::count(totals.partitions),
        counted.join(", "),
        totals.rows.map_or_else(unknown, format::count),
        totals.bytes.map_or_else(unknown, format::bytes)
    ));
    lines.push(format!("selection: {}", summary.selection));
    lines.push(columns(&summary.mapping));
    lines.extend(
        summary
            .created
            .iter()
            .map(|created| format!("would create {created}")),
    );
    lines.push(format!(
        "streams: {}\nmemory admits {} at the source ({} each), {} at the sink ({} each)",
        summary.streams,
        summary.streams_admitted_source,
        format::bytes(summary.stream_bytes_source),
        summary.streams_admitted_sink,
        format::bytes(summary.stream_bytes_sink)
    ));
    lines.push(match summary.rows_because.as_str() {
        "" => format!(
            "pass-through: {} partitions travel as files",
            format::count(totals.as_files)
        ),
        why => format!("pass-through: no partition travels as files ({why})"),
    });
    lines.push(format!("compression: {}", summary.compression));
    if let Some(bandwidth_max) = summary.bandwidth_max {
        let least = totals.least_ms.map_or_else(unknown, format::duration_ms);
        lines.push(format!(
            "bandwidth: at most {} a second; what is to be copied takes {least} at least, if the wire carries what is stored",
            format::bytes(bandwidth_max)
        ));
    }
    if let Some(free) = summary.free_bytes_sink {
        lines.push(format!("free at the sink: {}", format::bytes(free)));
    }
    if !summary.atomic {
        lines.push(
            "readers of the sink can see a part of a partition while it is copied".to_owned(),
        );
    }
    lines.extend(
        summary
            .value_rules
            .iter()
            .map(|rule| format!("rule: {rule}")),
    );
    lines.extend(summary.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(
        summary
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    if totals.refused > 0 {
        lines.push("refused: an earlier run has copied rows of these partitions that may be among those selected now; --again appends all the same".to_owned());
    }
    lines.join("\n")
}
