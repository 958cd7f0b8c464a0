//! One file per command.

pub(crate) mod health;
pub(crate) mod plan;
pub(crate) mod runs;
pub(crate) mod sync;
pub(crate) mod verify;
pub(crate) mod watch;

use strait_proto::v1;

/// What to copy, from where, to where.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Selectors {
    /// The table at the source, as in live:db1/mt
    #[arg(long, value_name = "STORE:DATABASE/TABLE")]
    pub(crate) from: String,
    /// The table at the sink, as in dr:db1/mt
    #[arg(long, value_name = "SINK[/STORE]:DATABASE/TABLE")]
    pub(crate) to: String,
    /// Rows to copy, as the where clause of SQL
    #[arg(long = "where", value_name = "PREDICATE")]
    pub(crate) predicate: Option<String>,
    /// Columns to copy, in this order; all of them without it
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// Time zone in which civil times are read, as in Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
}

impl From<Selectors> for v1::Selectors {
    fn from(selectors: Selectors) -> v1::Selectors {
        v1::Selectors {
            from: selectors.from,
            to: selectors.to,
            r#where: selectors.predicate,
            columns: selectors.columns,
            zone: selectors.zone.unwrap_or_default(),
        }
    }
}
