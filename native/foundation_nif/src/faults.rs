//! Panics on order, for the test that none of them brings down the VM.
//!
//! Only a library that is built for that test has them (`--features faults`): elsewhere a point is
//! nothing. The test writes a point's name into a file; whoever reaches that point first empties
//! the file and panics.

use std::ffi::CStr;

/// A point where the library can be made to panic; a NIF's has its name.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn reach(_point: &CStr) {}

/// See above.
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
