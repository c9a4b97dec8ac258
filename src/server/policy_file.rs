//! The policy file: one replica's file becomes the policy of the whole cluster.
//!
//! `policy.mode: file` is what headscale's users have. A cluster has a file on each replica, which
//! need not be equal at every moment, so a file counts when somebody means it: when its replica is
//! told to reload (SIGHUP), or when the replica starts with a file that the cluster has never seen.
//! A replica that restarts with an older file puts nothing back.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hydrascale_proto::state::v1::{SetPolicy, command::Op};
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::config::{Config, PolicyMode};
use crate::policy::{self, Document, Facts, PolicyErrors};
use crate::state::{POLICY_BYTES_MAX, State};

/// Between attempts while the cluster takes no changes.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// What is stored about the author is bounded.
const NAME_CHARS_MAX: usize = 48;

/// Why the file is not the policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// The file is missing, too large or no text.
    #[error("policy.path {} cannot be read: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is no policy, or one that fails its own tests.
    #[error("policy.path {} is refused: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, in one line.
        reason: String,
    },
}

/// What to do with the text of a file.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// It is in force.
    Keep,
    /// It was in force once, and nobody asks for it now.
    Outdated(u64),
    /// Nobody asks for it now, and it may have been in force in a version that is forgotten.
    Doubtful,
    /// It is to replace this version, 0 = none.
    Replace(u64),
}

/// The policy file of a replica.
pub(super) struct PolicyFile {
    path: PathBuf,
    author: String,
    /// As it was read last.
    text: String,
}

impl PolicyFile {
    /// Reads the file that the configuration names, if the policy comes from one. What is wrong
    /// with it whatever the tailnet is like shows here.
    ///
    /// # Errors
    /// See [`PolicyFileError`].
    pub(super) async fn open(config: &Config) -> Result<Option<Self>, PolicyFileError> {
        let path = match (config.policy.mode, &config.policy.path) {
            (PolicyMode::File, Some(path)) => path.clone(),
            (PolicyMode::File, None) | (PolicyMode::Database, _) => return Ok(None),
        };
        let name = config.cluster.replica_name.chars().take(NAME_CHARS_MAX);
        let mut file = Self {
            path,
            author: format!("policy.path of replica {}", name.collect::<String>()),
            text: String::new(),
        };
        file.read().await?;
        Ok(Some(file))
    }

    async fn read(&mut self) -> Result<(), PolicyFileError> {
        let text = read_text(&self.path).await;
        let text = text.map_err(|reason| PolicyFileError::Read {
            path: self.path.clone(),
            reason,
        })?;
        let read = move || Document::parse(&text, &Facts::default()).map(|_| text);
        let text = self.beside(read).await?;
        self.text = text.map_err(|errors| self.invalid(&errors))?;
        Ok(())
    }

    fn invalid(&self, errors: &PolicyErrors) -> PolicyFileError {
        PolicyFileError::Invalid {
            path: self.path.clone(),
            reason: errors.to_string().replace('\n', "; "),
        }
    }

    /// Makes the file the policy if it is to be: `asked` tells that somebody wants so.
    async fn offer(&self, cluster: &Cluster, asked: bool) -> Result<(), PolicyFileError> {
        loop {
            let state = match cluster.linearizable().await {
                Ok(state) if state.tailnet().is_some() => state,
                Ok(_) | Err(_) => {
                    sleep(RETRY_EVERY).await;
                    continue;
                }
            };
            let replaces = match plan(&state, &self.text, asked) {
                Plan::Keep => {
                    tracing::info!("policy file is in force");
                    return Ok(());
                }
                Plan::Outdated(version) => {
                    tracing::warn!(
                        path = %self.path.display(),
                        version,
                        "policy file is older than the policy in force; update it and send SIGHUP"
                    );
                    return Ok(());
                }
                Plan::Doubtful => {
                    tracing::warn!(
                        path = %self.path.display(),
                        "policy file is not the policy in force, and may be older: old versions are \
                         forgotten; send SIGHUP if it is the one that you want"
                    );
                    return Ok(());
                }
                Plan::Replace(version) => version,
            };
            self.check(state).await?;
            let op = Op::SetPolicy(SetPolicy {
                text: self.text.clone(),
                author: self.author.clone(),
                replaces: Some(replaces),
            });
            // Somebody may have been faster, or the outcome is not known: the next look tells.
            if let Err(error) = cluster.propose(op).await {
                tracing::debug!(%error, "policy was not set");
                sleep(RETRY_EVERY).await;
            }
        }
    }

    /// Does something that takes a while beside the other tasks.
    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PolicyFileError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| PolicyFileError::Read {
            path: self.path.clone(),
            reason: error.to_string(),
        })
    }

    async fn check(&self, state: Arc<State>) -> Result<(), PolicyFileError> {
        let text = self.text.clone();
        let checked = self.beside(move || policy::check(&text, &state)).await?;
        let warnings = checked.map_err(|errors| self.invalid(&errors))?;
        for warning in warnings.iter() {
            tracing::debug!(%warning, "policy file says what has no effect");
        }
        if !warnings.is_empty() {
            let entries = warnings.iter().count();
            tracing::warn!(
                entries,
                "policy file says what has no effect; see `policy check`"
            );
        }
        Ok(())
    }

    async fn follow(
        mut self,
        cluster: &Cluster,
        reload: &Notify,
    ) -> Result<Infallible, PolicyFileError> {
        self.offer(cluster, false).await?;
        loop {
            reload.notified().await;
            tracing::info!(path = %self.path.display(), "policy file is read again");
            if let Err(error) = self.reread(cluster).await {
                tracing::error!(%error, "policy file is not in force; the policy stays as it was");
            }
        }
    }

    async fn reread(&mut self, cluster: &Cluster) -> Result<(), PolicyFileError> {
        self.read().await?;
        self.offer(cluster, true).await
    }
}

/// Starts the task that makes the file the policy when the replica starts and whenever `reload`
/// says so. It ends only if the file is refused at the start, which the answer then tells.
pub(super) fn spawn(
    file: Option<PolicyFile>,
    cluster: &Cluster,
    reload: Arc<Notify>,
    tasks: &mut JoinSet<()>,
) -> oneshot::Receiver<PolicyFileError> {
    let (refused, answer) = oneshot::channel();
    if let Some(file) = file {
        let cluster = cluster.clone();
        tasks.spawn(async move {
            let Err(error) = file.follow(&cluster, &reload).await;
            // The server may be ending already.
            let _ = refused.send(error);
        });
    }
    answer
}

async fn read_text(path: &Path) -> Result<String, String> {
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|error| error.to_string())?;
    let mut text = String::new();
    let limit = POLICY_BYTES_MAX as u64 + 1;
    let read = file.take(limit).read_to_string(&mut text).await;
    read.map_err(|error| error.to_string())?;
    if text.len() > POLICY_BYTES_MAX {
        return Err(format!("it is longer than {POLICY_BYTES_MAX} bytes"));
    }
    Ok(text)
}

fn plan(state: &State, text: &str, asked: bool) -> Plan {
    let version = state.policy().map_or(0, |policy| policy.version);
    if state.policy().is_some_and(|policy| policy.text == text) {
        return Plan::Keep;
    }
    if asked {
        return Plan::Replace(version);
    }
    let mut versions = state.policy_versions().rev();
    let seen = versions.find(|policy| policy.text == text);
    let forgets = version > 0 && state.policy_version(1).is_none();
    match seen {
        Some(old) => Plan::Outdated(old.version),
        None if forgets => Plan::Doubtful,
        None => Plan::Replace(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plain_tailnet;
    use crate::types::Timestamp;

    async fn cluster_with(policies: &[&str]) -> Cluster {
        let (cluster, _control) = Cluster::local(plain_tailnet(), Timestamp::default())
            .await
            .unwrap();
        for text in policies {
            let op = Op::SetPolicy(SetPolicy {
                text: (*text).to_owned(),
                ..Default::default()
            });
            cluster.propose(op).await.unwrap();
        }
        cluster
    }

    #[tokio::test]
    async fn a_restart_with_an_older_file_puts_nothing_back() {
        let state = cluster_with(&["{}", "{ }"]).await.state();
        assert_eq!(plan(&state, "{ }", false), Plan::Keep);
        assert_eq!(plan(&state, "{}", false), Plan::Outdated(1));
        assert_eq!(plan(&state, "{}", true), Plan::Replace(2));
        assert_eq!(plan(&state, "{  }", false), Plan::Replace(2));
    }

    #[tokio::test]
    async fn a_restart_with_a_file_from_before_the_kept_versions_puts_nothing_back() {
        let texts: Vec<String> = (0..102).map(|number| format!("{{}} // {number}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let state = cluster_with(&texts).await.state();
        assert!(state.policy_version(1).is_none(), "all versions are kept");
        assert_eq!(plan(&state, "{} // 0", false), Plan::Doubtful);
        assert_eq!(plan(&state, "{} // 0", true), Plan::Replace(102));
    }

    /// A file of this text that has been read, in a folder that lives as long as the second value.
    async fn file(text: &str) -> (PolicyFile, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut file = PolicyFile {
            path: folder.path().join("policy.hujson"),
            author: "policy.path of replica r1".to_owned(),
            text: String::new(),
        };
        std::fs::write(&file.path, text).unwrap();
        file.read().await.unwrap();
        (file, folder)
    }

    async fn until_in_force(cluster: &Cluster, text: &str) {
        while cluster
            .state()
            .policy()
            .is_none_or(|policy| policy.text != text)
        {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_file_becomes_the_policy_at_the_start_and_when_it_is_asked_for() {
        let cluster = cluster_with(&[]).await;
        let text = "{\"acls\": [],} // none\n";
        let (file, _folder) = file(text).await;
        let path = file.path.clone();
        let (reload, mut tasks) = (Arc::new(Notify::new()), JoinSet::new());
        let mut refused = spawn(Some(file), &cluster, reload.clone(), &mut tasks);
        until_in_force(&cluster, text).await;
        let author = cluster.state().policy().unwrap().author.clone();
        assert_eq!(author, "policy.path of replica r1");
        std::fs::write(&path, "{}").unwrap();
        reload.notify_one();
        until_in_force(&cluster, "{}").await;
        assert!(refused.try_recv().is_err(), "it goes on");
    }

    #[tokio::test]
    async fn a_wrong_file_that_is_read_again_changes_nothing() {
        let cluster = cluster_with(&[]).await;
        let (mut file, _folder) = file("{}").await;
        file.offer(&cluster, false).await.unwrap();
        std::fs::write(&file.path, "{\"acls\": 7}").unwrap();
        let error = file.reread(&cluster).await.unwrap_err();
        assert!(
            error.to_string().contains("policy.hujson is refused"),
            "{error}"
        );
        std::fs::write(&file.path, "").unwrap();
        let error = file.reread(&cluster).await.unwrap_err();
        assert!(error.to_string().contains("is empty"), "{error}");
        assert_eq!(cluster.state().policy().unwrap().version, 1);
        std::fs::write(&file.path, "{ }").unwrap();
        file.reread(&cluster).await.unwrap();
        assert_eq!(cluster.state().policy().unwrap().version, 2);
    }

    #[tokio::test]
    async fn a_file_that_fails_its_tests_is_refused_at_the_start_in_one_line() {
        let failing = r#"{"acls": [], "tests": [
            {"src": "100.64.0.1", "accept": ["100.64.0.2:22"]},
            {"src": "100.64.0.1", "accept": ["100.64.0.3:22"]},
        ]}"#;
        let cluster = cluster_with(&["{}"]).await;
        let (file, _folder) = file(failing).await;
        let mut tasks = JoinSet::new();
        let refused = spawn(Some(file), &cluster, Arc::default(), &mut tasks);
        let refused = refused.await.unwrap().to_string();
        assert!(refused.contains("policy.hujson is refused: "), "{refused}");
        assert!(!refused.contains('\n'), "{refused}");
        assert_eq!(cluster.state().policy().unwrap().version, 1);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_a_policy_is_refused_before_anything_runs() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = async |text: Option<&[u8]>| {
            let path = folder.path().join("policy.hujson");
            match text {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => drop(std::fs::remove_file(&path)),
            }
            let (author, text) = (String::new(), String::new());
            let mut file = PolicyFile { path, author, text };
            file.read().await.unwrap_err().to_string()
        };
        assert!(refusal(None).await.contains("No such file"));
        assert!(refusal(Some(b"\xff")).await.contains("utf-8"));
        assert!(
            refusal(Some(&vec![b' '; POLICY_BYTES_MAX + 1]))
                .await
                .contains("longer")
        );
        assert!(
            refusal(Some(b"{\"acls\": ["))
                .await
                .contains("is refused: line 1")
        );
    }
}
