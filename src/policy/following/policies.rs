//! Policies for a tailnet to which anything may happen.

pub(super) const POLICIES: [&str; 11] = [
    "",
    r#"{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}"#,
    r#"{"groups":{"group:a":["u1@","u2@"],"group:b":["u2@","u3@"]},"tagOwners":{"tag:x":[],"tag:y":[]},
        "acls":[{"action":"accept","src":["group:a"],"dst":["tag:x:22","autogroup:self:*"]},
                {"action":"accept","src":["group:b","tag:x"],"dst":["tag:y:80,443","10.0.0.0/8:*"]}]}"#,
    r#"{"groups":{"group:a":["u1@"]},"tagOwners":{"tag:x":[],"tag:y":[]},
        "acls":[{"action":"accept","src":["u1@"],"dst":["tag:x:22"]},
                {"action":"accept","src":["group:a"],"dst":["tag:y:22"]},
                {"action":"accept","src":["u4@"],"dst":["tag:x:1"]},
                {"action":"accept","src":["group:a"],"dst":["tag:x:23"]}]}"#,
    r#"{"tagOwners":{"tag:x":[],"tag:y":[]},
        "grants":[{"src":["autogroup:member"],"dst":["autogroup:internet"],"via":["tag:x"],"ip":["*"]},
                  {"src":["u1@","tag:y"],"dst":["10.1.0.0/16"],"via":["tag:y"],"ip":["tcp:443"]},
                  {"src":["autogroup:tagged"],"dst":["*"],"ip":["*"]},
                  {"src":["u2@"],"dst":["autogroup:self"],"app":{"tailscale.com/cap/drive":[{}]}}]}"#,
    r#"{"tagOwners":{"tag:x":["autogroup:member"],"tag:y":[]},"hosts":{"h":"100.64.0.3"},
        "acls":[{"action":"accept","src":["h","100.64.0.0/29"],"dst":["h:*","autogroup:member:5"]},
                {"action":"accept","src":["autogroup:tagged"],"dst":["autogroup:internet:*"]}],
        "ssh":[{"action":"check","src":["autogroup:member"],"dst":["autogroup:self","tag:x"],"users":["root","autogroup:nonroot"]},
               {"action":"accept","src":["tag:y"],"dst":["tag:x"],"users":["deploy"]}],
        "nodeAttrs":[{"target":["tag:x"],"attr":["funnel"]},{"target":["*"],"attr":["suggest-exit-node"]},{"target":["u1@","tag:y"],"attr":["disable-ipv4"]}],
        "autoApprovers":{"routes":{"10.0.0.0/8":["tag:x","u1@"]},"exitNode":["tag:y"]}}"#,
    r#"{"postures":{"posture:new":["node:os == 'linux'"]},"tagOwners":{"tag:x":[],"tag:y":[]},
        "acls":[{"action":"accept","src":["autogroup:member"],"srcPosture":["posture:new"],"dst":["tag:x:*"]},
                {"action":"accept","src":["tag:x"],"dst":["tag:y:9"]},
                {"action":"accept","src":["*"],"srcPosture":["posture:new"],"dst":["10.1.0.0/16:1"]}]}"#,
    r#"{"acls":[]}"#,
    r#"{"acls":[{"action":"accept","src":["*"],"dst":["autogroup:self:*"]},
                {"action":"accept","src":["autogroup:danger-all"],"dst":["100.64.0.2:53","fd7a:115c:a1e0::2:53"]},
                {"action":"accept","src":["100.64.0.2","fd7a:115c:a1e0::2"],"dst":["u3@:7"]},
                {"action":"accept","src":["u1@"],"dst":["u3@:8"]}]}"#,
    r#"{"groups":{"group:a":["u1@","u2@"]},"hosts":{"h":"192.168.0.0/24"},"tagOwners":{"tag:x":[],"tag:y":[]},
        "postures":{"posture:new":["node:os == 'linux'"]},
        "acls":[{"action":"accept","src":["group:a"],"srcPosture":["posture:new"],"dst":["autogroup:self:*"]},
                {"action":"accept","src":["u3@"],"dst":["h:1"]}],
        "ssh":[{"action":"accept","src":["autogroup:member"],"dst":["autogroup:self"],"users":["root"],"recorder":["tag:x"]}],
        "nodeAttrs":[{"target":["h"],"attr":["funnel"]}]}"#,
    r#"{"groups":{"group:a":["u1@"]},"hosts":{"h":"100.64.0.3"},"tagOwners":{"tag:x":[],"tag:y":[]},
        "postures":{"posture:new":["node:os == 'linux'"]},
        "acls":[{"action":"accept","src":["group:a"],"srcPosture":["posture:new"],"dst":["autogroup:self:*"]},
                {"action":"accept","src":["u3@"],"dst":["h:1"]}],
        "ssh":[{"action":"accept","src":["autogroup:member"],"dst":["autogroup:self"],"users":["root"],"recorder":["tag:x"]}],
        "nodeAttrs":[{"target":["h"],"attr":["funnel"]}]}"#,
];

/// Names that rules of [`RULES`] use.
const NAMES: &str = r#"
    "groups":{"group:a":["u1@","u2@"],"group:b":["u2@","u3@"],"group:one":["u1@"]},
    "hosts":{"h":"100.64.0.3","net":"10.1.0.0/16"},
    "ipsets":{"ipset:few":["100.64.0.0/29","remove 100.64.0.5"],"ipset:more":["ipset:few","h","fd7a:115c:a1e0::3"],
              "ipset:two":["100.64.0.2","fd7a:115c:a1e0::2"],"ipset:routed":["10.0.0.0/8","192.168.0.0/24"]},
    "tagOwners":{"tag:x":[],"tag:y":[]},
"#;

/// Rules that come, go and move one by one: acls, then grants, then logins, then attributes.
const RULES: [(&str, &str); 26] = [
    (
        "acls",
        r#"{"action":"accept","src":["u1@"],"dst":["tag:x:22"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["group:one"],"dst":["autogroup:self:*"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["group:a"],"dst":["autogroup:self:80"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["autogroup:member"],"dst":["tag:y:1"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["u1@"],"dst":["u2@:7"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["u2@"],"dst":["tag:y:8"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["group:b"],"dst":["u1@:9","h:9"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["ipset:two"],"dst":["tag:x:10"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["ipset:few"],"dst":["ipset:more:11"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["100.64.0.2"],"dst":["*:12"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["autogroup:admin"],"dst":["tag:x:13"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["autogroup:owner"],"dst":["autogroup:self:14","ipset:routed:14"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["user:*@one.example"],"dst":["tag:y:15"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["*"],"dst":["net:16"]}"#,
    ),
    (
        "acls",
        r#"{"action":"accept","src":["fd7a:115c:a1e0::3"],"proto":"udp","dst":["u1@:17"]}"#,
    ),
    (
        "grants",
        r#"{"src":["u1@"],"dst":["tag:x"],"ip":["tcp:18"]}"#,
    ),
    (
        "grants",
        r#"{"src":["group:a"],"dst":["tag:x","u1@"],"ip":["19"],"via":["tag:y"]}"#,
    ),
    (
        "grants",
        r#"{"src":["autogroup:admin"],"dst":["autogroup:self"],"app":{"tailscale.com/cap/drive":[{}]}}"#,
    ),
    (
        "grants",
        r#"{"src":["ipset:few"],"dst":["autogroup:internet"],"ip":["*"]}"#,
    ),
    (
        "ssh",
        r#"{"action":"accept","src":["group:a"],"dst":["autogroup:self"],"users":["root"]}"#,
    ),
    (
        "ssh",
        r#"{"action":"accept","src":["autogroup:member"],"dst":["tag:x"],"users":["localpart:*@one.example"]}"#,
    ),
    (
        "ssh",
        r#"{"action":"check","src":["autogroup:admin"],"dst":["tag:y"],"users":["autogroup:nonroot"],"recorder":["tag:x"]}"#,
    ),
    (
        "nodeAttrs",
        r#"{"target":["autogroup:admin"],"attr":["funnel"]}"#,
    ),
    (
        "nodeAttrs",
        r#"{"target":["ipset:two","u2@"],"attr":["suggest-exit-node"]}"#,
    ),
    (
        "nodeAttrs",
        r#"{"target":["group:b"],"attr":["disable-ipv4"]}"#,
    ),
    (
        "nodeAttrs",
        r#"{"target":["user:*@one.example"],"attr":["magicdns-aaaa"]}"#,
    ),
];

/// A policy of some of the rules, which is edited.
#[derive(Default)]
pub(super) struct Book {
    /// By number, in the order of the file.
    rules: Vec<usize>,
}

impl Book {
    /// Takes a rule out, or puts it in at some place.
    pub(super) fn toggle(&mut self, rule: usize, place: usize) {
        let rule = rule % RULES.len();
        match self.rules.iter().position(|known| *known == rule) {
            Some(found) => {
                self.rules.remove(found);
            }
            None => self.rules.insert(place % (self.rules.len() + 1), rule),
        }
    }

    /// The file.
    pub(super) fn text(&self) -> String {
        let list = |key: &str| {
            let rules = self.rules.iter().map(|rule| RULES[*rule]);
            let rules = rules.filter(|(of, _)| *of == key).map(|(_, rule)| rule);
            format!("\"{key}\":[{}]", rules.collect::<Vec<_>>().join(","))
        };
        let lists = ["acls", "grants", "ssh", "nodeAttrs"].map(list);
        format!("{{{NAMES}{}}}", lists.join(","))
    }
}
