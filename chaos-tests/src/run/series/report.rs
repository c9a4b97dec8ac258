//! The section of the report.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::Result;

use super::Done;
use crate::cluster::TIMING_MULTIPLIER;

const TITLE: &str = "## Long runs\n";

/// Replaces the section in the file, or adds it.
pub(super) fn write(file: &Path, done: &[Done]) -> Result<()> {
    let before = if file.exists() {
        fs::read_to_string(file)?
    } else {
        "# What fault runs have shown\n".to_owned()
    };
    Ok(fs::write(file, replaced(&before, &section(done)?))?)
}

fn replaced(before: &str, section: &str) -> String {
    let Some((head, old)) = before.split_once(TITLE) else {
        return format!("{}\n\n{section}", before.trim_end());
    };
    let rest = old.find("\n## ").and_then(|place| old.get(place..));
    format!("{head}{section}{}", rest.unwrap_or_default())
}

fn section(done: &[Done]) -> Result<String> {
    let mut text = TITLE.to_owned();
    let green = done.iter().filter(|one| one.is_green()).count();
    write!(
        text,
        "\nMade by `make chaos-long`: {} runs, {green} of them green. Each has all workloads and 60 s \
         of faults, `timing_multiplier` {TIMING_MULTIPLIER}; one again: `chaos run --seed SEED \
         --voters VOTERS --nemesis A,B,C,D`, in any order.\n\n",
        done.len()
    )?;
    text.push_str(
        "| seed | commit | voters | faults installed | ok | failed | unknown | leader changes | \
         snapshots installed | verdict |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for one in done {
        let faults = one
            .faults
            .iter()
            .map(|(name, count)| format!("{name} {count}"));
        let faults = faults.collect::<Vec<_>>().join(", ");
        let Done {
            seed,
            commit,
            voters,
            ok,
            failed,
            unknown,
            leader_changes,
            snapshots,
            conclusion,
            ..
        } = one;
        writeln!(
            text,
            "| {seed} | {commit} | {voters} | {faults} | {ok} | {failed} | {unknown} | \
             {leader_changes} | {snapshots} | {conclusion} |"
        )?;
    }
    text.push_str("\n| checker | held in runs | over so many observations |\n|---|---|---|\n");
    let mut held: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (name, count) in done.iter().flat_map(|one| &one.held) {
        let (runs, seen) = held.entry(name).or_default();
        *runs += 1;
        *seen += count;
    }
    for (name, (runs, seen)) in held {
        writeln!(text, "| {name} | {runs} | {seen} |")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> Done {
        Done {
            seed: 7,
            voters: 3,
            commit: "abc".to_owned(),
            ok: 1,
            failed: 2,
            unknown: 3,
            faults: vec![("kill".to_owned(), 4)],
            leader_changes: 5,
            snapshots: 6,
            held: vec![("kept".to_owned(), 70)],
            conclusion: "GREEN".to_owned(),
        }
    }

    #[test]
    fn only_its_own_section_is_replaced() {
        let section = section(&[done(), done()]).unwrap();
        assert!(section.contains("| 7 | abc | 3 | kill 4 | 1 | 2 | 3 | 5 | 6 | GREEN |"));
        assert!(section.contains("| kept | 2 | 140 |"));
        let before = "# A\n\n## Long runs\n\nold\n\n## Simulation\n\nkept\n";
        let after = replaced(before, &section);
        assert!(after.starts_with("# A\n\n## Long runs\n"));
        assert!(after.ends_with("\n\n## Simulation\n\nkept\n") && !after.contains("old"));
        assert_eq!(replaced(&after, &section), after);
        assert!(replaced("# A\n", &section).starts_with("# A\n\n## Long runs\n"));
    }
}
