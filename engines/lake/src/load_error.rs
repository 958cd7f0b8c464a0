//! Why a table could not be opened, told by what the error is and not by what it says: whether a retry can help, whether what was asked for is gone,
//! whether this release lacks something, or whether the log is broken.

use std::error::Error as StdError;
use std::io;

use arrow::error::ArrowError;
use delta_kernel::error::Error as KernelError;
use deltalake::DeltaTableError;
use parquet::errors::ParquetError;
use strait_common::ids::TableName;
use strait_common::{Error, Kind};

/// What kept a table from being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The disk, or what the process may use of it: another time it can be otherwise.
    Disk,
    /// A file, or all of the log, is not there.
    Gone,
    /// Something that the libraries do not know.
    Unsupported,
    /// The files are there and say what cannot be.
    Broken,
    /// The kernel has only a text for it. Among these: the log has no such version, or lacks entries below it.
    Untold,
}

/// The error of a table that could not be opened; at `version`, or where that is none as it is now.
pub(crate) fn load_error(table: &TableName, version: Option<u64>, error: DeltaTableError) -> Error {
    let trouble = of_delta(&error);
    let no_log = matches!(error, DeltaTableError::NotATable(_));
    let error_is = |kind, text: String| Error::new(kind, text).with_source(error);
    match (trouble, version) {
        (Trouble::Disk, _) => error_is(
            Kind::Unavailable,
            format!("the log of table {table} cannot be read now"),
        ),
        (Trouble::Unsupported, _) => error_is(
            Kind::Refused,
            format!("table {table} needs what this release does not support"),
        ),
        (Trouble::Gone | Trouble::Untold, Some(version)) => error_is(
            Kind::Moved,
            format!("version {version} of table {table} cannot be read any more"),
        ),
        // The whole log is gone, or had never begun.
        (Trouble::Gone, None) if no_log => {
            error_is(Kind::Config, format!("table {table} is not there any more"))
        }
        // One file of a log that was listed a moment ago: the next listing tells what has replaced it.
        (Trouble::Gone, None) => error_is(
            Kind::Unavailable,
            format!("the log of table {table} has changed while it was read"),
        ),
        (Trouble::Broken, _) | (Trouble::Untold, None) => error_is(
            Kind::Corrupt,
            format!("the log of table {table} cannot be read"),
        ),
    }
}

/// The kind of an error in reading a data file that was there a moment ago.
pub(crate) fn data_kind(error: &ParquetError) -> Kind {
    match of_parquet(error) {
        Trouble::Disk => Kind::Unavailable,
        Trouble::Gone => Kind::Moved,
        Trouble::Unsupported => Kind::Refused,
        Trouble::Broken | Trouble::Untold => Kind::Corrupt,
    }
}

fn of_delta(error: &DeltaTableError) -> Trouble {
    use DeltaTableError as E;
    match error {
        E::KernelError(error) => of_kernel(error),
        E::ObjectStore { source } => of_object_store(source),
        E::Parquet { source } => of_parquet(source),
        E::Arrow { source } => of_arrow(source),
        E::Io { source } => of_io(source),
        E::GenericError { source } => of_any(source.as_ref()),
        E::Kernel { source } => of_log(source),
        E::NotATable(_) | E::InvalidVersion(_) => Trouble::Gone,
        E::UnsupportedColumnMapping { .. } | E::MissingFeature { .. } => Trouble::Unsupported,
        E::Generic(_) => Trouble::Untold,
        _ => Trouble::Broken,
    }
}

fn of_kernel(error: &KernelError) -> Trouble {
    use KernelError as E;
    match error {
        E::Backtraced { source, .. } => of_kernel(source),
        E::IOError(error) => of_io(error),
        E::ObjectStore(error) => of_object_store(error),
        E::Parquet(error) => of_parquet(error),
        E::Arrow(error) => of_arrow(error),
        E::GenericError { source } => of_any(source.as_ref()),
        E::FileNotFound(_) | E::MissingVersion => Trouble::Gone,
        E::Unsupported(_) | E::InvalidColumnMappingMode(_) => Trouble::Unsupported,
        // A thread that could not be had.
        E::JoinFailure(_) | E::Cancelled => Trouble::Disk,
        E::Generic(_) => Trouble::Untold,
        _ => Trouble::Broken,
    }
}

/// The errors of the crate's own layer over the kernel.
fn of_log(error: &deltalake::kernel::Error) -> Trouble {
    use deltalake::kernel::Error as E;
    match error {
        E::ObjectStore(error) => of_object_store(error),
        E::Parquet(error) => of_parquet(error),
        E::Arrow(error) => of_arrow(error),
        E::GenericError { source } => of_any(source.as_ref()),
        E::FileNotFound(_) | E::MissingVersion => Trouble::Gone,
        E::Generic(_) => Trouble::Untold,
        _ => Trouble::Broken,
    }
}

fn of_object_store(error: &object_store::Error) -> Trouble {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => Trouble::Gone,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } | E::JoinError { .. } => {
            Trouble::Disk
        }
        // Without an error of the disk inside: a range that a file does not have, a path that is none.
        E::Generic { source, .. } => of_any(source.as_ref()),
        _ => Trouble::Broken,
    }
}

fn of_parquet(error: &ParquetError) -> Trouble {
    match error {
        ParquetError::External(source) => of_any(source.as_ref()),
        ParquetError::NYI(_) => Trouble::Unsupported,
        _ => Trouble::Broken,
    }
}

fn of_arrow(error: &ArrowError) -> Trouble {
    match error {
        ArrowError::IoError(_, error) => of_io(error),
        ArrowError::ExternalError(source) => of_any(source.as_ref()),
        ArrowError::NotYetImplemented(_) => Trouble::Unsupported,
        _ => Trouble::Broken,
    }
}

fn of_io(error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::NotFound => Trouble::Gone,
        // What decoders say of content.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Trouble::Broken,
        // Whoever reads through this interface wraps what went wrong below it.
        io::ErrorKind::Other => error
            .get_ref()
            .map_or(Trouble::Disk, |inner| of_any(inner as &dyn StdError)),
        _ => Trouble::Disk,
    }
}

/// The first error of the chain that is known.
fn of_any(error: &(dyn StdError + 'static)) -> Trouble {
    let mut next = Some(error);
    while let Some(error) = next {
        let known = (error.downcast_ref().map(of_io))
            .or_else(|| error.downcast_ref().map(of_object_store))
            .or_else(|| error.downcast_ref().map(of_kernel))
            .or_else(|| error.downcast_ref().map(of_delta))
            .or_else(|| error.downcast_ref().map(of_parquet))
            .or_else(|| error.downcast_ref().map(of_arrow));
        if let Some(trouble) = known {
            return trouble;
        }
        next = error.source();
    }
    Trouble::Broken
}
