//! A whole life of source and sink agents in one thread, under a seed: the real sessions, the real run and its store, over the engine
//! in memory; the network, the processes and the clusters' users are played by [`world`], which lets go wrong whatever can.
//!
//! One seed is one life: steps taken in an order that the seed chooses, until the trouble ends; then an operator does what the handbook says,
//! and the run must end. After every step each partition of B must be absent or hold exactly the selected rows of one version of A's; a run that
//! reports a partition as copied must be right. Equal seeds give equal lives, so a failure is replayed with
//! `cargo run --release --example simulate -- SEED`.
//!
//! What goes wrong: either agent is killed, between any two acts on the store too; a source's state is lost, restored from a copy
//! (two agents with one identity), or both; a second sink process serves the same store; messages of streams that their source has left still
//! arrive; finishes are late; answers are lost; frames are dropped, doubled, swapped, flipped or short of rows; A's users add
//! rows under way; operators resume, adopt, abandon, and begin new runs.
//!
//! [`Broken`] names one rule of exactly once at a time that a life breaks on purpose: a simulation that finds nothing then
//! would prove nothing otherwise.

pub mod cluster;
pub mod rules;
pub mod sink;
pub mod source;
pub mod wire;
pub mod world;

pub use rules::Broken;

use world::World;

/// How a life ended.
#[derive(Debug)]
pub struct Life {
    /// What was wrong, if something was.
    pub fault: Option<String>,
    /// What happened, if asked for: a line per step.
    pub trace: Vec<String>,
    /// What went on in it.
    pub figures: Figures,
}

/// How much happened in a life, or in many: that faults are not merely possible but happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Steps taken.
    pub steps: u64,
    /// Runs that ended done or partial.
    pub completed: u64,
    /// Partitions that a run reported as copied.
    pub copied: u64,
    /// Partitions that a mirror read and found equal.
    pub confirmed: u64,
    /// Attempts that went on from a position in mid-partition.
    pub resumed: u64,
    /// Partitions begun as files, from wherever.
    pub as_files: u64,
    /// Partitions begun from their start as rows, of which files were staged.
    pub turned: u64,
    /// Attempts ended by a newer one.
    pub fenced: u64,
    /// Partitions that changed under a run.
    pub moved: u64,
    /// Processes killed, both sides.
    pub killed: u64,
    /// Messages that arrived after their source had left the stream.
    pub stale: u64,
    /// Chunks or partitions refused because their sums did not agree, and streams ended because of messages out of order.
    pub corrupt: u64,
    /// Runs taken over by an agent that had lost its state.
    pub adopted: u64,
    /// Runs given up.
    pub abandoned: u64,
    /// Runs refused because another one owned the table.
    pub refused: u64,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Figures) {
        self.steps += other.steps;
        self.completed += other.completed;
        self.copied += other.copied;
        self.confirmed += other.confirmed;
        self.resumed += other.resumed;
        self.as_files += other.as_files;
        self.turned += other.turned;
        self.fenced += other.fenced;
        self.moved += other.moved;
        self.killed += other.killed;
        self.stale += other.stale;
        self.corrupt += other.corrupt;
        self.adopted += other.adopted;
        self.abandoned += other.abandoned;
        self.refused += other.refused;
    }
}

/// Lives the life of this seed.
pub fn live(seed: u64, broken: Option<Broken>, traced: bool) -> Life {
    let mut world = match World::new(seed, broken, traced) {
        Ok(world) => world,
        Err(error) => {
            return Life {
                fault: Some(format!("the world does not begin: {error}")),
                trace: Vec::new(),
                figures: Figures::default(),
            };
        }
    };
    let fault = world.live().err().map(|fault| fault.0);
    Life {
        fault,
        trace: world.trace,
        figures: world.figures,
    }
}
