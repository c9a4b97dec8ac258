//! `backup`: the tailnet as a file, and a new cluster from one.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::backup::{Contents, NewFile, check};
use crate::cluster::Machine;
use crate::server::raft_config;

use super::client::ClientError;
use super::context::Context;
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
            let contents = read(&file, |input| check(input))?.with_context(|| shown(&file))?;
            tell(context, &shown(&file), &contents)
        }
        BackupCommand::Restore(args) => restore(args, context),
    }
}

async fn create(args: Create, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let path = match args.stale {
        true => "/cluster/backup?consistency=stale",
        false => "/cluster/backup",
    };
    if is_standard(&args.file) {
        let (api, out) = context.api_and_output()?;
        api.download(path, out).await?;
        return Ok(out.flush()?);
    }
    if args.file.exists() {
        let question = format!("{} exists; replace it?", args.file.display());
        if !context.confirm(&question, "Backup not made")? {
            return Ok(());
        }
    }
    let unwritable = || format!("{} cannot be written", args.file.display());
    let mut file = NewFile::create(&args.file).with_context(unwritable)?;
    match context.api()?.download(path, &mut file).await {
        Err(ClientError::Output(error)) => return Err(error).with_context(unwritable),
        received => received?,
    };
    // What the disk has, not what came.
    let written = file.reopen().with_context(unwritable)?;
    let contents = check(BufReader::new(written)).context("what came is not whole")?;
    file.finish().with_context(unwritable)?;
    tell(context, &shown(&args.file), &contents)
}

fn restore(args: Restore, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let mut config = context.config()?.cluster;
    if let Some(folder) = args.data_dir {
        config.data_dir = folder;
    }
    let machine = Machine::new();
    let raft = raft_config(&config)?;
    let fill = |input: &mut dyn Read| hydrascale_raft::restore(&raft, input, &machine);
    let restored = read(&args.file, fill)?.with_context(|| shown(&args.file))?;
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

/// Opens the file, or takes standard input, and reads it.
fn read<T>(path: &Path, read: impl FnOnce(&mut dyn Read) -> T) -> anyhow::Result<T> {
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
         replicas {}\nformat {}, feature level {}, written by {}\n{}",
        contents.cluster_id,
        contents.changed_at,
        contents.index,
        contents.term,
        contents.replicas.join(", "),
        contents.format,
        contents.feature_level,
        contents.created_by,
        summary(contents),
    );
    context.out.result(&sentence, &value_of(contents)?)
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
