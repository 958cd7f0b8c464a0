//! The bound on waiting for an engine: one that hangs behind a live connection must not hold a run, an operator or memory for ever.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;

use crate::engine::{
    Batch, Cursor, Partition, PartitionFiles, ReadLimits, Source, Store, StoreSums, Stream, Table,
};
use crate::error::{Context, Error, Result};
use crate::ids::TableName;
use crate::selection::Selection;

/// Waits for one act of an engine, at most `timeout`; then the act is dropped. `act` is named in every error.
///
/// # Errors
/// `Unavailable` if the engine has not answered in time; else what the act says.
pub async fn within<T>(
    timeout: Duration,
    act: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result.context(act),
        Err(_) => Err(Error::unavailable(format!(
            "{act}: the engine has not answered for {} s (engine_timeout)",
            timeout.as_secs()
        ))),
    }
}

/// The half of a store that is read, each call and each item of what it streams waited for at most so long.
#[derive(Debug)]
pub struct PatientSource {
    below: Arc<dyn Source>,
    timeout: Duration,
}

/// The store, its source half patient for so long. The other half publishes, which is never cut short.
#[must_use]
pub fn patient(store: Store, timeout: Duration) -> Store {
    Store {
        source: Arc::new(PatientSource {
            below: store.source,
            timeout,
        }),
        sink: store.sink,
    }
}

/// The stream, each item waited for at most so long; it ends with the first error.
pub fn patient_stream<T: Send + 'static>(
    items: Stream<T>,
    timeout: Duration,
    act: &'static str,
) -> Stream<T> {
    futures::stream::unfold(Some(items), move |items| async move {
        let mut items = items?;
        let next = within(timeout, act, async { items.next().await.transpose() }).await;
        match next.transpose()? {
            Ok(item) => Some((Ok(item), Some(items))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

#[async_trait]
impl Source for PatientSource {
    async fn describe(&self, table: &TableName) -> Result<Table> {
        within(self.timeout, "describe", self.below.describe(table)).await
    }

    async fn tables(&self) -> Result<Vec<TableName>> {
        within(self.timeout, "tables", self.below.tables()).await
    }

    async fn partitions(
        &self,
        table: &TableName,
        selection: &Selection,
    ) -> Result<Stream<Partition>> {
        let partitions = self.below.partitions(table, selection);
        let partitions = within(self.timeout, "partitions", partitions).await?;
        Ok(patient_stream(partitions, self.timeout, "partitions"))
    }

    async fn read(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        after: &Cursor,
        limits: &ReadLimits,
    ) -> Result<Stream<Batch>> {
        let batches = self.below.read(table, selection, partition, after, limits);
        let batches = within(self.timeout, "read", batches).await?;
        Ok(patient_stream(batches, self.timeout, "read"))
    }

    async fn files_shape(&self, table: &TableName) -> Result<Option<String>> {
        let shape = self.below.files_shape(table);
        within(self.timeout, "files", shape).await
    }

    async fn files(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        shape: &str,
    ) -> Result<Option<Box<dyn PartitionFiles>>> {
        let files = self.below.files(table, selection, partition, shape);
        within(self.timeout, "files", files).await
    }

    // Reads as long as there is something to read: who asks waits with a stop at hand.
    async fn check(&self, table: &TableName) -> Result<()> {
        self.below.check(table).await
    }

    async fn warnings(&self, table: &TableName) -> Result<Vec<String>> {
        within(self.timeout, "warnings", self.below.warnings(table)).await
    }

    // The store looks at all rows: how long it may take for that its own configuration says.
    async fn sums(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
    ) -> Result<Option<StoreSums>> {
        self.below.sums(table, selection, partition).await
    }

    fn read_bytes(&self, table: &Table) -> u64 {
        self.below.read_bytes(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[tokio::test(start_paused = true)]
    async fn an_act_that_does_not_end_is_named() {
        let forever = std::future::pending::<Result<()>>();
        let hung = within(Duration::from_secs(3), "append", forever);
        let error = hung.await.expect_err("it does not end");
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().contains("append"), "{error}");
        assert!(
            error.to_string().contains("3 s (engine_timeout)"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stops_in_the_middle_ends_with_the_error() {
        let items = futures::stream::iter([Ok(1), Ok(2)]).chain(futures::stream::pending());
        let items = patient_stream(items.boxed(), Duration::from_secs(3), "read");
        let items: Vec<Result<i32>> = items.collect().await;
        assert_eq!(items.len(), 3);
        assert_eq!(*items[1].as_ref().expect("the second"), 2);
        let error = items[2].as_ref().expect_err("nothing came after it");
        assert_eq!(error.kind(), Kind::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_stream_is_read_to_its_end() {
        let items =
            futures::stream::iter([Ok(1), Err(Error::moved("over")), Ok(3)]).then(|item| async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                item
            });
        let items = patient_stream(items.boxed(), Duration::from_secs(3), "read");
        let items: Vec<Result<i32>> = items.collect().await;
        assert_eq!(items.len(), 2, "an error is the end");
        assert_eq!(items[1].as_ref().expect_err("moved").kind(), Kind::Moved);
    }
}
