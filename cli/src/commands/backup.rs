//! `strait backup` and `strait restore`: a sync to a directory and one from it, which mirror unless they are told otherwise.

use strait_common::Error;

use super::sync;
use crate::client::Connection;
use crate::report::{Failure, Outcome, Output, Result};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Backup,
    Restore,
}

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    way: Way,
    arguments: sync::Arguments,
) -> Result<Outcome> {
    let selectors = arguments.selectors();
    let (flag, place) = match way {
        Way::Backup => ("--to", &selectors.to),
        Way::Restore => ("--from", &selectors.from),
    };
    if !place.starts_with("file://") {
        return Err(Failure::from(Error::config(format!(
            "{flag} {place} is no directory; write {flag} file:///absolute/directory, or use `strait sync` between two clusters"
        ))));
    }
    sync::run(connection, output, arguments.or_mirror()).await
}
