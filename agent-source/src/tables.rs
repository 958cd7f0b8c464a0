//! `strait tables`: what there is to copy from and to.

use futures::StreamExt;
use strait_common::{Error, Result, inventory};
use strait_proto::v1;

use crate::agent::Agent;
use crate::answers::Answers;

/// Sends the tables of this agent's stores, then those of its sinks; or those of the one that is named, as in `live`, `dr` or `dr/lake`.
///
/// # Errors
/// `Config` if nothing has that name; `Cancelled` if the operator has left.
pub async fn list(agent: &Agent, name: &str, answers: &Answers<v1::TableInfo>) -> Result<()> {
    let (first, of_sink) = match name.split_once('/') {
        Some((sink, store)) => (sink, Some(store)),
        None => (name, None),
    };
    let mut found = name.is_empty();
    for (store, source) in agent.stores() {
        if name.is_empty() || name == store {
            found = true;
            let mut tables = inventory::tables(store, source);
            while let Some(info) = tables.next().await {
                answers.send(info).await?;
            }
        }
    }
    for sink in agent.config.sinks.keys() {
        if name.is_empty() || first == sink {
            found = true;
            if let Err(error) = of(agent, sink, of_sink.unwrap_or_default(), answers).await {
                answers.send(inventory::unlisted(sink, &error)).await?;
            }
        }
    }
    if found {
        return Ok(());
    }
    let stores = agent.stores().keys().chain(agent.config.sinks.keys());
    Err(Error::config(format!(
        "there is no store or sink '{name}'; this agent has {}",
        stores.map(String::as_str).collect::<Vec<_>>().join(", ")
    )))
}

async fn of(
    agent: &Agent,
    sink: &str,
    store: &str,
    answers: &Answers<v1::TableInfo>,
) -> Result<()> {
    let mut tables = agent.link(sink)?.tables(store).await?;
    while let Some(info) = tables.next().await? {
        answers
            .send(v1::TableInfo {
                place: format!("{sink}/{}", info.place),
                ..info
            })
            .await?;
    }
    Ok(())
}
