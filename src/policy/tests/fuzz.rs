//! Texts that nobody meant: a corpus of policies, cut, joined and scrambled.
//!
//! The mutations follow from a seed, so that what fails once fails again. `HYDRASCALE_FUZZ_ROUNDS`
//! makes a run longer; a text that broke something belongs into the corpus.

use std::path::Path;

use super::super::engine::Engine;
use super::super::hujson::{self, print};
use super::super::yaml;
use super::tailnet::{Tailnet, device};

/// Mutations per file where nothing else is wanted.
const ROUNDS: u64 = 150;
/// Longest text that mutations make.
const BYTES_MAX: usize = 64 * 1024;

const TOKENS: [&str; 40] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "//",
    "/*",
    "*/",
    "\n",
    "- ",
    "\\u",
    "null",
    "true",
    "-1",
    "1e9",
    "\"*\"",
    "\"*:*\"",
    "tag:",
    "group:",
    "autogroup:",
    "self",
    "internet",
    "danger-all",
    "user:*@",
    "@",
    "0.0.0.0/0",
    "::/0",
    "fd7a::1",
    ":22-80",
    "65536",
    "posture:",
    "node:os",
    " IN [",
    "'",
    "&a",
    "*a",
    "<<: ",
    "é\u{0}",
];

/// A linear congruential generator (Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }
}

fn corpus() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/testdata/corpus");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    files.into_iter().map(read).collect()
}

fn tailnet() -> Tailnet {
    let mut tailnet = Tailnet::of(&["ada", "anna", "default", "guest"]);
    for (place, user) in tailnet.users.iter_mut().enumerate() {
        std::sync::Arc::make_mut(user).email = format!("{}@example.com", user.name);
        if place == 0 {
            std::sync::Arc::make_mut(user).role = crate::state::UserRole::Owner;
        }
    }
    for (id, owner) in [
        (1, "ada"),
        (2, "anna"),
        (3, "default"),
        (4, "guest"),
        (5, ""),
    ] {
        tailnet.node(id, owner).device = device("macOS", "1.84.0-t1-g2");
    }
    tailnet.tag(5, &["tag:web", "tag:router"]);
    tailnet.node(7, "");
    tailnet.tag(7, &["tag:db", "tag:nas", "tag:rec", "tag:test"]);
    let router = tailnet.node(6, "ada");
    router.subnets = vec!["10.20.0.0/16".parse().unwrap()];
    router.exits = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    tailnet
}

fn mutate(text: &str, other: &str, dice: &mut Dice) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let length = dice.below(24).min(bytes.len() - at);
        let piece = match dice.below(6) {
            0 => Vec::new(),
            1 => vec![u8::try_from(dice.below(256)).unwrap()],
            2 if dice.below(16) == 0 => bytes[at..at + length].repeat(1_000),
            2 => bytes[at..at + length].repeat(2),
            3 => {
                let from = dice.below(other.len() + 1);
                let end = (from + dice.below(200)).min(other.len());
                other.as_bytes()[from..end].to_vec()
            }
            _ => TOKENS[dice.below(TOKENS.len())].as_bytes().to_vec(),
        };
        bytes.splice(at..at + length, piece);
        bytes.truncate(BYTES_MAX);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Everything that is done with a policy; its answers as one text.
fn answers(text: &str, tailnet: &Tailnet) -> Result<String, String> {
    let engine = tailnet.try_engine(text)?;
    Ok(answers_of(&engine, tailnet))
}

fn answers_of(engine: &Engine, tailnet: &Tailnet) -> String {
    let mut all = String::new();
    for member in &tailnet.members {
        let id = member.id;
        let filter = serde_json::to_string(&engine.filter(id)).unwrap();
        let logins = serde_json::to_string(&engine.logins(id)).unwrap();
        let attributes = serde_json::to_string(&engine.attributes(id)).unwrap();
        let routes = ["10.20.0.0/16", "0.0.0.0/0"].map(|route| route.parse().unwrap());
        let approved = engine.approved_routes(id, &routes);
        all += &format!("{id} {filter} {logins} {attributes} {approved:?}\n");
        for peer in &tailnet.members {
            let routes = engine.routes(id, peer.id, &peer.subnets);
            all += &format!("{} {routes:?}\n", engine.sees(id, peer.id));
        }
    }
    all
}

/// The text as the reader understands it, in its canonical form.
fn reprinted(text: &str) -> Option<String> {
    let value = if hujson::begins(text) {
        hujson::parse(text).ok()?
    } else {
        yaml::parse(text).ok()?
    };
    value.as_ref().map(print::canonical)
}

#[test]
fn the_corpus_is_what_it_says() {
    let tailnet = tailnet();
    for (name, text) in corpus() {
        let set = answers(&text, &tailnet);
        assert_eq!(set.is_err(), name.starts_with("wrong"), "{name}: {set:?}");
        let is_yaml = name.ends_with(".yaml");
        assert_eq!(hujson::begins(&text), !is_yaml, "{name}");
        if let Some(printed) = reprinted(&text).filter(|_| set.is_ok() && !is_yaml) {
            assert_eq!(answers(&printed, &tailnet), set, "{name}");
        }
    }
}

#[test]
fn no_text_panics_and_what_is_read_is_stable() {
    let rounds = std::env::var("HYDRASCALE_FUZZ_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let (tailnet, corpus) = (tailnet(), corpus());
    let mut accepted = 0;
    for (number, (name, text)) in corpus.iter().enumerate() {
        for round in 0..rounds {
            let mut dice = Dice(round * 1_000 + u64::try_from(number).unwrap());
            let other = &corpus[dice.below(corpus.len())].1;
            let text = mutate(text, other, &mut dice);
            let _ = yaml::parse(&text);
            let found = answers(&text, &tailnet);
            let printed = reprinted(&text);
            if let Some(printed) = &printed {
                assert_eq!(reprinted(printed).as_ref(), Some(printed), "{name} {round}");
            }
            // In YAML bare words mean more, so that only HuJSON is held to its canonical text.
            if let (Ok(found), Some(printed)) = (found, printed)
                && hujson::begins(&text)
            {
                accepted += 1;
                assert_eq!(answers(&printed, &tailnet), Ok(found), "{name} {round}");
            }
        }
    }
    assert!(accepted > 0, "every mutation was refused");
}
