//! The command line: one file per noun, headscale's words and shapes.
//!
//! Commands speak REST v1 to a replica: over the local socket, or to a list of addresses of which
//! the first that answers counts. `cluster init`, `cluster join`, `cluster recover` and `backup restore` work on the data folder of a
//! replica that does not run. What is printed goes through [`Output`]; the result through the exit
//! code: 0, 78 for a replica that ended and that no restart helps, or 1 for every other error.

mod apikeys;
mod args;
mod argv;
mod auth;
mod backup;
mod client;
mod cluster;
mod context;
mod debug;
mod local;
mod nodes;
mod output;
mod policy;
mod preauthkeys;
mod progress;
mod sealing;
mod table;
mod time;
mod users;
mod value;

#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory, FromArgMatches};

use crate::config::{Config, Environment};
use crate::control::VersionInfo;
use crate::server::ServeError;

pub use self::args::DemoArgs;
use self::args::{Cli, Noun};
use self::context::Context;
pub use self::output::{Format, Output};

/// What runs behind the two commands that are no client of anything.
pub struct Hooks {
    /// Runs a replica until it is told to stop.
    pub serve: fn(Config) -> anyhow::Result<()>,
    /// Runs a small cluster on this machine.
    pub demo: fn(DemoArgs, &Environment) -> anyhow::Result<()>,
    /// What `version` tells.
    pub version: VersionInfo,
}

/// Runs one command and returns the exit code. `argv` includes the name under which the program
/// was called: `hydrascale` or `headscale`.
pub fn run(
    argv: &[OsString],
    environment: &Environment,
    hooks: &Hooks,
    out: &mut Output<'_>,
) -> u8 {
    let argv: Vec<String> = argv
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let name = program_name(&argv);
    let mut command = Cli::command().name(name).bin_name(name);
    command.build();
    let argv = argv::reorder(&command, &argv);
    out.set_format(argv::output_format(&argv));
    let parsed = command
        .try_get_matches_from_mut(&argv)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    match parsed {
        Ok(cli) => finish(execute(cli, command, environment, hooks, out), out),
        Err(error) => usage(&error, out),
    }
}

fn program_name(argv: &[String]) -> &'static str {
    let called = argv.first().map_or("", String::as_str);
    let file = called.rsplit('/').next().unwrap_or("");
    if file == "headscale" {
        "headscale"
    } else {
        "hydrascale"
    }
}

/// Help is a success; a wrong word is an error like any other.
fn usage(error: &clap::Error, out: &mut Output<'_>) -> u8 {
    let text = error.render();
    let asked_for = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if asked_for {
        return finish(out.text(text), out);
    }
    out.usage_error(&text.to_string());
    1
}

fn finish(result: anyhow::Result<()>, out: &mut Output<'_>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            out.error(&format!("{error:#}"));
            exit_code(&error)
        }
    }
}

/// Tells service managers whether to start the replica again.
fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ServeError>() {
        Some(error) if error.outlasts_restart() => EXIT_FOR_GOOD,
        Some(_) | None => 1,
    }
}

fn execute(
    cli: Cli,
    mut command: Command,
    environment: &Environment,
    hooks: &Hooks,
    out: &mut Output<'_>,
) -> anyhow::Result<()> {
    let config = cli.global.config.as_deref();
    match cli.noun {
        Noun::Serve => (hooks.serve)(Config::load(environment, config)?),
        Noun::Demo(args) => (hooks.demo)(args, environment),
        Noun::Configtest => local::configtest(environment, config, out),
        Noun::Version => local::version(&hooks.version, command.get_name(), out),
        Noun::Completion { shell } => local::completion(shell, &mut command, out),
        Noun::Generate(what) => local::generate(what, out),
        noun @ (Noun::Users(_)
        | Noun::Preauthkeys(_)
        | Noun::Nodes(_)
        | Noun::Auth(_)
        | Noun::Policy(_)
        | Noun::Apikeys(_)
        | Noun::Cluster(_)
        | Noun::Backup(_)
        | Noun::Debug(_)
        | Noun::Health) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let mut context = Context::new(environment, cli.global, out);
            runtime.block_on(talk(noun, &mut context))
        }
    }
}

/// The commands that need a runtime.
async fn talk(noun: Noun, context: &mut Context<'_, '_>) -> anyhow::Result<()> {
    match noun {
        Noun::Users(command) => users::run(command, context).await,
        Noun::Preauthkeys(command) => preauthkeys::run(command, context).await,
        Noun::Nodes(command) => nodes::run(command, context).await,
        Noun::Auth(command) => auth::run(command, context).await,
        Noun::Policy(command) => policy::run(command, context).await,
        Noun::Apikeys(command) => apikeys::run(command, context).await,
        Noun::Cluster(command) => cluster::run(command, context).await,
        Noun::Backup(command) => backup::run(command, context).await,
        Noun::Debug(command) => debug::run(command, context).await,
        Noun::Health => local::health(context).await,
        Noun::Serve
        | Noun::Demo(_)
        | Noun::Configtest
        | Noun::Version
        | Noun::Completion { .. }
        | Noun::Generate(_) => anyhow::bail!("this command runs without a runtime"),
    }
}

/// Exit code of a replica that must not be started again before somebody has acted (`EX_CONFIG` of
/// sysexits). A failed disk has its own, 74, after which a start is right.
const EXIT_FOR_GOOD: u8 = 78;
