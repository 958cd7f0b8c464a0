//! What somebody asks for, before anything is resolved: an operator's command, a member of a group, a job.

use serde::{Deserialize, Serialize};
use strait_common::ids::RunId;
use strait_common::selection::SelectionSpec;
use strait_common::{Error, Result};
use strait_proto::v1;

use crate::job::{Mode, Order, PassThrough, Spec};

/// All that is asked for but the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Which rows and columns.
    #[serde(flatten)]
    pub selection: SelectionSpec,
    /// What happens to the rows that B has.
    #[serde(flatten)]
    pub mode: Mode,
    /// Whether somebody has named that: rows that no run has put there are touched only then.
    pub mode_named: bool,
    /// What happens to columns that B's table lacks.
    pub columns_lacking: Lacking,
    /// Columns whose values go into B's type where that is another one.
    #[serde(default)]
    pub narrow: Vec<String>,
    /// At most this many streams at a time; the agent's own limit if 0.
    pub streams: u32,
    /// The most that the frames take on the wire, in bytes a second.
    pub bandwidth_max: Option<u64>,
    /// Begin although B seems to lack the room.
    pub without_room: bool,
    /// Which partitions come first.
    pub order: Order,
    /// Whether files travel as they are.
    #[serde(default)]
    pub pass_through: PassThrough,
}

/// What happens to columns that B's table lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lacking {
    /// They are added.
    #[default]
    Evolve,
    /// The run is refused.
    Freeze,
    /// They are left out.
    Ignore,
}

impl From<Lacking> for v1::SchemaPolicy {
    fn from(lacking: Lacking) -> v1::SchemaPolicy {
        match lacking {
            Lacking::Evolve => v1::SchemaPolicy::Evolve,
            Lacking::Freeze => v1::SchemaPolicy::Freeze,
            Lacking::Ignore => v1::SchemaPolicy::Ignore,
        }
    }
}

impl From<v1::SchemaPolicy> for Lacking {
    fn from(policy: v1::SchemaPolicy) -> Lacking {
        match policy {
            v1::SchemaPolicy::Unspecified | v1::SchemaPolicy::Evolve => Lacking::Evolve,
            v1::SchemaPolicy::Freeze => Lacking::Freeze,
            v1::SchemaPolicy::Ignore => Lacking::Ignore,
        }
    }
}

/// Which rows and columns an operator asks for; what is empty is not asked for.
pub fn selection(selectors: v1::Selectors) -> SelectionSpec {
    let some = |text: String| Some(text).filter(|text| !text.trim().is_empty());
    SelectionSpec {
        predicate: selectors.r#where.and_then(some),
        columns: Some(selectors.columns).filter(|columns| !columns.is_empty()),
        zone: some(selectors.zone),
    }
}

fn narrow(selectors: &Option<v1::Selectors>) -> Vec<String> {
    let selectors = selectors.iter();
    selectors.flat_map(|asked| asked.narrow.clone()).collect()
}

impl TryFrom<v1::StartRunRequest> for Terms {
    type Error = Error;

    fn try_from(request: v1::StartRunRequest) -> Result<Terms> {
        let kind = request.mode.unwrap_or_default().kind();
        Ok(Terms {
            mode: Mode::try_from(request.mode)?,
            mode_named: kind != v1::mode::Kind::Unspecified,
            columns_lacking: request.schema_policy().into(),
            narrow: narrow(&request.selectors),
            streams: request.streams,
            bandwidth_max: request.bandwidth_max,
            without_room: request.without_room,
            order: request.order().into(),
            pass_through: (request.selectors.as_ref())
                .map(|selectors| selectors.pass_through().into())
                .unwrap_or_default(),
            selection: selection(request.selectors.unwrap_or_default()),
        })
    }
}

impl From<v1::Order> for Order {
    fn from(order: v1::Order) -> Order {
        match order {
            v1::Order::Unspecified | v1::Order::Oldest => Order::Oldest,
            v1::Order::Newest => Order::Newest,
        }
    }
}

/// One run that is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The id that it gets, if it is begun.
    pub id: RunId,
    /// From where to where, and which rows and columns.
    pub spec: Spec,
    /// The rest.
    pub terms: Terms,
    /// What `now()` means: nanoseconds since 1970 in UTC.
    pub now: i64,
    /// Whether a run under way serves only if its `now()` means the same.
    pub exact_now: bool,
    /// Other meanings of `now()` whose rows are selected, too.
    pub also: Vec<i64>,
    /// Values of the first dividing column before the selected ones that are looked at, too.
    pub lookback: u32,
}

impl Asked {
    /// The run that an operator asks for, at this moment.
    ///
    /// # Errors
    /// `Config` if it makes no sense.
    pub fn by_operator(request: v1::StartRunRequest, now: i64) -> Result<Asked> {
        let spec = Spec::try_from(request.selectors.clone().unwrap_or_default())?;
        Ok(Asked {
            id: RunId::random(),
            spec,
            terms: Terms::try_from(request)?,
            now,
            exact_now: false,
            also: Vec::new(),
            lookback: 0,
        })
    }

    /// Whether a run with this job does what is asked for.
    pub fn is_done_by(&self, job: &crate::job::Job) -> bool {
        job.spec == self.spec
            && job.mode == self.terms.mode
            && (!self.exact_now || job.now == self.now)
    }
}
