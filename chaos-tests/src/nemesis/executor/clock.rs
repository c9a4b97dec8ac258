//! Wall clocks that are wrong. Replicas run with `libfaketime` in front of the C library, which
//! reads a file of each replica's own once a second.

use anyhow::Result;

use super::Executor;
use crate::nemesis::Skew;

impl Executor<'_> {
    pub(super) fn set_clock(&self, victim: usize, skew: Skew) -> Result<()> {
        self.cluster.replica(victim)?.set_clock(&text(skew))
    }

    pub(super) fn right_clock(&self, victim: usize) -> Result<()> {
        self.cluster.replica(victim)?.set_clock(RIGHT)
    }
}

/// What the file says while nothing is wrong.
const RIGHT: &str = "+0 x1.00";

fn text(skew: Skew) -> String {
    let Skew {
        offset_ms,
        rate_percent,
    } = skew;
    let sign = if offset_ms < 0 { '-' } else { '+' };
    let size = offset_ms.unsigned_abs();
    format!(
        "{sign}{}.{:03} x{}.{:02}",
        size / 1000,
        size % 1000,
        rate_percent / 100,
        rate_percent % 100
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skew_is_written_as_the_library_reads_it() {
        let skew = |offset_ms, rate_percent| {
            text(Skew {
                offset_ms,
                rate_percent,
            })
        };
        assert_eq!(skew(2_050, 105), "+2.050 x1.05");
        assert_eq!(skew(-90_000, 80), "-90.000 x0.80");
    }
}
