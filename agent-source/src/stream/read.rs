//! The next rows of a partition, prepared for the wire: read, filtered, digested, encoded, and admitted to the bandwidth. Or the next bytes of its files.

use std::time::Duration;

use futures::StreamExt;
use strait_common::Result;
use strait_common::budget::{Budget, Lease};
use strait_common::cpu::CpuPool;
use strait_common::digest::{Digest, digest};
use strait_common::engine::{Batch, Stream as EngineStream};
use strait_common::frame::{Encoder, slice_bytes};
use strait_common::patience::within;
use strait_common::selection::Selection;
use strait_common::shutdown::Shutdown;
use tokio::time::Instant;

use crate::files::Reading;
use crate::pace::Share;
use crate::session::{Encoded, Event};

/// What preparing needs beside the partition's reader and the stream's encoder.
#[derive(Debug)]
pub(super) struct Preparing {
    pub(super) selection: Selection,
    pub(super) cpu: CpuPool,
    pub(super) budget: Budget,
    pub(super) frame_bytes_max: u64,
    pub(super) bandwidth: Share,
    pub(super) shutdown: Shutdown,
    pub(super) engine_timeout: Duration,
}

/// What is read of a partition.
pub(super) enum Reader {
    Rows(EngineStream<Batch>),
    Files(Box<Reading>),
}

/// What came of it. The encoder comes back, and the reader unless it is at its end.
pub(super) struct Read {
    pub(super) encoder: Encoder,
    pub(super) reader: Option<Reader>,
    pub(super) event: Event,
    /// What pays for an oversized row.
    pub(super) lease: Option<Lease>,
    /// How long encoding took, without waiting for its turn.
    pub(super) encoding: Duration,
    /// How long it waited for bandwidth.
    pub(super) admitting: Duration,
}

impl Read {
    fn over(encoder: Encoder, event: Event) -> Read {
        Read {
            encoder,
            reader: None,
            event,
            lease: None,
            encoding: Duration::ZERO,
            admitting: Duration::ZERO,
        }
    }
}

impl Preparing {
    /// The next batch. What fails of the partition is an event, since the stream outlives it.
    ///
    /// # Errors
    /// `Internal` if encoding panics.
    pub(super) async fn next(self, mut encoder: Encoder, reader: Reader) -> Result<Read> {
        let mut reader = match reader {
            Reader::Rows(reader) => reader,
            Reader::Files(reading) => return self.bytes(encoder, reading).await,
        };
        let batch = match reader.next().await.transpose() {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok(Read::over(encoder, Event::End)),
            Err(error) => return Ok(Read::over(encoder, Event::ReadFailed(error))),
        };
        let lease = match self.oversized(&batch).await {
            Ok(lease) => lease,
            Err(error) => return Ok(Read::over(encoder, Event::ReadFailed(error))),
        };
        let (selection, frame_bytes_max) = (self.selection.clone(), self.frame_bytes_max);
        let work = move || {
            let encoded = encode(&mut encoder, &selection, batch, frame_bytes_max);
            Ok((encoder, encoded))
        };
        let (encoder, encoded) = self.cpu.run(work).await?;
        let (encoded, encoding) = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return Ok(Read::over(encoder, Event::ReadFailed(error))),
        };
        let begun = Instant::now();
        let event = self.admitted(encoded).await;
        Ok(Read {
            encoder,
            reader: Some(Reader::Rows(reader)),
            event,
            lease,
            encoding,
            admitting: begun.elapsed(),
        })
    }

    /// The next bytes of files.
    async fn bytes(self, encoder: Encoder, mut reading: Box<Reading>) -> Result<Read> {
        if reading.is_over() {
            return Ok(Read::over(encoder, Event::End));
        }
        let frame_bytes_max = self.frame_bytes_max;
        let work = move || {
            let encoded = reading.next(frame_bytes_max)?;
            Ok((reading, encoded))
        };
        let read = within(self.engine_timeout, "read", self.cpu.run(work)).await;
        let (reading, encoded) = match read {
            Ok(read) => read,
            Err(error) => return Ok(Read::over(encoder, Event::ReadFailed(error))),
        };
        let begun = Instant::now();
        let event = self.admitted(encoded).await;
        Ok(Read {
            reader: Some(Reader::Files(reading)),
            admitting: begun.elapsed(),
            ..Read::over(encoder, event)
        })
    }

    /// The batch once it may be sent. A soft stop does not wait for that: the batch is dropped then, as if it had not been read.
    async fn admitted(&self, encoded: Encoded) -> Event {
        let frames = encoded.frames.iter();
        let wire_bytes = frames.map(|frame| frame.payload.len() as u64).sum();
        tokio::select! {
            biased;
            () = self.bandwidth.admit(wire_bytes) => Event::Batch(encoded),
            () = self.shutdown.draining() => Event::Drain,
        }
    }

    /// A row that is larger than a frame takes a lease of its own before it is encoded.
    async fn oversized(&self, batch: &Batch) -> Result<Option<Lease>> {
        let bytes = slice_bytes(&batch.records);
        if bytes <= self.frame_bytes_max {
            return Ok(None);
        }
        let lease = self.budget.lease_alone(bytes.saturating_mul(2)).await;
        lease
            .map(Some)
            .map_err(|error| error.context(format!("a row of {bytes} bytes")))
    }
}

/// The selected rows, encoded, and how long only that took.
fn encode(
    encoder: &mut Encoder,
    selection: &Selection,
    batch: Batch,
    frame_bytes_max: u64,
) -> Result<(Encoded, Duration)> {
    let selected = selection.filter(&batch.records)?;
    drop(batch.records);
    let rows = selected.num_rows() as u64;
    let digest = if rows > 0 {
        digest(&selected)?
    } else {
        Digest::default()
    };
    let begun = Instant::now();
    let frames = encoder.encode(&selected, frame_bytes_max)?;
    let encoded = Encoded {
        file: None,
        frames,
        end: Some(batch.end),
        rows,
        digest,
    };
    Ok((encoded, begun.elapsed()))
}
