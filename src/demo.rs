//! `hydrascale demo`: a small cluster on this machine, each replica a process of its own with its own
//! data folder, behind one front port; with a user, a key and a live view. Ctrl-C drains it.

mod front;
mod replica;
mod view;

use std::fs::{DirBuilder, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::replica::DemoReplica;
use crate::cli::DemoArgs;

/// How long the whole demo may take to come up before it gives up.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the demo looks whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Mode of the folder.
const PRIVATE: u32 = 0o700;
/// Owner of the nodes that join with the printed key.
const USER: &str = "demo";
/// Life of the printed key.
const KEY_LIFE: &str = "24h";

/// Runs until Ctrl-C.
///
/// # Errors
/// A replica does not come up; the message names its log.
pub async fn run(args: DemoArgs, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let root = Root::new(args.data_dir.as_deref())?;
    let front = listen(args.listen_addr).await?;
    let server_url = format!("http://{}", front.local_addr()?);
    let mut demo = Demo::prepare(&root.path, usize::from(args.replicas), &server_url)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(front::run(front, demo.client_addrs()));
    let showing = async {
        let started = tokio::time::timeout(START_TIMEOUT, demo.start()).await;
        let key = started.with_context(|| format!("not ready after {START_TIMEOUT:?}"))??;
        view::introduce(out, &server_url, &key, &mut demo)?;
        view::follow(out, &mut demo).await
    };
    let outcome = tokio::select! {
        outcome = showing => outcome,
        () = interrupted() => Ok(()),
    };
    if outcome.is_err() {
        demo.show_logs(out)?;
    }
    writeln!(out, "draining")?;
    demo.stop().await;
    outcome
}

/// The configured address, or a free port when it is taken.
async fn listen(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(addr).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let any = SocketAddr::new(addr.ip(), 0);
            TcpListener::bind(any)
                .await
                .with_context(|| format!("no port is free on {any}"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {addr}")),
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}

/// The demo's folder: a given one is kept, a temporary one is removed. It holds keys, hence nobody
/// else may look into it.
struct Root {
    path: PathBuf,
    /// Removes the folder when dropped.
    _temporary: Option<TempDir>,
}

impl Root {
    fn new(given: Option<&Path>) -> anyhow::Result<Self> {
        let Some(given) = given else {
            let made = tempfile::Builder::new()
                .prefix("hydrascale-demo-")
                .permissions(Permissions::from_mode(PRIVATE))
                .tempdir()
                .context("no temporary folder can be made")?;
            return Ok(Self {
                path: made.path().canonicalize()?,
                _temporary: Some(made),
            });
        };
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE)
            .create(given)
            .with_context(|| format!("the folder {} cannot be made", given.display()))?;
        Ok(Self {
            path: given.canonicalize()?,
            _temporary: None,
        })
    }
}

/// The replicas and the way to talk to them.
struct Demo {
    program: PathBuf,
    replicas: Vec<DemoReplica>,
}

impl Demo {
    fn prepare(root: &Path, count: usize, server_url: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the program's own path is not known")?;
        let replicas = (1..=count)
            .map(|number| DemoReplica::prepare(root, number, server_url))
            .collect::<Result<_, _>>()
            .context("the replicas' folders cannot be written")?;
        Ok(Self { program, replicas })
    }

    fn client_addrs(&self) -> Vec<SocketAddr> {
        self.replicas
            .iter()
            .map(|replica| replica.client_addr)
            .collect()
    }

    /// Brings the cluster up, with the commands that an operator would use, and returns a reusable
    /// pre-auth key.
    async fn start(&mut self) -> anyhow::Result<String> {
        let program = self.program.clone();
        let (first, others) = self
            .replicas
            .split_first_mut()
            .context("a demo has at least one replica")?;
        if first.is_new() {
            first.command(&program, &["cluster", "init"]).await?;
        }
        first.start(&program)?;
        while first.command(&program, &["health"]).await.is_err() {
            first.check_alive()?;
            sleep(LOOK_EVERY).await;
        }
        for replica in others {
            if replica.is_new() {
                let token = first
                    .command(&program, &["cluster", "join-token", "create"])
                    .await?;
                replica.store_join_token(text(&token, "joinToken")?)?;
            }
            replica.start(&program)?;
        }
        let wanted = self.replicas.len();
        while self.voters().await < wanted {
            for replica in &mut self.replicas {
                replica.check_alive()?;
            }
            sleep(LOOK_EVERY).await;
        }
        self.pre_auth_key().await
    }

    /// What the first replica that answers says.
    async fn ask(&self, words: &[&str]) -> Option<Value> {
        for replica in &self.replicas {
            if let Ok(answer) = replica.command(&self.program, words).await {
                return Some(answer);
            }
        }
        None
    }

    async fn voters(&self) -> usize {
        let status = self
            .ask(&["cluster", "status"])
            .await
            .unwrap_or(Value::Null);
        let members = status.get("members").and_then(Value::as_array);
        members.map_or(0, |members| {
            members
                .iter()
                .filter(|member| member.get("voter") == Some(&Value::Bool(true)))
                .count()
        })
    }

    /// The demo's user, made when missing, and a fresh key for it.
    async fn pre_auth_key(&self) -> anyhow::Result<String> {
        let first = self
            .replicas
            .first()
            .context("a demo has at least one replica")?;
        let found = first
            .command(&self.program, &["users", "list", "--name", USER])
            .await?;
        let user = match found.get(0) {
            Some(user) => user.clone(),
            None => {
                first
                    .command(&self.program, &["users", "create", USER])
                    .await?
            }
        };
        let words = [
            "preauthkeys",
            "create",
            "--reusable",
            "--expiration",
            KEY_LIFE,
            "--user",
        ];
        let words: Vec<_> = words.into_iter().chain([text(&user, "id")?]).collect();
        let created = first.command(&self.program, &words).await?;
        Ok(text(&created, "key")?.to_owned())
    }

    async fn stop(&mut self) {
        futures::future::join_all(self.replicas.iter_mut().map(DemoReplica::stop)).await;
    }

    /// The ends of the logs, for when something went wrong.
    fn show_logs(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        for replica in &self.replicas {
            let log = std::fs::read_to_string(replica.log_path()).unwrap_or_default();
            let skip = log.lines().count().saturating_sub(5);
            for line in log.lines().skip(skip) {
                writeln!(out, "{}: {line}", replica.name)?;
            }
        }
        Ok(())
    }
}

fn text<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    value
        .get(key)
        .and_then(Value::as_str)
        .with_context(|| format!("the answer has no {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temporary_folder_is_nobody_elses_and_goes_with_the_demo() {
        let (one, two) = (Root::new(None).unwrap(), Root::new(None).unwrap());
        assert_ne!(one.path, two.path);
        let mode = one.path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
        let path = one.path.clone();
        drop(one);
        assert!(!path.exists());
    }

    #[test]
    fn a_given_folder_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let given = parent.path().join("demo");
        drop(Root::new(Some(&given)).unwrap());
        let mode = given.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
    }
}
