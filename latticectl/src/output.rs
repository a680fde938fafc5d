//! Results on standard output: tables that fit the terminal, or JSON.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Cell, Color, ContentArrangement, Table, presets::NOTHING};
use lattice_policy::escape::{for_terminal, json_for_terminal};
use serde::Serialize;

use crate::{arguments::OutputForm, failure::Failure};

/// Group and version of every JSON document that is written.
pub(crate) const API_VERSION: &str = "lattice.dev/v1alpha1";

/// Where results go, and how.
pub(crate) struct Output {
    form: OutputForm,
    has_colour: bool,
    /// Columns of the terminal; `None` where there is none, so that nothing is wrapped for a program that reads it.
    width: Option<u16>,
    stdout: io::Stdout,
}

/// How a word is to be seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Caution,
    Bad,
}

impl Output {
    pub(crate) fn new(form: OutputForm) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        // https://no-color.org: whatever its value, unless it is empty.
        let wants_no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let width = columns.filter(|columns| *columns >= 20).or_else(|| match is_terminal {
            true => terminal_size::terminal_size_of(&stdout).map(|(width, _)| width.0),
            false => None,
        });
        Self {
            form,
            has_colour: is_terminal && !wants_no_colour,
            width,
            stdout,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.form == OutputForm::Json
    }

    /// One versioned document.
    pub(crate) fn json(&mut self, kind: &'static str, content: impl Serialize) -> Result<(), Failure> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<T> {
            api_version: &'static str,
            kind: &'static str,
            #[serde(flatten)]
            content: T,
        }
        let document = Document {
            api_version: API_VERSION,
            kind,
            content,
        };
        let json = serde_json::to_string_pretty(&document).map_err(|error| Failure::Io {
            what: "write JSON".to_owned(),
            source: error.into(),
        })?;
        self.line(&json_for_terminal(&json))
    }

    /// One line, or several; at once, since somebody may be waiting for it. The text must be safe for a terminal.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        let mut stdout = self.stdout.lock();
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::ReaderGone),
            Err(source) => Err(Failure::Io {
                what: "write the result".to_owned(),
                source,
            }),
        }
    }

    /// A table; a sentence where it would have no rows.
    pub(crate) fn table(
        &mut self,
        header: &[&str],
        rows: Vec<Vec<(String, Tone)>>,
        if_empty: &str,
    ) -> Result<(), Failure> {
        if rows.is_empty() {
            return self.line(if_empty);
        }
        let mut table = Table::new();
        table.load_preset(NOTHING).set_header(header.iter().map(Cell::new));
        match self.width {
            Some(width) => table
                .set_width(width)
                .set_content_arrangement(ContentArrangement::Dynamic),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        if self.has_colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        for row in rows {
            table.add_row(row.into_iter().map(|(text, tone)| {
                let cell = Cell::new(for_terminal(&text));
                match tone {
                    Tone::Plain => cell,
                    Tone::Good => cell.fg(Color::Green),
                    Tone::Caution => cell.fg(Color::Yellow),
                    Tone::Bad => cell.fg(Color::Red),
                }
            }));
        }
        let lines: Vec<String> = table
            .lines()
            .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
            .collect();
        self.line(&lines.join("\n"))
    }
}

/// A cell without a tone.
pub(crate) fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

/// A mode, toned by how much it lets through.
pub(crate) fn mode_cell(mode: &str) -> (String, Tone) {
    let tone = match mode {
        "enforce" | "deny" => Tone::Good,
        "monitor" => Tone::Caution,
        _ => Tone::Plain,
    };
    (mode.to_owned(), tone)
}

/// A text, or `-` where there is none.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}
