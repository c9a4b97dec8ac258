//! Commands without a noun: `configtest`, `version`, `health`, `completion`, `generate`.

use std::path::Path;

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;
use hydrascale_raft::SealingKeys;

use crate::config::{Config, Environment};
use crate::control::VersionInfo;
use crate::types::MachinePrivateKey;

use super::args::GenerateCommand;
use super::context::Context;
use super::output::Output;
use super::value::Value;

/// Silent when all is well, apart from notices.
pub(super) fn configtest(
    environment: &Environment,
    file: Option<&Path>,
    out: &mut Output<'_>,
) -> anyhow::Result<()> {
    let config = Config::load(environment, file)?;
    for notice in &config.notices {
        out.note(&format!("notice: {notice}"));
    }
    Ok(())
}

pub(super) fn version(info: &VersionInfo, name: &str, out: &mut Output<'_>) -> anyhow::Result<()> {
    let text = format!(
        "{name} version {}\ncommit: {}\nbuild time: {}\nbuilt with: {} {}/{}",
        info.version,
        info.commit,
        info.build_time,
        info.toolchain.version,
        info.toolchain.os,
        info.toolchain.arch,
    );
    let value = serde_json::from_str(&serde_json::to_string(info)?)?;
    out.result(&text, &value)
}

/// For people an empty line, as headscale prints; the exit code is the message.
pub(super) async fn health(context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    let health = context.api()?.get("/health").await?;
    context.out.result("", &health)
}

pub(super) fn completion(
    shell: Shell,
    command: &mut Command,
    out: &mut Output<'_>,
) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    out.bytes(&script)
}

pub(super) fn generate(what: GenerateCommand, out: &mut Output<'_>) -> anyhow::Result<()> {
    match what {
        GenerateCommand::PrivateKey => {
            let key = MachinePrivateKey::from_bytes(rand::random()).expose_text();
            out.result(&key, &Value::object(&[("private_key", &key)]))
                .context("the key could not be printed")
        }
        GenerateCommand::SealingKey { file: None } => {
            let (_, line) = SealingKeys::new_line();
            let key = line.trim_end();
            out.result(key, &Value::object(&[("sealing_key", key)]))
                .context("the key could not be printed")
        }
        GenerateCommand::SealingKey { file: Some(path) } => {
            let id = SealingKeys::add_to_file(&path)?.to_string();
            let path = path.display().to_string();
            let sentence =
                format!("Made key {id}, the first in {path} now: copy it to every replica");
            let members = [("sealing_key_id", id.as_str()), ("file", &path)];
            out.result(&sentence, &Value::object(&members))
        }
    }
}
