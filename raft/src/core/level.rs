//! Raising the cluster's feature level, once every member can follow.

use std::time::{Duration, Instant};

use hydrascale_proto::raft::v1::{Admin, RaiseLevel, admin};

use super::propose::AdminDenied;
use super::{Core, Managed};
use crate::Levels;
use crate::timing::now;

/// A member's say in whether the level is raised.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Voice {
    id: u64,
    name: String,
    /// What it supports, if it answered lately.
    levels: Option<Levels>,
    /// It wants to be asked.
    holds: bool,
}

/// What all members could be raised to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ceiling {
    /// The highest level that all support, and whether nobody wants to be asked first.
    All { level: u32, freely: bool },
    /// Some do not answer: what they support is not known.
    Silent(String),
    /// Some support nothing above the level in force.
    Held(String),
}

/// Since when which level could be raised to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready(Option<(u32, Instant)>);

impl Ready {
    /// Whether `level` has been possible for `after` without a break.
    fn lasts(&mut self, level: Option<u32>, now: Instant, after: Duration) -> bool {
        let since = match (self.0, level) {
            (Some((before, since)), Some(level)) if before == level => since,
            _ => now,
        };
        self.0 = level.map(|level| (level, since));
        level.is_some() && now.saturating_duration_since(since) >= after
    }
}

impl Core {
    /// The cluster's feature level; `None` before the cluster is known here.
    pub(crate) fn level(&self) -> Option<u32> {
        let records = self.records.load();
        records.cluster().map(|_| records.level())
    }

    /// Raises the level without being asked, when all members have supported the next one for a
    /// while and none of them is configured to be asked.
    pub(super) async fn raise_when_ready(&self, ready: &mut Ready) {
        let lately = now().checked_sub(self.timing.reachable_within());
        let next = match (self.level(), self.ceiling(lately)) {
            (
                Some(active),
                Ceiling::All {
                    level,
                    freely: true,
                },
            ) => Some(level).filter(|level| *level > active),
            _ => None,
        };
        if !ready.lasts(next, now(), self.config.upgrade_after) {
            return;
        }
        let _turn = self.membership.lock().await;
        if let Err(managed) = self.raise_to_highest().await {
            tracing::warn!(?managed, "feature level is not raised yet");
        }
    }

    /// Raises the level to the highest that all members support, each asked anew: one may have gone
    /// back to the version before since it was last heard. To be called with the turn to change the
    /// membership: nobody comes in between.
    pub(super) async fn raise_to_highest(&self) -> Result<u64, Managed> {
        let Some(active) = self.level() else {
            return Err(Managed::Unavailable(
                "the cluster is not recorded yet".to_owned(),
            ));
        };
        let begin = now();
        let patience = self.timing.reachable_within();
        self.probe_all(&self.others(), patience).await;
        let to = match self.ceiling(Some(begin)) {
            Ceiling::All { level, .. } if level > active => level,
            Ceiling::All { .. } => return Ok(self.id()),
            Ceiling::Silent(reason) | Ceiling::Held(reason) => {
                return Err(Managed::Refused(reason));
            }
        };
        let op = admin::Op::RaiseLevel(RaiseLevel { to });
        match self.propose_admin(Admin { op: Some(op) }).await {
            Ok(_) => {
                tracing::info!(from = active, to, "feature level raised");
                Ok(self.id())
            }
            Err(AdminDenied::Refused(reason)) => Err(Managed::Refused(reason)),
            Err(AdminDenied::Propose(error)) => Err(Managed::Unavailable(error.to_string())),
        }
    }

    /// By what members have answered since `since`.
    fn ceiling(&self, since: Option<Instant>) -> Ceiling {
        let active = self.level().unwrap_or(crate::levels::FIRST);
        ceiling(active, self.config.levels, &self.voices(since))
    }

    /// Voters and learners alike: whoever has the log must understand it.
    fn voices(&self, since: Option<Instant>) -> Vec<Voice> {
        let stored = self.effective_membership();
        let members = stored.membership().nodes().map(|(id, member)| {
            let answer = self.probes.last(*id);
            let answer = answer.filter(|answer| since.is_none_or(|since| answer.at >= since));
            let own = *id == self.id();
            Voice {
                id: *id,
                name: member.name.clone(),
                levels: match own {
                    true => Some(self.config.levels),
                    false => answer.as_ref().map(|answer| answer.levels),
                },
                holds: match own {
                    true => !self.config.auto_upgrade,
                    false => answer.is_some_and(|answer| answer.holds_level),
                },
            }
        });
        members.collect()
    }
}

/// How far all of `voices` go, asked by a leader that supports `own`.
fn ceiling(active: u32, own: Levels, voices: &[Voice]) -> Ceiling {
    let named = |voice: &Voice| format!("replica {} ({})", voice.id, voice.name);
    let silent: Vec<String> = voices
        .iter()
        .filter(|voice| voice.levels.is_none())
        .map(named)
        .collect();
    if !silent.is_empty() {
        return Ceiling::Silent(format!(
            "{} does not answer, and what it supports is not known: start it, or remove it from \
             the cluster",
            silent.join(", ")
        ));
    }
    let highest = |voice: &Voice| voice.levels.map(|levels| levels.max);
    let level = voices.iter().filter_map(highest).min().unwrap_or(active);
    let top = voices.iter().filter_map(highest).max().unwrap_or(own.max);
    if level <= active && top > active {
        let old = voices
            .iter()
            .filter(|voice| highest(voice).is_some_and(|max| max <= active));
        let old: Vec<String> = old
            .map(|voice| {
                let max = highest(voice).unwrap_or(active);
                format!("{} supports no feature level above {max}", named(voice))
            })
            .collect();
        return Ceiling::Held(format!("{}: upgrade it first", old.join(", ")));
    }
    Ceiling::All {
        level: level.max(active),
        freely: !voices.iter().any(|voice| voice.holds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Levels = Levels { min: 1, max: 1 };
    const NEW: Levels = Levels { min: 1, max: 2 };

    fn voice(id: u64, levels: Option<Levels>) -> Voice {
        Voice {
            id,
            name: format!("r{id}"),
            levels,
            holds: false,
        }
    }

    #[test]
    fn the_level_rises_to_what_the_oldest_member_supports() {
        let newer = Levels { min: 2, max: 5 };
        let all = [voice(1, Some(newer)), voice(2, Some(NEW))];
        let expected = Ceiling::All {
            level: 2,
            freely: true,
        };
        assert_eq!(ceiling(1, newer, &all), expected);
        let same = [voice(1, Some(OLD)), voice(2, Some(OLD))];
        assert!(matches!(
            ceiling(1, OLD, &same),
            Ceiling::All { level: 1, .. }
        ));
    }

    #[test]
    fn who_is_old_or_silent_is_named_and_holds_the_level() {
        let old = [voice(1, Some(NEW)), voice(2, Some(OLD))];
        let Ceiling::Held(reason) = ceiling(1, NEW, &old) else {
            panic!("raised past an old replica");
        };
        assert!(reason.contains("replica 2 (r2)"), "{reason}");
        let silent = [voice(1, Some(NEW)), voice(3, None)];
        let Ceiling::Silent(reason) = ceiling(1, NEW, &silent) else {
            panic!("raised past a silent replica");
        };
        assert!(reason.contains("replica 3 (r3)"), "{reason}");
    }

    #[test]
    fn one_that_wants_to_be_asked_is_enough() {
        let mut asks = voice(2, Some(NEW));
        asks.holds = true;
        let freely = ceiling(1, NEW, &[voice(1, Some(NEW)), asks]);
        let expected = Ceiling::All {
            level: 2,
            freely: false,
        };
        assert_eq!(freely, expected);
    }

    #[test]
    fn the_wait_begins_anew_when_a_member_goes_back() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let after = Duration::from_secs(60);
        let mut ready = Ready::default();
        assert!(!ready.lasts(Some(2), at(0), after));
        assert!(!ready.lasts(Some(2), at(59), after));
        assert!(!ready.lasts(None, at(59), after));
        assert!(!ready.lasts(Some(2), at(60), after));
        assert!(!ready.lasts(Some(2), at(119), after));
        assert!(ready.lasts(Some(2), at(120), after));
        assert!(!ready.lasts(None, at(121), Duration::ZERO));
    }
}
