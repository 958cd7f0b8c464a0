//! What a Delta table may demand of whoever reads or writes it, and which of that this engine does. The rest is refused by name.

use delta_kernel::table_configuration::TableConfiguration;
use strait_common::{Error, Result};

use crate::table::Opened;

/// Features that this engine reads correctly. Of the last two only a table that has them switched off, or not used yet.
const READER_FEATURES: &[&str] = &[
    "timestampNtz",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "columnMapping",
    "deletionVectors",
];
/// Features that the crate commits to, and that appends and replaced partitions keep.
const WRITER_FEATURES: &[&str] = &[
    "appendOnly",
    "checkpointProtection",
    "deletionVectors",
    "timestampNtz",
    "v2Checkpoint",
];
/// Versions of the protocol that list features, and those up to which a version alone says what is needed.
const READER_VERSION_MAX: i32 = 3;
const WRITER_VERSION_FEATURES: i32 = 7;
const WRITER_VERSION_LEGACY_MAX: i32 = 2;
/// The least that a table's transaction retention must be, in days: the ledger needs its transactions.
const RETENTION_DAYS_MIN: f64 = 90.0;

/// Why nothing is replaced or dropped.
pub const APPEND_ONLY: &str = "it is append only (delta.appendOnly): partitions cannot be replaced or dropped; append, or unset it";

/// Checks that a table's rows can be read.
///
/// # Errors
/// `Refused`, naming what it needs.
pub fn check_readable(table: &TableConfiguration) -> Result<()> {
    let configuration = table.metadata().configuration();
    if let Some(mode) = configuration.get("delta.columnMapping.mode")
        && mode != "none"
    {
        return Err(Error::refused(format!(
            "column mapping ({mode}) is not supported"
        )));
    }
    if configuration
        .get("delta.enableDeletionVectors")
        .is_some_and(|value| value == "true")
    {
        return Err(Error::refused(
            "deletion vectors (delta.enableDeletionVectors) are not supported",
        ));
    }
    let protocol = table.protocol();
    let version = protocol.min_reader_version();
    if version > READER_VERSION_MAX {
        return Err(Error::refused(format!(
            "the table needs reader version {version}, which is not supported"
        )));
    }
    for feature in protocol.reader_features().unwrap_or_default() {
        if !READER_FEATURES.contains(&feature.as_ref()) {
            return Err(Error::refused(format!(
                "the table needs the reader feature {feature}, which is not supported"
            )));
        }
    }
    Ok(())
}

/// Checks that rows can be added to a table, and counted once.
///
/// # Errors
/// `Refused`, naming what is in the way.
pub fn check_writable(opened: &Opened) -> Result<()> {
    let table = opened.configuration();
    let protocol = table.protocol();
    let version = protocol.min_writer_version();
    match version {
        ..=WRITER_VERSION_LEGACY_MAX => {}
        WRITER_VERSION_FEATURES => {
            for feature in protocol.writer_features().unwrap_or_default() {
                if !WRITER_FEATURES.contains(&feature.as_ref()) {
                    return Err(Error::refused(format!(
                        "the table needs the writer feature {feature}, which is not supported"
                    )));
                }
            }
        }
        _ => {
            return Err(Error::refused(format!(
                "the table needs writer version {version}, which is not supported"
            )));
        }
    }
    // Version 2 includes these, used or not.
    for field in table.logical_schema().fields() {
        if field.metadata().contains_key("delta.invariants") {
            return Err(Error::refused(format!(
                "column {} has an invariant (delta.invariants), which is not supported",
                field.name()
            )));
        }
    }
    if let Some(retention) = table
        .metadata()
        .configuration()
        .get("delta.setTransactionRetentionDuration")
        && retention_days(retention).is_none_or(|days| days < RETENTION_DAYS_MIN)
    {
        return Err(Error::refused(format!(
            "delta.setTransactionRetentionDuration is '{retention}': rows are counted once only while transactions are kept; unset it, or set at least 90 \
             days"
        )));
    }
    Ok(())
}

/// Whether rows must never go from a table.
pub fn append_only(opened: &Opened) -> bool {
    let configuration = opened.configuration().metadata().configuration();
    configuration
        .get("delta.appendOnly")
        .is_some_and(|value| value == "true")
}

/// Checks that rows may go.
///
/// # Errors
/// `Refused` if they must not.
pub fn check_removable(opened: &Opened) -> Result<()> {
    if append_only(opened) {
        return Err(Error::refused(APPEND_ONLY));
    }
    Ok(())
}

fn retention_days(text: &str) -> Option<f64> {
    let mut words = text.trim().strip_prefix("interval")?.split_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    let days = match words.next()?.trim_end_matches('s') {
        "second" => 1.0 / 86_400.0,
        "minute" => 1.0 / 1440.0,
        "hour" => 1.0 / 24.0,
        "day" => 1.0,
        "week" => 7.0,
        _ => return None,
    };
    words.next().is_none().then_some(number * days)
}
