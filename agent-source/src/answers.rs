//! The sending end of a stream of answers to an operator.

use strait_common::{Error, Result};
use tokio::sync::mpsc;
use tonic::Status;

/// Takes answers; waits while the operator is slow.
#[derive(Debug)]
pub struct Answers<T>(pub(crate) mpsc::Sender<Result<T, Status>>);

impl<T> Answers<T> {
    /// Sends one answer.
    ///
    /// # Errors
    /// `Cancelled` if the operator has left.
    pub async fn send(&self, answer: T) -> Result<()> {
        self.0
            .send(Ok(answer))
            .await
            .map_err(|_| Error::cancelled("the operator has left"))
    }
}
