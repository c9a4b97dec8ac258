//! Randomness that no interface of its user seeds: tokio wakes those who watch a value in an order
//! that it draws from the standard library's hash keys, and those come from the system.
//!
//! The standard library calls `getrandom` by name so that a program may put its own in place. Ours
//! answers simulations with the same bytes each time, and everybody else with the system's.

#![expect(
    unsafe_code,
    reason = "a C function is replaced, in tests alone; without it no seed would repeat itself"
)]

use std::cell::Cell;

thread_local! {
    static IS_FIXED: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread gets the same bytes each time; call it before anything else there.
pub(super) fn fix() {
    IS_FIXED.set(true);
}

/// See the module and getrandom(2).
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    if IS_FIXED.get() {
        // SAFETY: the caller lends us `length` bytes at `buffer`.
        unsafe { buffer.write_bytes(FIXED, length) };
        return isize::try_from(length).unwrap_or(isize::MAX);
    }
    // SAFETY: the arguments are the caller's own, for the call that it meant.
    let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
    isize::try_from(got).unwrap_or(-1)
}

const FIXED: u8 = 0x5a;
