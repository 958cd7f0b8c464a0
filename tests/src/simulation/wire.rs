//! Streams and calls between the agents: what has been said and not yet heard, and the trouble on the way.

use std::collections::VecDeque;

use strait_common::engine::{Claim, Confirmed, Holding, Outcome, Position};
use strait_common::frame::{Compression, Decoder, Encoder, Frame};
use strait_common::ids::{Epoch, RunId};
use strait_common::{Error, Result};
use strait_proto::v1;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;

use super::cluster;

/// One `Copy` stream.
#[derive(Debug)]
pub struct Stream {
    /// The agent that opened it, and in which of its attempts.
    pub source: usize,
    /// See `source`.
    pub attempt: u64,
    /// The process that serves it.
    pub sink: usize,
    /// On the way to the sink.
    pub up: VecDeque<Up>,
    /// On the way to the source.
    pub down: VecDeque<Down>,
    /// Whether the source still listens.
    pub source_listens: bool,
    /// Whether the sink still listens.
    pub sink_listens: bool,
    /// Nothing moves on it before this step.
    pub asleep_until: u64,
}

/// To the sink.
#[derive(Debug)]
pub enum Up {
    /// The first message.
    Open {
        /// The run.
        run: RunId,
        /// The epoch that its attach was given.
        epoch: Epoch,
    },
    /// Any later one.
    Request(Box<Request>),
    /// The source is done with the stream.
    End,
}

/// To the source.
#[derive(Debug)]
pub enum Down {
    /// The lease is granted.
    Opened,
    /// Any later answer.
    Reply(Reply),
    /// The stream has ended, with an error or without.
    End(Option<Error>),
}

/// A call that is not a stream.
#[derive(Debug)]
pub struct Call {
    /// Who asks, and in which attempt.
    pub source: usize,
    /// See `source`.
    pub attempt: u64,
    /// Who is asked.
    pub sink: usize,
    /// What.
    pub request: CallRequest,
    /// The answer, once there is one.
    pub answer: Option<Result<CallReply>>,
    /// Whether the source still waits.
    pub awaited: bool,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum CallRequest {
    /// Take the claim.
    Attach(Claim),
    /// Write that these were found equal.
    Confirm {
        /// The run.
        run: RunId,
        /// The epoch of the attempt.
        epoch: Epoch,
        /// What was found.
        confirmed: Vec<Confirmed>,
    },
    /// End it.
    Complete {
        /// The run.
        run: RunId,
        /// The epoch of the attempt.
        epoch: Epoch,
        /// How it ended.
        outcome: Outcome,
    },
}

/// What is answered.
#[derive(Debug)]
pub enum CallReply {
    /// The claim is taken. What the sink holds is told at once: whatever happens between the two questions can happen after both.
    Attached(Epoch, Vec<Position>, Vec<Holding>),
    /// It is written that partitions were found equal.
    Confirmed,
    /// It has ended.
    Completed,
}

/// What can happen to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// It is lost.
    Drop,
    /// It comes twice.
    Double,
    /// It comes after the next one.
    Swap,
    /// A bit of its payload flips.
    Flip,
    /// A frame loses its last row and is well-formed.
    Shorten,
}

impl Mischief {
    /// Every kind.
    pub const ALL: [Mischief; 5] = [
        Mischief::Drop,
        Mischief::Double,
        Mischief::Swap,
        Mischief::Flip,
        Mischief::Shorten,
    ];

    /// Does it to the message at `at`. Says whether it could.
    pub fn befall(self, up: &mut VecDeque<Up>, at: usize) -> bool {
        let Some(Up::Request(request)) = up.get(at) else {
            return false;
        };
        match self {
            Mischief::Drop => {
                up.remove(at);
                true
            }
            Mischief::Double => {
                let copy = Up::Request(request.clone());
                up.insert(at, copy);
                true
            }
            Mischief::Swap => {
                let possible = matches!(up.get(at + 1), Some(Up::Request(_)));
                if possible {
                    up.swap(at, at + 1);
                }
                possible
            }
            Mischief::Flip => {
                let Some(Up::Request(request)) = up.get_mut(at) else {
                    return false;
                };
                let Request::Frame(frame) = request.as_mut() else {
                    return false;
                };
                let mut payload = frame.payload.to_vec();
                let Some(byte) = payload.get_mut(frame.payload.len() / 2) else {
                    return false;
                };
                *byte ^= 1;
                frame.payload = payload.into();
                true
            }
            Mischief::Shorten => {
                let Some(Up::Request(request)) = up.get_mut(at) else {
                    return false;
                };
                let Request::Frame(frame) = request.as_mut() else {
                    return false;
                };
                match shortened(frame) {
                    Some(shorter) => {
                        *frame = shorter;
                        true
                    }
                    None => false,
                }
            }
        }
    }
}

/// A frame as the codec knows it.
pub fn unwrapped(frame: &v1::Frame) -> Frame {
    Frame {
        rows: frame.rows,
        raw_bytes: frame.raw_bytes,
        compressed: frame.compression() == v1::Compression::Zstd,
        checksum: frame.checksum,
        payload: frame.payload.clone(),
    }
}

fn shortened(frame: &v1::Frame) -> Option<v1::Frame> {
    if frame.rows < 2 {
        return None;
    }
    let mut decoder = Decoder::new(cluster::schema()).ok()?;
    let rows = decoder.decode(unwrapped(frame)).ok()?;
    let rows = rows.slice(0, rows.num_rows() - 1);
    let mut encoder = Encoder::new(Compression::None).ok()?;
    let shorter = encoder.encode(&rows, u64::MAX).ok()?.pop()?;
    Some(v1::Frame {
        rows: shorter.rows,
        raw_bytes: shorter.raw_bytes,
        wire_bytes: shorter.payload.len() as u64,
        checksum: shorter.checksum,
        payload: shorter.payload,
        ..frame.clone()
    })
}
