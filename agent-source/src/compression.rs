//! How the frames of a stream are compressed: as set, or by what the stream waits for.
//!
//! A plain state machine: no clock, no socket, no zstd. [`stream`](crate::stream) measures and feeds it.
//!
//! With `auto` a stream begins without compression, and every [`FRAMES_PER_STEP`] frames takes one step up if it waited for the way to the sink for
//! more than half of the time (compression costs nothing then, and there is less to carry), or one step down if encoding took more than half. What
//! the engines of both sides take is neither: more compression would not make them faster, nor less.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strait_common::frame::Compression;
use strait_common::{Error, Result};

/// How frames are compressed, as an operator sets it: `auto`, `none`, `zstd` or `zstd:LEVEL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// As the stream's own waiting says.
    Auto,
    /// Always so.
    Fixed(Compression),
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Policy> {
        let wrong = || {
            Error::config(format!(
                "'{text}' is no compression; write auto, none, zstd or zstd:LEVEL with a level from 1 to 19"
            ))
        };
        Ok(match text.split_once(':') {
            None if text == "auto" => Policy::Auto,
            None if text == "none" => Policy::Fixed(Compression::None),
            None if text == "zstd" => Policy::Fixed(Compression::Zstd(1)),
            Some(("zstd", level)) => {
                let level = level.parse().ok().filter(|level| (1..=19).contains(level));
                Policy::Fixed(Compression::Zstd(level.ok_or_else(wrong)?))
            }
            _ => return Err(wrong()),
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Auto => f.write_str("auto"),
            Policy::Fixed(Compression::None) => f.write_str("none"),
            Policy::Fixed(Compression::Zstd(level)) => write!(f, "zstd:{level}"),
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = Error;

    fn try_from(text: String) -> Result<Policy> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> String {
        policy.to_string()
    }
}

/// Frames after which `auto` decides again.
pub const FRAMES_PER_STEP: u64 = 32;

/// What `auto` chooses from, the cheapest first. Higher levels cost several times as much for a few percent of the bytes.
const STEPS: [Compression; 3] = [
    Compression::None,
    Compression::Zstd(1),
    Compression::Zstd(3),
];

/// What the time of some frames was spent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// All of it.
    pub elapsed: Duration,
    /// Waiting for the way to the sink: the socket, bandwidth, or credit that the sink's engine did not hold back.
    pub link: Duration,
    /// Encoding and compressing.
    pub encoding: Duration,
}

/// How one stream compresses now.
#[derive(Debug)]
pub struct Steps {
    policy: Policy,
    at: usize,
}

impl Steps {
    /// A stream that begins.
    pub fn new(policy: Policy) -> Steps {
        Steps { policy, at: 0 }
    }

    /// How the next frame is compressed.
    pub fn compression(&self) -> Compression {
        match self.policy {
            Policy::Auto => STEPS[self.at],
            Policy::Fixed(compression) => compression,
        }
    }

    /// Decides anew, after [`FRAMES_PER_STEP`] frames that took so long.
    pub fn decide(&mut self, spent: Spent) {
        let more_than_half = |part: Duration| part * 2 > spent.elapsed;
        // Who waits that long does not encode that long, but for clocks; then the wire decides.
        if more_than_half(spent.link) {
            self.at = (self.at + 1).min(STEPS.len() - 1);
        } else if more_than_half(spent.encoding) {
            self.at = self.at.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(link: u64, encoding: u64) -> Spent {
        Spent {
            elapsed: Duration::from_secs(100),
            link: Duration::from_secs(link),
            encoding: Duration::from_secs(encoding),
        }
    }

    fn after(decisions: &[Spent]) -> Compression {
        let mut steps = Steps::new(Policy::Auto);
        decisions.iter().for_each(|&spent| steps.decide(spent));
        steps.compression()
    }

    const WAITS: (u64, u64) = (51, 10);
    const ENCODES: (u64, u64) = (10, 51);

    #[test]
    fn a_stream_that_waits_for_the_wire_goes_up_one_step_at_a_time_and_no_further_than_the_last() {
        let waits = spent(WAITS.0, WAITS.1);
        assert_eq!(after(&[]), Compression::None);
        assert_eq!(after(&[waits]), Compression::Zstd(1));
        assert_eq!(after(&[waits; 2]), Compression::Zstd(3));
        assert_eq!(after(&[waits; 9]), Compression::Zstd(3));
    }

    #[test]
    fn a_stream_that_encodes_most_of_the_time_goes_down_one_step_at_a_time() {
        let (waits, encodes) = (spent(WAITS.0, WAITS.1), spent(ENCODES.0, ENCODES.1));
        assert_eq!(after(&[encodes]), Compression::None);
        assert_eq!(after(&[waits, waits, encodes]), Compression::Zstd(1));
        assert_eq!(
            after(&[waits, waits, waits, encodes, encodes]),
            Compression::None
        );
        assert_eq!(after(&[waits, encodes, waits]), Compression::Zstd(1));
    }

    #[test]
    fn half_is_not_more_than_half_and_engines_are_neither() {
        let waits = spent(WAITS.0, WAITS.1);
        for idle in [spent(50, 50), spent(0, 0), spent(50, 0), spent(0, 50)] {
            assert_eq!(after(&[idle; 9]), Compression::None, "{idle:?}");
            assert_eq!(after(&[waits, idle]), Compression::Zstd(1), "{idle:?}");
        }
        assert_eq!(after(&[Spent::default()]), Compression::None);
    }

    #[test]
    fn what_is_set_stays() {
        for compression in [Compression::None, Compression::Zstd(7)] {
            let mut steps = Steps::new(Policy::Fixed(compression));
            for (link, encoding) in [WAITS, WAITS, ENCODES, ENCODES, ENCODES] {
                assert_eq!(steps.compression(), compression);
                steps.decide(spent(link, encoding));
            }
        }
    }

    #[test]
    fn policies_read_back_from_their_text() {
        for text in ["auto", "none", "zstd:1", "zstd:19"] {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        assert_eq!(
            "zstd".parse::<Policy>().unwrap(),
            Policy::Fixed(Compression::Zstd(1))
        );
        for text in [
            "", "1", "gzip", "zstd:", "zstd:0", "zstd:20", "auto:1", "none:1",
        ] {
            assert!(text.parse::<Policy>().is_err(), "{text}");
        }
    }
}
