//! The captures of Tailscale's service: every policy in the folder is compiled for the tailnet that
//! it was captured in, and the answers are compared with the service's.
//!
//! The folder is `HYDRASCALE_CONFORMANCE_DIR`, else `../shared/conformance` beside the checkout;
//! without it there is nothing to compare. Its README says how to compare.

mod case;
mod compare;

use std::path::{Path, PathBuf};

use self::case::Case;
use self::compare::differences;

/// Kinds of cases, and how many of each are known to pass: fewer is a step back.
const KINDS: [(&str, usize); 7] = [
    ("acl", 151),
    ("grant", 187),
    ("routes", 82),
    ("ssh", 74),
    ("nodeattrs", 39),
    ("policytest", 37),
    ("sshtest", 28),
];
/// Differences shown per kind: more is not read.
const SHOWN_MAX: usize = 12;

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("HYDRASCALE_CONFORMANCE_DIR").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance");
    let folder = named.unwrap_or_else(beside).join("policy");
    folder.is_dir().then_some(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    files.sort();
    files
}

#[test]
fn the_answers_are_those_of_the_service() {
    let Some(folder) = folder() else {
        println!("no conformance data: set HYDRASCALE_CONFORMANCE_DIR");
        return;
    };
    let mut steps_back = Vec::new();
    for (kind, known) in KINDS {
        let files = files(&folder.join(kind));
        let mut passed = 0;
        let mut shown = Vec::new();
        for file in &files {
            let case = Case::read(kind, file);
            let found = differences(&case);
            if found.is_empty() {
                passed += 1;
            } else {
                shown.push(format!("{}: {}", case.id, found.join("\n  ")));
            }
        }
        println!("{kind} {passed}/{}", files.len());
        for difference in shown.iter().take(SHOWN_MAX) {
            println!("{difference}");
        }
        if passed < known {
            steps_back.push(format!("{kind}: {passed} of {known} known ones"));
        }
    }
    assert!(steps_back.is_empty(), "no longer pass: {steps_back:?}");
}
