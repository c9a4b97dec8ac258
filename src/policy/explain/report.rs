//! The answer, in words and in the shape that the API sends: camelCase names, ids as text, absent
//! things null, lists cut at the limits of [`super`] with the number of what was left out beside
//! them.

use serde::{Serialize, Serializer};

use crate::types::NodeId;

/// What the policy in force says of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// As it was asked.
    pub src: String,
    /// As it was asked, without the port.
    pub dst: String,
    /// Null: any.
    pub port: Option<u16>,
    /// Name of the protocol; null: TCP or UDP where there is a port, else any.
    pub protocol: Option<String>,
    /// Version of the policy; null where none was ever set.
    pub policy_version: Option<u64>,
    /// Why the policy in force is not one for this version, which then allows nothing.
    pub fault: Option<String>,
    /// Over all pairs that were judged.
    pub verdict: Overall,
    /// Pairs of a source and a destination that were judged.
    pub pairs: usize,
    /// Those that are allowed.
    pub allowed_pairs: usize,
    /// Pairs that were not judged, being too many.
    pub unjudged_pairs: usize,
    /// Pairs with the same answer share one.
    pub answers: Vec<Answer>,
    /// How many answers were left out.
    pub more_answers: usize,
}

/// The verdict over all pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Overall {
    /// All pairs.
    Allowed,
    /// None.
    Denied,
    /// Some.
    Mixed,
}

/// The answer for one or more pairs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the connection gets through.
    pub allowed: bool,
    /// Who to whom.
    pub pairs: Vec<PairReport>,
    /// How many pairs were left out.
    pub more_pairs: usize,
    /// The rules that allow it, in the order of the file, `acls` first.
    pub rules: Vec<RuleReport>,
    /// How many of them were left out.
    pub more_rules: usize,
    /// The rules that lack one thing, the closest first.
    pub close: Vec<RuleReport>,
    /// How many of them were left out.
    pub more_close: usize,
    /// The rules that let the source log in by SSH, where that is asked about.
    pub logins: Vec<RuleReport>,
    /// How many of them were left out.
    pub more_logins: usize,
    /// Whether the two nodes are told of each other; null where one end is no node.
    pub visible: Option<bool>,
    /// A rule by which the destination reaches the source, where the other way is closed: by it the
    /// two see each other. In its reason the two have changed places.
    pub reverse: Option<RuleReport>,
    /// For an address that is no node's: the nodes that carry it.
    pub routers: Vec<RouterReport>,
    /// How many of them were left out.
    pub more_routers: usize,
    /// What else matters, a sentence each.
    pub notes: Vec<String>,
}

/// Two ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PairReport {
    /// From.
    pub src: EndReport,
    /// To.
    pub dst: EndReport,
}

/// An end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndReport {
    /// Of the node; null: an address that is no node's.
    #[serde(serialize_with = "as_text")]
    pub id: Option<NodeId>,
    /// Given name of the node, or the address.
    pub name: String,
    /// Name of the owner; empty: none.
    pub user: String,
    /// Of the node.
    pub tags: Vec<String>,
    /// Those that are asked about.
    pub ip_addresses: Vec<String>,
}

/// A list of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleKind {
    /// What holds without `acls` and `grants`: everything is allowed.
    Default,
    /// `acls`
    Acl,
    /// `grants`
    Grant,
    /// `ssh`
    Ssh,
}

/// A rule and why it is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// Which list it stands in.
    pub kind: RuleKind,
    /// Its place in that list, from 0.
    pub index: usize,
    /// Where it begins in the text of the policy; 0: nowhere.
    pub line: u32,
    /// In characters.
    pub column: u32,
    /// The rule in one line, long lists cut.
    pub text: String,
    /// Why it allows the connection, or what it lacks.
    pub reason: String,
}

/// A node that carries an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterReport {
    /// Of the node.
    #[serde(serialize_with = "as_text")]
    pub id: Option<NodeId>,
    /// Given name of the node.
    pub name: String,
    /// The route that the address is in.
    pub route: String,
    /// Whether the source is told to send there.
    pub used: bool,
}

/// Ids are text in JSON.
#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn as_text<S: Serializer>(id: &Option<NodeId>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}
