//! The record layer inside `/ts2021`: `04 | u16be length | ciphertext`, nonces counting up in
//! big-endian, 4096 bytes at most on the wire.

use anyhow::{Context as _, Result, bail, ensure};
use snow::StatelessTransportState;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const RECORD: u8 = 4;
const TAG_BYTES: usize = 16;
const FRAME_BYTES_MAX: usize = 4096;
const PLAINTEXT_BYTES_MAX: usize = FRAME_BYTES_MAX - 3 - TAG_BYTES;
const EARLY_PAYLOAD_MAGIC: &[u8; 5] = b"\xff\xff\xffTS";
/// The strictest client's limit (tailscale-rs).
const EARLY_PAYLOAD_BYTES_MAX: usize = 1024;

/// Snow writes nonces little-endian; the wire wants big-endian.
const fn wire_nonce(counter: u64) -> u64 {
    counter.swap_bytes()
}

/// Copies plaintext from `plain` to encrypted records on `wire`, until `plain` ends.
pub(crate) async fn encrypt(
    keys: &StatelessTransportState,
    mut plain: impl AsyncRead + Unpin,
    mut wire: impl AsyncWrite + Unpin,
) -> Result<()> {
    let mut chunk = [0u8; PLAINTEXT_BYTES_MAX];
    let mut frame = [0u8; FRAME_BYTES_MAX];
    for counter in 0.. {
        let len = plain.read(&mut chunk).await?;
        if len == 0 {
            break;
        }
        let sealed = keys.write_message(wire_nonce(counter), &chunk[..len], &mut frame[3..])?;
        frame[0] = RECORD;
        frame[1..3].copy_from_slice(&u16::try_from(sealed)?.to_be_bytes());
        wire.write_all(&frame[..3 + sealed]).await?;
    }
    wire.shutdown().await?;
    Ok(())
}

/// Copies encrypted records from `wire` to plaintext on `plain`, until `wire` ends. Drops the
/// early payload, when there is one.
pub(crate) async fn decrypt(
    keys: &StatelessTransportState,
    mut wire: impl AsyncRead + Unpin,
    mut plain: impl AsyncWrite + Unpin,
) -> Result<()> {
    let mut records = Records { keys, counter: 0 };
    let mut start = Vec::new();
    while start.len() < EARLY_PAYLOAD_MAGIC.len() + 4 {
        let Some(piece) = records.read(&mut wire).await? else {
            return Ok(());
        };
        start.extend_from_slice(&piece);
    }
    while let Some(missing) = early_payload_missing(&start)? {
        if missing == 0 {
            break;
        }
        let piece = records
            .read(&mut wire)
            .await?
            .context("ended inside the early payload")?;
        start.extend_from_slice(&piece);
    }
    plain.write_all(without_early_payload(&start)).await?;
    while let Some(piece) = records.read(&mut wire).await? {
        plain.write_all(&piece).await?;
    }
    plain.shutdown().await?;
    Ok(())
}

struct Records<'a> {
    keys: &'a StatelessTransportState,
    counter: u64,
}

impl Records<'_> {
    async fn read(&mut self, wire: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>> {
        let mut header = [0u8; 3];
        match wire.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let len = usize::from(u16::from_be_bytes([header[1], header[2]]));
        if header[0] != RECORD {
            bail!("record of type {}", header[0]);
        }
        ensure!(
            (TAG_BYTES..=FRAME_BYTES_MAX - 3).contains(&len),
            "record of {len} bytes"
        );
        let mut sealed = vec![0u8; len];
        wire.read_exact(&mut sealed).await?;
        let mut piece = vec![0u8; len];
        let opened = self
            .keys
            .read_message(wire_nonce(self.counter), &sealed, &mut piece)?;
        piece.truncate(opened);
        self.counter += 1;
        Ok(Some(piece))
    }
}

/// How many bytes of the early payload are still to come; `None` without an early payload.
fn early_payload_missing(start: &[u8]) -> Result<Option<usize>> {
    let Some(len) = early_payload_len(start) else {
        return Ok(None);
    };
    ensure!(
        len <= EARLY_PAYLOAD_BYTES_MAX,
        "early payload of {len} bytes"
    );
    Ok(Some(
        (EARLY_PAYLOAD_MAGIC.len() + 4 + len).saturating_sub(start.len()),
    ))
}

fn early_payload_len(start: &[u8]) -> Option<usize> {
    let rest = start.strip_prefix(EARLY_PAYLOAD_MAGIC)?;
    let len: [u8; 4] = rest.get(..4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(len)).ok()
}

fn without_early_payload(start: &[u8]) -> &[u8] {
    let skipped = early_payload_len(start).map_or(0, |len| EARLY_PAYLOAD_MAGIC.len() + 4 + len);
    start.get(skipped..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_payload_is_cut_off_and_http2_behind_it_stays() {
        let mut start = EARLY_PAYLOAD_MAGIC.to_vec();
        start.extend_from_slice(&[0, 0, 0, 2]);
        assert_eq!(early_payload_missing(&start).unwrap(), Some(2));
        start.extend_from_slice(b"{}PRI");
        assert_eq!(early_payload_missing(&start).unwrap(), Some(0));
        assert_eq!(without_early_payload(&start), b"PRI");
    }

    #[test]
    fn without_the_magic_every_byte_is_http2() {
        let start = [0u8; 12];
        assert_eq!(early_payload_missing(&start).unwrap(), None);
        assert_eq!(without_early_payload(&start), start);
    }

    #[test]
    fn nonces_count_in_big_endian() {
        assert_eq!(wire_nonce(1).to_le_bytes(), [0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
