//! One file per command.

pub(crate) mod backup;
pub(crate) mod bundle;
pub(crate) mod groups;
pub(crate) mod health;
pub(crate) mod job;
pub(crate) mod plan;
pub(crate) mod runs;
pub(crate) mod sync;
pub(crate) mod tables;
pub(crate) mod vacuum;
pub(crate) mod verify;
pub(crate) mod watch;

use clap::ValueEnum;
use strait_proto::v1;

use crate::client::Connection;
use crate::report::Result;

/// What to copy, from where, to where.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Selectors {
    /// The table at the source, as in live:db1/mt; several, as in live:db1/*; or a directory that was backed up to, as in file:///backup
    #[arg(long, value_name = "STORE:DATABASE/TABLE")]
    pub(crate) from: String,
    /// The table at the sink, as in dr:db1/mt, or a directory on the agent's machine, as in file:///backup; each * takes what the one of --from has matched
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
    /// Only partitions whose keys fit this pattern, in which * is any text, as in 'TradingDay=2026-11-*'; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) partitions: Vec<String>,
    /// Leave out what has arrived by these receipts (`strait bundle receipt`), a file on the agent's machine
    #[arg(long, value_name = "FILE")]
    pub(crate) receipts: Option<String>,
    /// Columns whose values go into the type that the sink's table has, where that is another one; a value that does not fit exactly stops its partition
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub(crate) narrow: Vec<String>,
}

impl From<Selectors> for v1::Selectors {
    fn from(selectors: Selectors) -> v1::Selectors {
        v1::Selectors {
            from: selectors.from,
            to: selectors.to,
            r#where: selectors.predicate,
            columns: selectors.columns,
            zone: selectors.zone.unwrap_or_default(),
            partitions: selectors.partitions,
            receipts: selectors.receipts.unwrap_or_default(),
            narrow: selectors.narrow,
            pass_through: v1::PassThrough::Unspecified.into(),
        }
    }
}

/// Which of the tables that a * in --from names.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Several {
    /// Of the tables that a * in --from names only those of this pattern, as in mt_* or db1/mt_*; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// Not those of this pattern; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
}

impl Several {
    /// Whether several tables are asked for, and not one by its name.
    pub(crate) fn are_asked_for(&self, selectors: &Selectors) -> bool {
        let stars = selectors.from.contains('*') || selectors.to.contains('*');
        stars || !self.include.is_empty() || !self.exclude.is_empty()
    }

    /// The selectors of each table.
    pub(crate) async fn each(
        self,
        connection: &Connection,
        selectors: &Selectors,
    ) -> Result<Vec<Selectors>> {
        let request = v1::MatchTablesRequest {
            from: selectors.from.clone(),
            to: selectors.to.clone(),
            include: self.include,
            exclude: self.exclude,
        };
        let pairs = connection.control().match_tables(request).await?;
        let pairs = pairs.into_inner().pairs.into_iter();
        let each = pairs.map(|pair| Selectors {
            from: pair.from,
            to: pair.to,
            ..selectors.clone()
        });
        Ok(each.collect())
    }
}

/// Which partitions come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Those with the least keys
    #[default]
    Oldest,
    /// Those with the greatest keys
    Newest,
}

impl From<Order> for v1::Order {
    fn from(order: Order) -> v1::Order {
        match order {
            Order::Oldest => v1::Order::Oldest,
            Order::Newest => v1::Order::Newest,
        }
    }
}

/// What happens to the rows that B has.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModeArguments {
    /// What happens to the rows that the sink has [default: append, to a table that is empty or known to earlier runs]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// How --mode mirror tells that a partition is equal [default: versions]
    #[arg(long, value_enum, value_name = "HOW")]
    check: Option<Check>,
    /// With --mode mirror: drop partitions that the source no longer has, unless there are more than this [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    allow_drop: u64,
    /// What happens to columns that the sink's table lacks
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = SchemaPolicy::Evolve)]
    schema: SchemaPolicy,
    /// Whether files of partitions that are selected whole travel as they are, where both sides keep tables alike
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = PassThrough::Auto)]
    pass_through: PassThrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PassThrough {
    /// Where they can
    Auto,
    /// Rows are decoded, checked one by one and encoded
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SchemaPolicy {
    /// They are added; what the sink has already is null in them
    Evolve,
    /// The run is refused
    Freeze,
    /// They are left out of the run
    Ignore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// They stay, and the run's join them
    Append,
    /// Each selected partition of the source takes the place of the sink's
    Replace,
    /// Partitions that differ are replaced, equal ones are left, and those that only the sink has are reported, or dropped
    Mirror,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Check {
    /// By versions where both sides are as the last receipt left them, else by digests
    Versions,
    /// By digests always: both sides are read
    Digests,
}

impl ModeArguments {
    /// The same, which mirrors unless another mode is named.
    pub(crate) fn or_mirror(self) -> ModeArguments {
        ModeArguments {
            mode: self.mode.or(Some(Mode::Mirror)),
            ..self
        }
    }

    pub(crate) fn schema_policy(&self) -> v1::SchemaPolicy {
        match self.schema {
            SchemaPolicy::Evolve => v1::SchemaPolicy::Evolve,
            SchemaPolicy::Freeze => v1::SchemaPolicy::Freeze,
            SchemaPolicy::Ignore => v1::SchemaPolicy::Ignore,
        }
    }

    /// What is selected, for the wire.
    pub(crate) fn selectors(&self, selectors: Selectors) -> v1::Selectors {
        let pass_through = match self.pass_through {
            PassThrough::Auto => v1::PassThrough::Auto,
            PassThrough::Never => v1::PassThrough::Never,
        };
        v1::Selectors {
            pass_through: pass_through.into(),
            ..selectors.into()
        }
    }

    /// For the wire; `again` is of append.
    pub(crate) fn message(&self, again: bool) -> v1::Mode {
        use v1::mode::Kind;
        v1::Mode {
            kind: match self.mode {
                None => Kind::Unspecified,
                Some(Mode::Append) => Kind::Append,
                Some(Mode::Replace) => Kind::Replace,
                Some(Mode::Mirror) => Kind::Mirror,
            }
            .into(),
            again,
            check: match self.check {
                None => v1::Check::Unspecified,
                Some(Check::Versions) => v1::Check::Versions,
                Some(Check::Digests) => v1::Check::Digests,
            }
            .into(),
            allow_drop: self.allow_drop,
        }
    }
}
