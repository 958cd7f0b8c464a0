//! Receipts of what B has, for the way back: what was carried to B and has arrived there need not be carried again.

use std::sync::Arc;

use strait_common::Result;
use strait_common::clock::now_ns;
use strait_proto::v1;

use crate::agent::Agent;
use crate::answers::Answers;
use crate::job::{Mode, Spec};
use crate::plan;

/// Sends a page for each page of holdings: the receipts of partitions that are at B as the last run has left them, all of whose rows they are of.
///
/// # Errors
/// As [`plan::plan`]; what the sink says; `Cancelled` if the operator has left.
pub async fn list(
    agent: &Arc<Agent>,
    selectors: v1::Selectors,
    answers: &Answers<v1::ReceiptPage>,
) -> Result<()> {
    let spec = Spec::try_from(selectors)?;
    let (mode, freeze) = (Mode::Append { again: false }, v1::SchemaPolicy::Freeze);
    let planned = plan::plan(agent, spec, mode, now_ns(), freeze).await?;
    let mut holdings = planned.sides(agent).holdings().await?;
    while let Some(page) = holdings.next().await? {
        let whole = page
            .into_iter()
            .filter(|held| held.intact && held.receipts == 1);
        let named = whole.filter(|held| planned.job.spec.partitions.fit(&held.key));
        let receipts = named.filter_map(|held| held.receipt.as_ref().map(Into::into));
        let receipts: Vec<v1::Receipt> = receipts.collect();
        if !receipts.is_empty() {
            answers.send(v1::ReceiptPage { receipts }).await?;
        }
    }
    Ok(())
}
