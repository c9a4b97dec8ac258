//! What a command works with: the configuration's client part, a connection, the output.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::config::{ClientConfig, Config, Environment};

use super::args::Global;
use super::client::ApiClient;
use super::output::Output;
use super::progress::Progress;
use super::value::Value;

pub(super) struct Context<'a, 'b> {
    environment: &'a Environment,
    global: Global,
    pub(super) out: &'a mut Output<'b>,
    client: Option<ApiClient>,
}

impl<'a, 'b> Context<'a, 'b> {
    pub(super) const fn new(
        environment: &'a Environment,
        global: Global,
        out: &'a mut Output<'b>,
    ) -> Self {
        Self {
            environment,
            global,
            out,
            client: None,
        }
    }

    /// The whole configuration, for commands that work on a replica's data.
    pub(super) fn config(&mut self) -> anyhow::Result<Config> {
        let config = Config::load(self.environment, self.global.config.as_deref())?;
        for notice in &config.notices {
            self.out.note(&format!("notice: {notice}"));
        }
        Ok(config)
    }

    /// The data folder of this machine's replica, if the configuration is one of a replica.
    pub(super) fn data_dir(&self) -> Option<PathBuf> {
        let config = Config::load(self.environment, self.global.config.as_deref()).ok()?;
        Some(config.cluster.data_dir)
    }

    /// Who runs the command, for the records; nothing when the environment does not say.
    pub(super) fn user_name(&self) -> Option<String> {
        let name = ["SUDO_USER", "USER", "LOGNAME"]
            .into_iter()
            .find_map(|name| self.environment.variable(name))?;
        Some(name.to_owned())
    }

    /// The way to a replica; made at the first call.
    pub(super) fn api(&mut self) -> anyhow::Result<&ApiClient> {
        if self.client.is_none() {
            let file = self.global.config.as_deref();
            let (config, _) = ClientConfig::load(self.environment, file)?;
            self.client = Some(ApiClient::new(config)?);
        }
        self.client.as_ref().context("there is no client")
    }

    /// The way to a replica, where its answer goes as it comes, and where its progress is told.
    pub(super) fn api_and_output(
        &mut self,
    ) -> anyhow::Result<(&ApiClient, &mut dyn Write, Progress<'_>)> {
        self.api()?;
        let client = self.client.as_ref().context("there is no client")?;
        let (out, progress) = self.out.raw();
        Ok((client, out, progress))
    }

    /// Tells the warnings of an answer, if it has any.
    pub(super) fn warn(&mut self, answer: &Value) {
        for warning in answer.texts("warnings") {
            self.out.note(&format!("warning: {warning}"));
        }
    }

    /// Whether `--force` was given.
    pub(super) const fn is_forced(&self) -> bool {
        self.global.force
    }

    /// Asks, unless `--force` says that nobody wants to be asked; says so when declined.
    pub(super) fn confirm(&mut self, question: &str, declined: &str) -> anyhow::Result<bool> {
        if self.is_forced() || self.out.confirm(question)? {
            return Ok(true);
        }
        self.out
            .result(declined, &Value::object(&[("Result", declined)]))?;
        Ok(false)
    }
}
