//! A private network, mount and process namespace.
//!
//! The official clients look for servers on the internet by themselves; in here there is no route
//! out. The harness starts itself again by `unshare` and is process 1 of its namespace, so that
//! everything it started ends with it, however it ends.
//!
//! ```text
//! lo   127.0.0.1                                   name server (none answers)
//! a0   10.99.0.1/24      clients and the balancer  (veth; its other end b0 leads nowhere)
//!      10.99.0.11 ...    one address per replica
//! ```

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Set in the copy of the harness that is inside.
const INSIDE: &str = "HYDRASCALE_CHAOS_INSIDE";
/// Where clients find the balancer.
pub const FRONT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Replicas that have an address of their own.
const REPLICA_ADDRESSES: u8 = 6;
/// Where the clients' programs are inside: the cache may lie in a home that only its owner enters,
/// and clients run as users of their own.
pub const CLIENTS: &str = "/mnt";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Rules of a test come before the local table, which otherwise answers for all our addresses.
const LOCAL_TABLE_PREFERENCE: &str = "100";

/// The address of replica `index` (0, 1, ...).
pub fn replica_address(index: usize) -> Ipv4Addr {
    let last = u8::try_from(11 + index).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 99, 0, last)
}

/// Whether this process is inside already.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Checks that a namespace can be made; the error says what is missing.
///
/// # Errors
/// When `unshare` or `ip` is missing or not permitted.
pub fn check_available() -> Result<()> {
    let made = unshare()
        .args(["ip", "link", "set", "lo", "up"])
        .stdin(Stdio::null())
        .output()
        .context("unshare (package util-linux) is missing")?;
    let complaint = String::from_utf8_lossy(&made.stderr).trim().to_owned();
    ensure!(
        made.status.success(),
        "cannot make a network namespace, run as root: {complaint}"
    );
    Ok(())
}

/// Starts this executable again, inside, with the same arguments, and gives its exit code.
///
/// # Errors
/// When it cannot be started.
pub fn run_inside() -> Result<ExitCode> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let status = unshare()
        .arg(env::current_exe()?)
        .args(arguments)
        .env(INSIDE, "1")
        .status()
        .context("start the harness inside the namespace")?;
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// Starts a program that the kernel kills when this process is gone, however that ended.
pub(crate) fn killed_with_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

fn unshare() -> Command {
    let mut command = killed_with_us("unshare");
    command.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command
}

/// Builds the network, once inside. `scratch` holds the name server's file; `clients` becomes
/// visible at [`CLIENTS`].
///
/// # Errors
/// When the kernel refuses one of the steps.
pub fn set_up(scratch: &Path, clients: &Path) -> Result<()> {
    ip("link set lo up")?;
    // Without an address outside of loopback the Go clients believe that they are offline.
    ip("link add a0 type veth peer name b0")?;
    ip(&format!("addr add {FRONT}/24 dev a0"))?;
    for index in 0..usize::from(REPLICA_ADDRESSES) {
        ip(&format!("addr add {}/24 dev a0", replica_address(index)))?;
    }
    ip("link set a0 up")?;
    ip("link set b0 up")?;
    ip(&format!(
        "rule add pref {LOCAL_TABLE_PREFERENCE} lookup local"
    ))?;
    ip("rule del pref 0")?;

    if clients.is_dir() {
        bind(clients, Path::new(CLIENTS))?;
    }
    let resolv_conf = scratch.join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 127.0.0.1\n")?;
    bind(&resolv_conf, Path::new(RESOLV_CONF))
}

fn bind(what: &Path, here: &Path) -> Result<()> {
    run(Command::new("mount").arg("--bind").arg(what).arg(here))
}

/// Mounts a disk of so many MiB, in memory; it ends with the namespace.
///
/// # Errors
/// When the kernel refuses it.
pub fn mount_small(here: &Path, mib: u32) -> Result<()> {
    let size = format!("size={mib}m");
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
        .arg(here))
}

/// Runs `ip` with these words.
///
/// # Errors
/// With what `ip` complained about.
pub fn ip(words: &str) -> Result<()> {
    run(Command::new("ip").args(words.split_whitespace()))
}

fn run(command: &mut Command) -> Result<()> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    let complaint = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    ensure!(done.status.success(), "{command:?}: {complaint}");
    Ok(())
}
