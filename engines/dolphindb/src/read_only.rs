//! The half that receives, of a store that is only read: it refuses by name.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use strait_common::engine::{
    Attachment, Claim, Holding, Prepared, Receipt, Sink, SinkLimits, Space, Stream, Table,
};
use strait_common::ids::TableName;
use strait_common::selection::Selection;
use strait_common::{Error, Kind, Result};

/// Receives nothing.
#[derive(Debug)]
pub(crate) struct ReadOnly;

fn refused(kind: Kind) -> Error {
    Error::new(
        kind,
        "this DolphinDB cluster is only read, because its URL names no journal: add ?journal=DIRECTORY, an absolute path that no other agent uses, to copy to it",
    )
}

#[async_trait]
impl Sink for ReadOnly {
    fn limits(&self, _schema: &SchemaRef) -> Result<SinkLimits> {
        Err(refused(Kind::Refused))
    }

    /// A sink agent asks before it takes calls, so it does not start with such a store.
    async fn check_writable(&self) -> Result<()> {
        Err(refused(Kind::Config))
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    async fn prepare(
        &self,
        _table: &TableName,
        _wanted: &Table,
        _dry_run: bool,
    ) -> Result<Prepared> {
        Err(refused(Kind::Refused))
    }

    async fn add_columns(
        &self,
        _table: &TableName,
        _wanted: &Table,
        _dry_run: bool,
    ) -> Result<Vec<String>> {
        Err(refused(Kind::Refused))
    }

    async fn attach(&self, _claim: &Claim) -> Result<Arc<dyn Attachment>> {
        Err(refused(Kind::Refused))
    }

    async fn claim(&self, _table: &TableName) -> Result<Option<Claim>> {
        Err(refused(Kind::Refused))
    }

    async fn receipts(&self, _table: &TableName) -> Result<Stream<Receipt>> {
        Err(refused(Kind::Refused))
    }

    async fn holdings(
        &self,
        _table: &TableName,
        _selection: &Selection,
    ) -> Result<Stream<Holding>> {
        Err(refused(Kind::Refused))
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    #[tokio::test]
    async fn a_sink_agent_does_not_start_with_it() {
        let url = Url::parse("dolphindb://host:8848").unwrap();
        let store = crate::open(&url, strait_common::cpu::CpuPool::new(1)).unwrap();
        let error = store.sink.check_writable().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("journal="), "{error}");
        let table = TableName::new("db1", "mt").unwrap();
        assert_eq!(
            store.sink.claim(&table).await.unwrap_err().kind(),
            Kind::Refused
        );
    }
}
