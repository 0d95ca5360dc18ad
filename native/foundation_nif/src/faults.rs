//! Panics on request, for the test that no panic stops the VM.
//!
//! Only a library built for that test has them (`--features faults`). Elsewhere a point does
//! nothing. The test writes the name of a point into a file. The first call that reaches the point
//! empties the file and panics.

use std::ffi::CStr;

/// A point where the library can be made to panic. A NIF's point has the NIF's name.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn reach(_point: &CStr) {}

/// Empties the file and panics if the file names this point.
#[cfg(feature = "faults")]
pub fn reach(point: &CStr) {
    let Some(file) = std::env::var_os("FOUNDATION_FAULTS") else {
        return;
    };
    let ordered = std::fs::read(&file).unwrap_or_default();
    if ordered == point.to_bytes() && std::fs::write(&file, "").is_ok() {
        panic!("as it was asked to");
    }
}
