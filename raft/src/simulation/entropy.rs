//! Randomness and clocks that no interface of their users seeds or sets: tokio wakes those who watch a
//! value in an order that it draws from the standard library's hash keys, which come from the system,
//! and HTTP/2 forgets streams by the machine's clock.
//!
//! The standard library calls `getrandom` and `clock_gettime` by name, so that a program may put its
//! own in place. Ours answer simulations the same each time, and ask the system for everybody else.

#![expect(
    unsafe_code,
    reason = "C functions are replaced, in tests alone; without it no seed would repeat itself"
)]

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static IS_FIXED: Cell<bool> = const { Cell::new(false) };
    /// Milliseconds since the simulation began.
    static NOW: Cell<i64> = const { Cell::new(0) };
    /// How often somebody looked at the wall clock.
    static LOOKS: Cell<i64> = const { Cell::new(0) };
}

/// From now on this thread gets the same bytes and times each time; call it before anything else
/// there.
pub(super) fn fix() {
    IS_FIXED.set(true);
}

/// Tells the clocks of this thread how long it has simulated.
pub(super) fn set_clocks(elapsed: Duration) {
    NOW.set(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX));
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

/// See the module and clock_gettime(2). In a simulation clocks show its time, the wall clock a little
/// more at each look.
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if IS_FIXED.get() {
        let (seconds, ms) = if clock == libc::CLOCK_REALTIME {
            LOOKS.set(LOOKS.get() + 1);
            (WALL_SECONDS, NOW.get() + LOOKS.get())
        } else {
            (1, NOW.get())
        };
        let fixed = libc::timespec {
            tv_sec: seconds + ms / 1_000,
            tv_nsec: ms % 1_000 * 1_000_000,
        };
        // SAFETY: the caller lends us a `timespec` at `time`.
        unsafe { time.write(fixed) };
        return 0;
    }
    // SAFETY: the arguments are the caller's own, for the call that it meant.
    let got = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    libc::c_int::try_from(got).unwrap_or(-1)
}

const FIXED: u8 = 0x5a;
/// When simulations begin by the wall clock: years after the clocks that replicas are given, so that it
/// shows when somebody takes one for the other.
const WALL_SECONDS: i64 = 1_800_000_000;
