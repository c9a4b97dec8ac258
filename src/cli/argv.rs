//! Flags may stand anywhere, also before the words of their command
//! (`headscale -u NAME nodes register --key K`), as headscale's own command line allows. clap wants
//! them behind the words, so they are moved there.

use clap::Command;

use super::output::Format;

/// Whether a flag is followed by a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arity {
    Switch,
    Value,
    /// Some commands have it with, others without.
    Either,
}

/// Moves flags that stand before a command's words behind them. `root` must have been built.
pub(super) fn reorder(root: &Command, argv: &[String]) -> Vec<String> {
    let mut args = argv.iter().cloned();
    let mut words: Vec<String> = args.next().into_iter().collect();
    let mut flags = Vec::new();
    let mut command = root;
    let mut args = args.peekable();
    while command.has_subcommands() {
        let Some(arg) = args.next() else { break };
        if arg == "--" {
            flags.push(arg);
            break;
        }
        if is_flag(&arg) {
            let value = match arity(command, &arg) {
                Some(Arity::Value) => true,
                Some(Arity::Either) => args
                    .peek()
                    .is_some_and(|next| command.find_subcommand(next).is_none()),
                Some(Arity::Switch) | None => false,
            };
            flags.push(arg);
            flags.extend(args.next_if(|_| value));
            continue;
        }
        let Some(sub) = command.find_subcommand(&arg) else {
            flags.push(arg);
            break;
        };
        words.push(arg);
        command = sub;
    }
    words.extend(flags);
    words.extend(args);
    words
}

/// The format that the arguments ask for, known even when they are otherwise wrong.
pub(super) fn output_format(argv: &[String]) -> Format {
    let mut args = argv.iter().skip(1);
    while let Some(arg) = args.next() {
        let value = match arg.as_str() {
            "--" => break,
            "-o" | "--output" => args.next().map(String::as_str),
            _ => arg.strip_prefix("--output=").or_else(|| {
                arg.strip_prefix("-o")
                    .map(|rest| rest.trim_start_matches('='))
            }),
        };
        if let Some(value) = value {
            return Format::parse(value);
        }
    }
    Format::Human
}

fn is_flag(arg: &str) -> bool {
    arg.len() > 1 && arg.starts_with('-')
}

/// What the commands below `command` say of a flag; `None` when its value is attached or nobody
/// knows it.
fn arity(command: &Command, arg: &str) -> Option<Arity> {
    let (long, short) = match arg.strip_prefix("--") {
        Some(long) if !long.contains('=') => (Some(long), None),
        Some(_) => return None,
        None => {
            let mut letters = arg.chars().skip(1);
            let short = letters.next()?;
            if letters.next().is_some() {
                return None;
            }
            (None, Some(short))
        }
    };
    let own = command.get_arguments().filter(|flag| {
        let longs = flag
            .get_long()
            .into_iter()
            .chain(flag.get_all_aliases().unwrap_or_default());
        let shorts = flag
            .get_short()
            .into_iter()
            .chain(flag.get_all_short_aliases().unwrap_or_default());
        long.is_some_and(|name| longs.into_iter().any(|other| other == name))
            || short.is_some_and(|letter| shorts.into_iter().any(|other| other == letter))
    });
    let own = own.map(|flag| {
        if flag.get_action().takes_values() {
            Arity::Value
        } else {
            Arity::Switch
        }
    });
    let below = command.get_subcommands().filter_map(|sub| arity(sub, arg));
    own.chain(below)
        .reduce(|left, right| if left == right { left } else { Arity::Either })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::args::Cli;
    use super::*;

    fn reordered(line: &str) -> String {
        let mut command = Cli::command();
        command.build();
        let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
        reorder(&command, &argv).join(" ")
    }

    #[test]
    fn leaf_flags_move_behind_the_words() {
        for (given, expected) in [
            (
                "h -u alice nodes register --key k",
                "h nodes register -u alice --key k",
            ),
            ("h -n guest node ls -t", "h node ls -n guest -t"),
            ("h nodes -o json list", "h nodes list -o json"),
            ("h -uNAME nodes ls", "h nodes ls -uNAME"),
            ("h --user=a --force nodes ls", "h nodes ls --user=a --force"),
            (
                "h preauthkeys -u 1 create --reusable",
                "h preauthkeys create -u 1 --reusable",
            ),
            ("h users create -d x bob", "h users create -d x bob"),
            ("h -d nodes expire -i 1", "h nodes expire -d -i 1"),
            ("h --unknown nodes ls", "h nodes ls --unknown"),
            ("h nonsense -o json", "h nonsense -o json"),
            ("h", "h"),
        ] {
            assert_eq!(reordered(given), expected, "{given}");
        }
    }

    #[test]
    fn the_output_format_is_found_in_every_spelling() {
        let format = |line: &str| {
            let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
            output_format(&argv)
        };
        assert_eq!(format("h users ls -o json"), Format::Json);
        assert_eq!(format("h -oyaml users"), Format::Yaml);
        assert_eq!(format("h users --output=json-line"), Format::JsonLine);
        assert_eq!(format("h users ls"), Format::Human);
        assert_eq!(format("h users -- -o json"), Format::Human);
    }

    proptest::proptest! {
        #[test]
        fn no_arguments_panic_and_none_are_lost(
            argv in proptest::collection::vec("(-{0,2}[a-z]{0,6}=?|nodes|users|list|--)", 0..8)
        ) {
            let mut command = Cli::command();
            command.build();
            let mut got = reorder(&command, &argv);
            let mut expected = argv;
            got.sort();
            expected.sort();
            proptest::prop_assert_eq!(got, expected);
        }
    }
}
