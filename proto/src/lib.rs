//! The wire: messages and services of `strait.v1`, compiled from `strait/v1/*.proto`, which hold their
//! documentation and history.
//!
//! `transfer.proto` is what the source agent says to the sink agent, `control.proto` what an operator says to the
//! source agent. This crate only holds what is generated, the versions, and the descriptors for gRPC reflection.

/// The generated package `strait.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::clone_on_ref_ptr)]
pub mod v1 {
    tonic::include_proto!("strait.v1");
}

/// The lowest protocol version that this release speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The highest protocol version that this release speaks.
pub const PROTOCOL_MAX: u32 = 1;
/// This release, as agents tell each other.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The compiled protos, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/strait.bin"));
