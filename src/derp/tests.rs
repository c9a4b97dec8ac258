//! Whole relays, driven over loopback by a client of their own.

mod client;
mod mesh;
mod relay;

use std::time::Duration;

use self::client::{TestClient, dial};
use super::testing::{PATIENCE, TestRelay};
use super::{RelayHandle, Verdict};
use crate::types::NodeKey;

impl TestRelay {
    /// A client that is connected and admitted; `seed` makes its key.
    async fn client(&self, seed: u8) -> TestClient {
        let mut client = TestClient::connect(self, seed).await;
        client.expect_server_info().await;
        client
    }
}
