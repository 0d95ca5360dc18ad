//! Foundation's tables in plain Rust: no BEAM in here.
