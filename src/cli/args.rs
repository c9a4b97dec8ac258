//! The words of the command line, as headscale has them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::parse_prometheus_duration;

use super::apikeys::ApikeysCommand;
use super::auth::AuthCommand;
use super::backup::BackupCommand;
use super::cluster::ClusterCommand;
use super::debug::DebugCommand;
use super::nodes::NodesCommand;
use super::policy::PolicyCommand;
use super::preauthkeys::PreauthkeysCommand;
use super::users::UsersCommand;

/// A control plane for Tailscale clients, without a single head.
#[derive(Debug, Parser)]
#[command(disable_help_subcommand = false, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) noun: Noun,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Configuration file [default: searched in /etc/hydrascale, /etc/headscale, ~ and .]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Machine-readable output: json, json-line or yaml
    #[arg(short, long, global = true, value_name = "FORMAT", value_parser = parse_format)]
    pub(super) output: Option<String>,
    /// Do not ask for confirmation
    #[arg(long, global = true)]
    pub(super) force: bool,
}

fn parse_format(text: &str) -> Result<String, String> {
    match text {
        "" | "json" | "json-line" | "yaml" => Ok(text.to_owned()),
        _ => Err("must be json, json-line or yaml".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Noun {
    /// Run a replica
    Serve,
    /// Run a small cluster on this machine, to try things out
    Demo(DemoArgs),
    /// Check the configuration and say what is wrong with it
    Configtest,
    /// Tell the program's version
    Version,
    /// Ask a replica whether it is healthy
    Health,
    /// Users, who own nodes
    #[command(subcommand, visible_alias = "user", aliases = ["namespaces", "namespace", "ns"])]
    Users(UsersCommand),
    /// Keys that let nodes in without a person
    #[command(subcommand, visible_aliases = ["preauthkey", "authkey", "pre"])]
    Preauthkeys(PreauthkeysCommand),
    /// Nodes: the devices of the tailnet
    #[command(subcommand, visible_alias = "node", aliases = ["machines", "machine"])]
    Nodes(NodesCommand),
    /// Interactive logins that wait for a decision
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Who may reach whom
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Keys for the REST API
    #[command(subcommand, visible_aliases = ["apikey", "api"])]
    Apikeys(ApikeysCommand),
    /// The replicas of this control plane
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The whole tailnet as a file, and a new cluster from one
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Make keys
    #[command(subcommand, visible_alias = "gen")]
    Generate(GenerateCommand),
    /// For trying things out
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Print the completion script of a shell
    Completion {
        /// bash, zsh, fish or powershell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum GenerateCommand {
    /// Print a new private key
    PrivateKey,
    /// Make a key that seals the cluster's secrets
    SealingKey {
        /// Put the key first into this file, which only its owner can read, instead of printing it
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// How the demonstration cluster is made.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// How many replicas, each its own process
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub replicas: u8,
    /// Where clients reach the cluster: a port in front of all replicas
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub listen_addr: SocketAddr,
    /// Keep the data in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
}

/// Reads a life span such as 90d or 1h30m.
pub(super) fn parse_life(text: &str) -> Result<Duration, String> {
    parse_prometheus_duration(text).map_err(|error| error.to_string())
}
