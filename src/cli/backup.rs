//! `backup`: the tailnet as a file, and a new cluster from one.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use hydrascale_raft::Restored;
use serde::Serialize;

use crate::backup::{Contents, NewFile, check, sealing_key};
use crate::cluster::Machine;
use crate::server::raft_config;

use super::client::ClientError;
use super::context::Context;
use super::progress::{Count, Progress};
use super::sealing::refuse_without;
use super::value::Value;

#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Write the whole tailnet to a file, while the cluster works
    Create(Create),
    /// Check every byte of a backup and tell what is in it
    Verify {
        /// The backup; - reads standard input
        file: PathBuf,
    },
    /// Make a new cluster from a backup, with this machine as its first replica
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Where to write it; - writes to standard output
    file: PathBuf,
    /// Take what the replica has, even when no leader confirms that it is the newest
    #[arg(long)]
    stale: bool,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup; - reads standard input
    file: PathBuf,
    /// The empty folder to fill [default: cluster.data_dir]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

pub(super) async fn run(
    command: BackupCommand,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    match command {
        BackupCommand::Create(args) => create(args, context).await,
        BackupCommand::Verify { file } => {
            let progress = context.out.progress();
            let checked = read(&file, "checking", progress, |input| check(input)).await?;
            let contents = checked.with_context(|| shown(&file))?;
            tell(context, &shown(&file), &contents)
        }
        BackupCommand::Restore(args) => restore(args, context).await,
    }
}

async fn create(args: Create, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let path = match args.stale {
        true => "/cluster/backup?consistency=stale",
        false => "/cluster/backup",
    };
    if is_standard(&args.file) {
        return print(path, context).await;
    }
    if args.file.exists() {
        let question = format!("{} exists; replace it?", args.file.display());
        if !context.confirm(&question, "Backup not made")? {
            return Ok(());
        }
    }
    let unwritable = || format!("{} cannot be written", args.file.display());
    let mut file = NewFile::create(&args.file).with_context(unwritable)?;
    let count = Count::default();
    let mut counted = count.of(&mut file);
    let (api, _, progress) = context.api_and_output()?;
    let download = Box::pin(api.download(path, &mut counted));
    match progress.of("backup", &count, download).await {
        Err(ClientError::Output(error)) => return Err(error).with_context(unwritable),
        received => received?,
    };
    // What the disk has, not what came.
    let written = file.reopen().with_context(unwritable)?;
    let progress = context.out.progress();
    let input = BufReader::new(written);
    let checking = progress.of_blocking("checking", move |count| check(count.of(input)));
    let contents = checking.await?.context("what came is not whole")?;
    file.finish().with_context(unwritable)?;
    tell(context, &shown(&args.file), &contents)
}

/// To standard output, where nobody can look at it again.
async fn print(path: &str, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let count = Count::default();
    let (api, out, progress) = context.api_and_output()?;
    let mut counted = count.of(&mut *out);
    let download = Box::pin(api.download(path, &mut counted));
    let bytes = progress.of("backup", &count, download).await?;
    out.flush()?;
    context.out.note(&format!(
        "the backup has {bytes} bytes; `backup verify` checks what arrived of it"
    ));
    Ok(())
}

async fn restore(args: Restore, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let mut config = context.config()?.cluster;
    if let Some(folder) = args.data_dir {
        config.data_dir = folder;
    }
    let machine = Arc::new(Machine::new());
    let raft = raft_config(&config)?;
    let filled = Arc::clone(&machine);
    let fill = move |input: &mut dyn Read| -> anyhow::Result<Restored> {
        let (key, input) = sealing_key(input)?;
        refuse_without(key, &raft.keyring.keys(), "restore")?;
        Ok(hydrascale_raft::restore(&raft, input, &*filled)?)
    };
    let restored = read(&args.file, "restoring", context.out.progress(), fill).await?;
    let restored = restored.with_context(|| shown(&args.file))?;
    let folder = config.data_dir.display().to_string();
    let contents = Contents::new(restored.backup, &machine.state());
    let sentence = format!(
        "Made cluster {} as replica {} in {folder}, with {}: start it with `serve`, and let the other \
         machines join it, with empty data folders",
        restored.cluster_id,
        restored.replica,
        summary(&contents),
    );
    let replica_id = restored.replica.to_string();
    let members = [
        ("clusterId", restored.cluster_id.as_str()),
        ("replicaId", replica_id.as_str()),
        ("dataDir", folder.as_str()),
    ];
    let mut value = Value::object(&members);
    if let Value::Map(members) = &mut value {
        members.push(("backup".to_owned(), value_of(&contents)?));
    }
    context.out.result(&sentence, &value)
}

/// Reads the file, or standard input, on a thread of its own.
async fn read<T: Send + 'static>(
    path: &Path,
    what: &str,
    progress: Progress<'_>,
    read: impl FnOnce(&mut dyn Read) -> T + Send + 'static,
) -> anyhow::Result<T> {
    let path = path.to_owned();
    let reading = progress.of_blocking(what, move |count| {
        open(&path, |input| read(&mut count.of(input)))
    });
    reading.await?
}

fn open<T>(path: &Path, read: impl FnOnce(&mut dyn Read) -> T) -> anyhow::Result<T> {
    if is_standard(path) {
        return Ok(read(&mut io::stdin().lock()));
    }
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    if file.metadata()?.is_dir() {
        bail!("{} is a folder; name the backup in it", path.display());
    }
    Ok(read(&mut BufReader::new(file)))
}

fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

fn shown(path: &Path) -> String {
    match is_standard(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

fn tell(context: &mut Context<'_, '_>, name: &str, contents: &Contents) -> anyhow::Result<()> {
    let taken = contents.taken_at.unwrap_or(contents.changed_at);
    let sentence = format!(
        "{name}: whole backup of cluster {}\ntaken {taken}, last change {} at log index {} (term {}), \
         replicas {}\nformat {}, feature level {}, written by {}\n{}\n{}",
        contents.cluster_id,
        contents.changed_at,
        contents.index,
        contents.term,
        contents.replicas.join(", "),
        contents.format,
        contents.feature_level,
        contents.created_by,
        summary(contents),
        seal(contents),
    );
    context.out.result(&sentence, &value_of(contents)?)
}

fn seal(contents: &Contents) -> String {
    match &contents.sealing_key {
        Some(key) => format!("secrets sealed under key {key}, which restoring needs"),
        None => "secrets not sealed: keep it like a private key".to_owned(),
    }
}

fn summary(contents: &Contents) -> String {
    format!(
        "{} users, {} nodes, {} pre-auth keys, {} API keys, {} policy versions",
        contents.users,
        contents.nodes,
        contents.pre_auth_keys,
        contents.api_keys,
        contents.policy_versions,
    )
}

/// As the command line prints values.
fn value_of(contents: &impl Serialize) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&serde_json::to_string(contents)?)?)
}
