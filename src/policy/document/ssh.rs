//! `ssh`: who may log in to which nodes as whom.

use std::time::Duration;

use super::super::hujson::Value;
use super::super::selector::{Autogroup, Selector, Spot};
use super::decode::{Decoder, Fields};
use super::lookup::{Place, foreign_domain};
use super::period::{go_duration, parse_period};
use super::{SshRule, Text};

/// How long a check lasts if the rule does not say.
const CHECK_PERIOD_DEFAULT: Duration = Duration::from_hours(12);
/// Longest that a check may last.
const CHECK_PERIOD_MAX: Duration = Duration::from_hours(168);

const FIELDS: [&str; 9] = [
    "action",
    "src",
    "srcPosture",
    "dst",
    "users",
    "checkPeriod",
    "acceptEnv",
    "recorder",
    "enforceRecorder",
];

impl Decoder<'_> {
    pub(super) fn ssh_rule(&mut self, value: &Value) -> Option<SshRule> {
        let fields = self.fields(value, &FIELDS);
        let is_check = self.ssh_action(value, &fields);
        let check_period = self.check_period(&fields, is_check);
        let src = self.trimmed(&fields, "src");
        let src = self.spots(src, Place::SshSrc);
        let dst = self.trimmed(&fields, "dst");
        let dst = self.spots(dst, Place::SshDst);
        let users = self.login_users(value, &fields);
        let accept_env = self.texts(&fields, "acceptEnv");
        if let Some(empty) = accept_env.iter().find(|text| text.text.is_empty()) {
            self.error(empty.at, "acceptEnv values cannot be empty");
        }
        let recorder = self.trimmed(&fields, "recorder");
        let recorder = self.spots(recorder, Place::Recorder);
        let enforce_recorder = self.flag(&fields, "enforceRecorder");
        if enforce_recorder && recorder.is_empty() {
            self.error(value.at, "enforceRecorder needs a recorder");
        }
        self.check_ssh_pairs(&src, &dst);
        Some(SshRule {
            at: value.at,
            check_period,
            src,
            src_posture: self.src_posture(&fields),
            dst,
            users,
            accept_env: accept_env.into_iter().map(|text| text.text).collect(),
            recorder,
            enforce_recorder,
        })
    }

    /// Whether logins need a check.
    fn ssh_action(&mut self, value: &Value, fields: &Fields<'_>) -> bool {
        let Some(Text { at, text }) = self.string(fields, "action") else {
            self.error(value.at, "action must be specified");
            return false;
        };
        match text.trim() {
            "accept" => false,
            "check" => true,
            "" => {
                self.error(at, "action must be specified");
                false
            }
            other => {
                self.error(at, format!("{other:?} is not a valid action"));
                false
            }
        }
    }

    fn check_period(&mut self, fields: &Fields<'_>, is_check: bool) -> Option<Duration> {
        let default = is_check.then_some(CHECK_PERIOD_DEFAULT);
        let Some(Text { at, text }) = self.string(fields, "checkPeriod") else {
            return default;
        };
        if !is_check {
            self.error(at, "checkPeriod is only valid with action \"check\"");
            return default;
        }
        match text.as_str() {
            "" => return default,
            "always" => return Some(Duration::ZERO),
            _ => {}
        }
        let message = match parse_period(&text) {
            Err(message) => message,
            Ok(period) if period.is_negative => {
                let shown = go_duration(&period);
                format!("checkPeriod {shown} must be a positive duration")
            }
            Ok(period) if period.length > CHECK_PERIOD_MAX => {
                let shown = go_duration(&period);
                format!("checkPeriod {shown} is above the max (168h)")
            }
            Ok(period) => return Some(period.length),
        };
        self.error(at, message);
        default
    }

    fn login_users(&mut self, value: &Value, fields: &Fields<'_>) -> Vec<String> {
        let users = self.trimmed(fields, "users");
        if users.is_empty() {
            self.error(value.at, "users must be specified");
        }
        for Text { at, text } in &users {
            if text.is_empty() || text == "*" {
                self.error(*at, format!("user {text:?} is not valid"));
            }
            if let Some(domain) = localpart_domain(text)
                && !self.directory.has_domain(&domain)
            {
                self.error(*at, foreign_domain(&domain));
            }
        }
        users.into_iter().map(|user| user.text).collect()
    }

    fn check_ssh_pairs(&mut self, src: &[Spot], dst: &[Spot]) {
        let tagged = src.iter().any(|spot| is_tagged(&spot.selector));
        for spot in dst {
            let message = match &spot.selector {
                Selector::User(user) if tagged => format!(
                    "tags in SSH source cannot access user-owned devices ({user}); use \
                     autogroup:tagged or specific tags as destinations instead"
                ),
                Selector::User(user) if !src.is_empty() && !is_only(src, user) => format!(
                    "user destination requires source to contain only that same user {user:?}; \
                     use autogroup:self instead for same-user SSH access"
                ),
                Selector::Auto(Autogroup::SelfNodes) if tagged => {
                    "autogroup:self destination requires source to contain only users or groups, \
                     not tags or autogroup:tagged"
                        .to_owned()
                }
                Selector::Auto(Autogroup::Member) if tagged => {
                    "tags in SSH source cannot access autogroup:member (user-owned devices)"
                        .to_owned()
                }
                Selector::Any
                | Selector::User(_)
                | Selector::Domain(_)
                | Selector::Group(_)
                | Selector::Tag(_)
                | Selector::Auto(_)
                | Selector::IpSet(_)
                | Selector::Host(_)
                | Selector::Prefix(_) => continue,
            };
            self.error(spot.at, message);
        }
    }
}

fn is_tagged(selector: &Selector) -> bool {
    matches!(
        selector,
        Selector::Tag(_) | Selector::Auto(Autogroup::Tagged)
    )
}

fn is_only(src: &[Spot], user: &str) -> bool {
    matches!(src, [spot] if matches!(&spot.selector, Selector::User(found) if found == user))
}

/// The domain of `localpart:*@domain`, in lower case.
pub(in crate::policy) fn localpart_domain(user: &str) -> Option<String> {
    let domain = user.strip_prefix("localpart:*@")?;
    (!domain.is_empty()).then(|| domain.to_lowercase())
}
