//! Each side of the protocol against a peer that breaks it: what is truncated, flipped, stale, replayed, out of order or never asked for is refused with
//! the kind that says so, nothing wrong is published or believed, others are served meanwhile, and an honest run ends equal afterwards.

mod protocol {
    mod files;
    mod lying_sinks;
    mod lying_sources;
}
