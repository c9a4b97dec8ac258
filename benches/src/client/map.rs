//! The stream of netmaps: `u32le length | zstd frames of one JSON MapResponse`, again and again.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BytesMut};
use h2::RecvStream;
use serde_json::Value;
use tokio::task::JoinSet;

/// A full netmap of 100,000 peers stays below this.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// An open map stream. Ends the poll when dropped.
pub struct MapStream {
    body: RecvStream,
    buffer: BytesMut,
    // The connection lives as long as its stream is read.
    _tasks: Arc<JoinSet<()>>,
}

impl MapStream {
    pub(crate) fn new(body: RecvStream, tasks: Arc<JoinSet<()>>) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            _tasks: tasks,
        }
    }

    /// The next message that is not a keep-alive; `None` when the server ended the stream.
    ///
    /// # Errors
    /// When the connection breaks or a message cannot be read.
    ///
    /// # Cancel safety
    /// Safe: what has arrived stays in the buffer.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            while let Some(message) = take_message(&mut self.buffer)? {
                if message["KeepAlive"].as_bool() != Some(true) {
                    return Ok(Some(message));
                }
            }
            let Some(piece) = self.body.data().await else {
                ensure!(self.buffer.is_empty(), "stream ended inside a message");
                return Ok(None);
            };
            let piece = piece?;
            self.body.flow_control().release_capacity(piece.len())?;
            self.buffer.extend_from_slice(&piece);
        }
    }

    /// Reads until a message holds; gives that message back.
    ///
    /// # Errors
    /// As [`MapStream::next`], and when the stream ends first.
    pub async fn until(&mut self, mut holds: impl FnMut(&Value) -> bool) -> Result<Value> {
        while let Some(message) = self.next().await? {
            if holds(&message) {
                return Ok(message);
            }
        }
        bail!("the map stream ended")
    }
}

fn take_message(buffer: &mut BytesMut) -> Result<Option<Value>> {
    let Some(len) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = usize::try_from(u32::from_le_bytes(*len))?;
    ensure!(len <= MESSAGE_BYTES_MAX, "message of {len} bytes");
    if buffer.len() < 4 + len {
        return Ok(None);
    }
    buffer.advance(4);
    let packed = buffer.split_to(len);
    let json = zstd::stream::decode_all(packed.as_ref()).context("zstd of a map message")?;
    Ok(Some(
        serde_json::from_slice(&json).context("JSON of a map message")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_only_when_it_is_whole() {
        // Two concatenated frames make one message.
        let mut packed = zstd::encode_all(&b"{\"Domain\":"[..], 1).unwrap();
        packed.extend(zstd::encode_all(&b"\"x\"}"[..], 1).unwrap());
        let mut wire = u32::try_from(packed.len()).unwrap().to_le_bytes().to_vec();
        wire.extend(packed);

        let mut buffer = BytesMut::from(&wire[..wire.len() - 1]);
        assert_eq!(take_message(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(&wire[wire.len() - 1..]);
        assert_eq!(take_message(&mut buffer).unwrap().unwrap()["Domain"], "x");
        assert!(buffer.is_empty());
    }
}
