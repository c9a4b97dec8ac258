//! Who holds connections to whom, read from the kernel's table of this namespace.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context as _, Result};

/// `TCP_ESTABLISHED` in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// How many established connections end at `address:port`.
///
/// # Errors
/// When the table cannot be read.
pub fn connections_to(address: Ipv4Addr, port: u16) -> Result<usize> {
    let table = fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    Ok(count_to(&table, address, port))
}

fn count_to(table: &str, address: Ipv4Addr, port: u16) -> usize {
    // Addresses are words in the machine's byte order, ports are plain numbers.
    let local = format!("{:08X}:{port:04X}", u32::from_ne_bytes(address.octets()));
    let held = table.lines().filter(|line| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next() == Some(local.as_str()) && columns.nth(1) == Some(ESTABLISHED)
    });
    held.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn established_connections_are_counted_at_their_server() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00630A:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0B00630A:1F90 0100630A:C350 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0100630A:C350 0B00630A:1F90 01 00000000:00000000 00:00000000 00000000  2001        0 3
";
        assert_eq!(count_to(table, Ipv4Addr::new(10, 99, 0, 11), 8080), 1);
        assert_eq!(count_to(table, Ipv4Addr::new(10, 99, 0, 12), 8080), 0);
    }
}
