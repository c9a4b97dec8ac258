//! The policy in force, read once for all who ask what it allows.

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::Cluster;
use crate::policy::Reading;
use crate::state::State;

/// The newest reading. Whoever asks while it is worked out waits for it.
#[derive(Default)]
pub(super) struct PolicyReader(Mutex<Option<Reading>>);

impl Cluster {
    /// The policy in force in a state, as it is read. It is read beside the other tasks, because a
    /// long one takes a while, and only once.
    ///
    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub async fn policy(&self, state: &State) -> Reading {
        let mut known = self.inner.policy.0.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.is_of(state)) {
            return known.clone();
        }
        let task = {
            let (state, earlier) = (state.clone(), known.clone());
            move || Reading::of(&state, earlier.as_ref())
        };
        let reading = match spawn_blocking(task).await {
            Ok(reading) => reading,
            // The replica stops, and takes no more such tasks.
            Err(_) => Reading::of(state, known.as_ref()),
        };
        *known = Some(reading.clone());
        reading
    }
}
