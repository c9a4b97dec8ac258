//! Everything that commands print: results to one stream, errors and questions to the other, for
//! people or machines.

use std::fmt::Display;
use std::io::{BufRead, Read as _, Write};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;

use super::progress::Progress;
use super::table::Table;
use super::value::Value;

/// How results look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Human,
    /// JSON over several lines, indented with tabs.
    Json,
    /// JSON in one line.
    JsonLine,
    /// YAML.
    Yaml,
}

impl Format {
    /// The format with this name; anything unknown is for people.
    pub(super) fn parse(name: &str) -> Self {
        match name {
            "json" => Self::Json,
            "json-line" => Self::JsonLine,
            "yaml" => Self::Yaml,
            _ => Self::Human,
        }
    }
}

/// Where commands print to and ask from.
pub struct Output<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    input: &'a mut dyn BufRead,
    color: bool,
    watched: bool,
    format: Format,
}

impl<'a> Output<'a> {
    /// Results go to `out`, errors and questions to `err`; `color` allows coloured tables.
    pub fn new(
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
        input: &'a mut dyn BufRead,
        color: bool,
    ) -> Self {
        Self {
            out,
            err,
            input,
            color,
            watched: false,
            format: Format::Human,
        }
    }

    /// Whether somebody watches the error stream, a terminal: progress is told there then.
    pub const fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    pub(super) const fn set_format(&mut self, format: Format) {
        self.format = format;
    }

    /// Whether tables may be coloured.
    pub(super) const fn has_color(&self) -> bool {
        self.color
    }

    /// Prints text as it is.
    pub(super) fn text(&mut self, text: impl Display) -> anyhow::Result<()> {
        write!(self.out, "{text}").context("standard output is closed")
    }

    /// Where results go, for what is too long to be held, and where its progress is told.
    pub(super) fn raw(&mut self) -> (&mut dyn Write, Progress<'_>) {
        let out: &mut dyn Write = self.out;
        let err: &mut dyn Write = self.err;
        (out, Progress::new(self.watched.then_some(err)))
    }

    /// Where the progress of what takes its time is told.
    pub(super) fn progress(&mut self) -> Progress<'_> {
        let (_, progress) = self.raw();
        progress
    }

    /// Prints bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.out
            .write_all(bytes)
            .context("standard output is closed")
    }

    /// Prints a result: a sentence for people, the value for machines.
    pub(super) fn result(&mut self, sentence: &str, value: &Value) -> anyhow::Result<()> {
        match self.format {
            Format::Human => self.text(format_args!("{sentence}\n")),
            Format::Json | Format::JsonLine | Format::Yaml => self.machine(value),
        }
    }

    /// Prints text for people, the value for machines.
    pub(super) fn text_or(&mut self, text: &str, value: &Value) -> anyhow::Result<()> {
        match self.format {
            Format::Human => self.text(text),
            Format::Json | Format::JsonLine | Format::Yaml => self.machine(value),
        }
    }

    /// Prints a list: a table for people, the value for machines.
    pub(super) fn list(&mut self, table: &Table, value: &Value) -> anyhow::Result<()> {
        match self.format {
            Format::Human => {
                let text = table.render(self.color);
                self.text(format_args!("{text}\n"))
            }
            Format::Json | Format::JsonLine | Format::Yaml => self.machine(value),
        }
    }

    fn machine(&mut self, value: &Value) -> anyhow::Result<()> {
        let text = encode(self.format, value)?;
        self.text(text)
    }

    /// Tells something beside the result, for people's eyes.
    pub(super) fn note(&mut self, text: &str) {
        // Nobody is left to be told when this stream is closed too.
        let _ = writeln!(self.err, "{text}");
    }

    /// Prints why a command failed.
    pub(super) fn error(&mut self, message: &str) {
        let text = match self.format {
            Format::Human => format!("Error: {message}\n"),
            Format::Json | Format::JsonLine | Format::Yaml => {
                let value = Value::Map(vec![(
                    "error".to_owned(),
                    Value::String(message.to_owned()),
                )]);
                encode(self.format, &value).unwrap_or_else(|_| format!("Error: {message}\n"))
            }
        };
        let _ = write!(self.err, "{text}");
    }

    /// Prints what is wrong with the words of a command, on one line.
    pub(super) fn usage_error(&mut self, rendered: &str) {
        let lines = rendered.lines().take_while(|line| !line.trim().is_empty());
        let sentence = lines.map(str::trim).collect::<Vec<_>>().join(" ");
        let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
        self.error(&format!("{sentence}; see --help"));
    }

    /// All of the input, if it is text of at most `bytes_max` bytes.
    pub(super) fn read_input(&mut self, bytes_max: usize) -> anyhow::Result<String> {
        let mut text = String::new();
        let limit = bytes_max as u64 + 1;
        let mut input = (&mut *self.input).take(limit);
        input
            .read_to_string(&mut text)
            .context("standard input cannot be read")?;
        if text.len() > bytes_max {
            bail!("standard input is longer than {bytes_max} bytes");
        }
        Ok(text)
    }

    /// Asks a question; only a yes is a yes.
    pub(super) fn confirm(&mut self, question: &str) -> anyhow::Result<bool> {
        write!(self.err, "{question} [y/n] ")?;
        self.err.flush()?;
        let mut answer = String::new();
        let read = self.input.read_line(&mut answer);
        if read.context("no answer could be read")? == 0 {
            bail!("nobody answers: where nobody can be asked, --force says yes");
        }
        Ok(matches!(
            answer.trim().to_lowercase().as_str(),
            "y" | "yes" | "sure"
        ))
    }
}

fn encode(format: Format, value: &Value) -> anyhow::Result<String> {
    match format {
        Format::Yaml => Ok(serde_saphyr::to_string(value)?),
        Format::JsonLine => Ok(format!("{}\n", serde_json::to_string(value)?)),
        Format::Json | Format::Human => {
            let mut bytes = Vec::new();
            let formatter = PrettyFormatter::with_indent(b"\t");
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
            value.serialize(&mut serializer)?;
            bytes.push(b'\n');
            Ok(String::from_utf8(bytes)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(format: Format, run: impl FnOnce(&mut Output<'_>)) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut input: &[u8] = b"Yes\n";
        let mut output = Output::new(&mut out, &mut err, &mut input, false);
        output.set_format(format);
        run(&mut output);
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    fn user() -> Value {
        serde_json::from_str(r#"{"id":"1","name":"alice","tags":[],"ok":true,"gone":null}"#)
            .unwrap()
    }

    #[test]
    fn machine_formats_keep_the_order_of_the_answer() {
        let print = |format| printed(format, |out| out.result("User created", &user()).unwrap()).0;
        assert_eq!(print(Format::Human), "User created\n");
        assert_eq!(
            print(Format::Json),
            "{\n\t\"id\": \"1\",\n\t\"name\": \"alice\",\n\t\"tags\": [],\n\t\"ok\": true,\n\
             \t\"gone\": null\n}\n"
        );
        assert_eq!(
            print(Format::JsonLine),
            "{\"id\":\"1\",\"name\":\"alice\",\"tags\":[],\"ok\":true,\"gone\":null}\n"
        );
        assert_eq!(
            print(Format::Yaml),
            "id: \"1\"\nname: alice\ntags: []\nok: true\ngone: null\n"
        );
    }

    #[test]
    fn errors_go_to_the_other_stream_in_the_same_format() {
        let print = |format| printed(format, |out| out.error("no user 7"));
        assert_eq!(
            print(Format::Human),
            (String::new(), "Error: no user 7\n".to_owned())
        );
        assert_eq!(print(Format::JsonLine).1, "{\"error\":\"no user 7\"}\n");
        assert_eq!(print(Format::Yaml).1, "error: no user 7\n");
    }

    #[test]
    fn a_question_takes_yes_in_any_case() {
        let (out, err) = printed(Format::Human, |output| {
            assert!(output.confirm("Remove it?").unwrap());
            let unanswered = output.confirm("Again?").unwrap_err();
            assert!(unanswered.to_string().contains("--force"), "{unanswered}");
        });
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("", "Remove it? [y/n] Again? [y/n] ")
        );
    }
}
