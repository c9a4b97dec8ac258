//! What the logs of the Go clients tell.

use std::time::Duration;

use crate::log::{Line, Log, Mark};

/// More stream requests than this within [`LOOP_WINDOW`] mean that the client drops what it gets.
const STREAMS_PER_WINDOW_MAX: usize = 3;
const LOOP_WINDOW: Duration = Duration::from_secs(60);

/// The line of a map stream being asked for.
pub fn stream_opened(line: &str) -> bool {
    line.contains("PollNetMap: stream=true")
}

/// The line of a netmap that came on the map stream.
pub fn netmap_received(line: &str) -> bool {
    line.contains("mapRoutine: netmap received")
}

/// The line of a registration being sent.
pub fn registered(line: &str) -> bool {
    line.contains("RegisterReq: onode=")
}

/// The line of a direct path to a peer being taken into use.
pub fn direct_path_found(line: &str) -> bool {
    line.contains("magicsock: disco: node") && line.contains(" now using ")
}

/// The windows behind `mark` in which a client asked for more map streams than a healthy one does:
/// the only visible sign of a netmap that it cannot decode.
pub fn poll_loops(log: &Log, mark: Mark) -> Vec<Line> {
    let opened = log.lines_since(mark, stream_opened);
    let crowded = opened.windows(STREAMS_PER_WINDOW_MAX + 1).filter(|window| {
        let (Some(first), Some(last)) = (window.first(), window.last()) else {
            return false;
        };
        last.at - first.at < LOOP_WINDOW
    });
    crowded
        .filter_map(|window| window.first().cloned())
        .collect()
}
