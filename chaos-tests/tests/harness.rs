//! The harness itself: the namespace cuts off the internet, rules single out one user, and each
//! driver starts its client, which then claims the capability version that it is here for.

#![allow(missing_docs, reason = "a test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use hydrascale_chaos_tests::clients::{Ark, Caddy, Forwarder, Launch, Program};
use hydrascale_chaos_tests::{Context, Scenario, homes, netns, runner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);
const USER: u32 = 2001;

fn main() -> ExitCode {
    runner::main(
        "harness",
        &[
            Scenario::new("the namespace has no way out", LIMIT, &[], |_| {
                no_way_out().boxed_local()
            }),
            Scenario::new("a pinned user measures one relay only", LIMIT, &[], |_| {
                pinned().boxed_local()
            }),
            Scenario::new(
                "every client claims its capability version",
                LIMIT,
                &[
                    Program::Caddy,
                    Program::Forwarder,
                    Program::ForwarderOld,
                    Program::Ark,
                ],
                |context| capability_versions(context).boxed_local(),
            ),
        ],
    )
}

async fn no_way_out() -> Result<()> {
    // A documentation address: nobody answers there, but a route would make us wait.
    let outside = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 443));
    let dialled = timeout(Duration::from_secs(2), TcpStream::connect(outside)).await;
    let Ok(Err(refused)) = dialled else {
        bail!("there is a route out: {dialled:?}")
    };
    ensure!(
        refused.kind() == std::io::ErrorKind::NetworkUnreachable,
        "{refused}"
    );
    Ok(())
}

async fn pinned() -> Result<()> {
    homes::pin(USER, 0, 3)?;
    ensure!(can_send(USER, netns::replica_address(0), homes::STUN_PORT).await?);
    ensure!(!can_send(USER, netns::replica_address(1), homes::STUN_PORT).await?);
    ensure!(can_send(USER, netns::replica_address(1), 8443).await?);
    ensure!(can_send(USER + 1, netns::replica_address(1), homes::STUN_PORT).await?);
    homes::forbid_direct_paths(USER)?;
    ensure!(can_send(USER, netns::replica_address(0), homes::STUN_PORT).await?);
    ensure!(!can_send(USER, netns::replica_address(0), 40_000).await?);
    Ok(())
}

/// Whether `user` may send a datagram there.
async fn can_send(user: u32, to: Ipv4Addr, port: u16) -> Result<bool> {
    let send = format!("echo x > /dev/udp/{to}/{port}");
    let done = Command::new("bash")
        .args(["-c", &send])
        .uid(user)
        .gid(user)
        .output()
        .await?;
    Ok(done.status.success())
}

async fn capability_versions(context: Context) -> Result<()> {
    // A door for each: who is killed may have knocked once more before.
    let begin = async |hostname: &str| {
        let control = TcpListener::bind((netns::FRONT, 0)).await?;
        let launch = Launch {
            hostname: hostname.to_owned(),
            control_url: format!("http://{}", control.local_addr()?),
            auth_key: "none".to_owned(),
            user: USER,
            scratch: context.scratch().to_owned(),
        };
        Ok::<_, anyhow::Error>((control, launch))
    };
    let (control, launch) = begin("caddy").await?;
    let caddy = Caddy::start(&launch, &[])?;
    ensure!(asked_version(&control).await? == 130);
    drop(caddy);
    let (control, launch) = begin("new").await?;
    let forwarder = Forwarder::start(Program::Forwarder, &launch, "peer", 15_001).await?;
    ensure!(asked_version(&control).await? == 122);
    drop(forwarder);
    let (control, launch) = begin("old").await?;
    let old = Forwarder::start(Program::ForwarderOld, &launch, "peer", 15_002).await?;
    ensure!(asked_version(&control).await? == 82);
    drop(old);
    let (control, launch) = begin("ark").await?;
    tokio::select! {
        started = Ark::start(&launch) => bail!("joined nothing: {}", started.is_ok()),
        version = asked_version(&control) => ensure!(version? == 142),
    }
    Ok(())
}

/// The version in the next request for `/key`.
async fn asked_version(control: &TcpListener) -> Result<u16> {
    let (mut client, _) = timeout(Duration::from_secs(20), control.accept()).await??;
    let mut asked = vec![0; 1024];
    let len = client.read(&mut asked).await?;
    client
        .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        .await?;
    let asked = String::from_utf8_lossy(asked.get(..len).unwrap_or_default()).into_owned();
    let version = asked
        .split("/key?v=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let version = version.with_context(|| format!("not a request for the key: {asked}"))?;
    Ok(version.parse()?)
}
