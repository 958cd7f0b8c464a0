//! `strait sync`.

use strait_common::config::ByteSize;
use strait_proto::v1;

use super::{ModeArguments, Order, Selectors, Several, groups, watch};
use crate::client::Connection;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    selectors: Selectors,
    #[command(flatten)]
    several: Several,
    /// Tables that are copied at a time, where there are several
    #[arg(long, value_name = "N", default_value_t = 1)]
    tables: u32,
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
    /// Append although earlier runs have copied other rows of the same partitions
    #[arg(long)]
    again: bool,
    /// Begin although the sink seems to lack the room for what is copied
    #[arg(long)]
    without_room: bool,
    /// Begin the run and leave it to the agent
    #[arg(long)]
    detach: bool,
}

impl Arguments {
    /// The same, which mirrors unless another mode is named.
    pub(crate) fn or_mirror(self) -> Arguments {
        Arguments {
            mode: self.mode.or_mirror(),
            ..self
        }
    }

    pub(crate) fn selectors(&self) -> &Selectors {
        &self.selectors
    }
}

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    arguments: Arguments,
) -> Result<Outcome> {
    let several = arguments.several.are_asked_for(&arguments.selectors);
    let request = v1::StartRunRequest {
        selectors: Some(arguments.mode.selectors(arguments.selectors)),
        streams: arguments.streams,
        bandwidth_max: arguments.bandwidth_max.map(|size| size.0),
        mode: Some(arguments.mode.message(arguments.again)),
        without_room: arguments.without_room,
        schema_policy: arguments.mode.schema_policy().into(),
        order: v1::Order::from(arguments.order).into(),
    };
    if several {
        let request = v1::StartGroupRequest {
            run: Some(request),
            include: arguments.several.include,
            exclude: arguments.several.exclude,
            tables_max: arguments.tables,
            ..v1::StartGroupRequest::default()
        };
        let group = connection.control().start_group(request).await?;
        let group = group.into_inner();
        if arguments.detach {
            output.print(&format!(
                "group {} of {} tables has begun; watch it with `strait groups watch {}`",
                group.id,
                group.tables.len(),
                group.id
            ));
            output.print_json(&crate::json::Group::new(&group));
            return Ok(Outcome::Done);
        }
        return groups::follow(connection, output, &group.id).await;
    }
    let reply = connection.control().start_run(request).await?.into_inner();
    let run = reply.run.unwrap_or_default();
    for warning in &reply.warnings {
        output.note(&format!("warning: {warning}"));
    }
    if reply.attached {
        output.note(&format!(
            "run {} with the same job is under way; watching it",
            run.id
        ));
    }
    if arguments.detach {
        output.print(&format!(
            "run {} has begun; watch it with `strait runs watch {}`",
            run.id, run.id
        ));
        output.print_json(&crate::json::Run::new(&run, reply.attached, &[]));
        return Ok(Outcome::Done);
    }
    watch::run(connection, output, run.id, reply.attached).await
}
