//! Output: for people, in colours where the terminal has them, or JSON.

use std::io::{IsTerminal, Write, stderr, stdout};

use serde_json::{Value, json};

use super::failure::Failure;

/// Where a command's output goes.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    colours: bool,
    progress: bool,
    width: usize,
}

/// Meaning of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// A heading.
    Strong,
    /// Less important.
    Faint,
    /// As it should be.
    Good,
    /// Refused or wrong.
    Bad,
    /// To be noticed.
    Notable,
}

impl Output {
    /// Colours only on a terminal, and not where `NO_COLOR` is set (no-color.org); progress only on a terminal.
    pub fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colours = !json && wanted && !dumb && stdout().is_terminal();
        let progress = !json && !dumb && stderr().is_terminal();
        Self { json, colours, progress, width: terminal_width().clamp(60, 120) }
    }

    /// Columns that a line may fill.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether progress may be drawn on standard error.
    pub fn draws_progress(&self) -> bool {
        self.progress
    }

    /// Text in a tone.
    pub fn tint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Notable => "33",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A line for people; nothing with `--json`.
    pub fn line(&self, text: &str) {
        if !self.json {
            print(&format!("{text}\n"));
        }
    }

    /// A JSON object; nothing without `--json`.
    pub fn object(&self, value: &Value) {
        if self.json {
            print(&format!("{value}\n"));
        }
    }

    /// Tells of a failure on standard error and returns its exit code.
    pub fn failure(&self, failure: &Failure) -> u8 {
        let text = if self.json {
            let Failure { code, kind, text, next } = failure;
            json!({"result": "error", "error_kind": kind, "error": text, "next": next, "exit_code": code})
                .to_string()
        } else {
            let next = failure.next.iter().map(|next| format!("\n  what to do: {next}"));
            let head = self.tint_error(&format!("error ({})", failure.kind));
            format!("{head}: {}{}", failure.text, next.collect::<String>())
        };
        // Nobody reads what cannot be printed.
        let _ = writeln!(stderr(), "{text}");
        failure.code
    }

    fn tint_error(&self, text: &str) -> String {
        let colours = self.colours && stderr().is_terminal();
        if colours { self.tint(Tone::Bad, text) } else { text.to_owned() }
    }

    /// A table; the columns at the places in `right` are aligned to the right.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>], right: &[usize]) {
        let widths = widths(head, rows);
        let names: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
        self.line(&self.tint(Tone::Strong, &layout(&names, &widths, right)));
        for row in rows {
            self.line(&layout(row, &widths, right));
        }
    }
}

/// Columns of the terminal; a usual number for a file or pipe.
fn terminal_width() -> usize {
    match rustix::termios::tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => 100,
    }
}

fn print(text: &str) {
    // A closed pipe is the reader's way to say that it has enough.
    let _ = stdout().write_all(text.as_bytes());
}

fn widths(head: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = head.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

fn layout(row: &[String], widths: &[usize], right: &[usize]) -> String {
    let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, &width))| {
        if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    });
    let line: Vec<String> = cells.collect();
    format!("  {}", line.join("  ").trim_end())
}

/// Text broken at spaces so that lines which begin at column `indent` end before column `width`. The first line is not
/// indented: it follows what the caller prints before it.
pub fn wrap(text: &str, width: usize, indent: usize) -> String {
    let width = width.saturating_sub(indent).max(20);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let used = line.chars().count() + word.chars().count() + 1;
        if !line.is_empty() && used > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

/// Bytes for people, in units of 1024.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Nanoseconds as milliseconds for people.
pub fn milliseconds(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.1} ms") }
}

/// The first digits of a digest.
pub fn short(digest: impl ToString) -> String {
    digest.to_string().chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(3 << 30)],
            ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]
        );
        assert_eq!([milliseconds(1_234_567), milliseconds(45_600_000)], ["1.23 ms", "45.6 ms"]);
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
    }

    #[test]
    fn table_columns_line_up() {
        let rows = vec![vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "9".to_owned()]];
        let widths = widths(&["x", "n"], &rows);
        assert_eq!(layout(&rows[0], &widths, &[1]), "  a     10");
        assert_eq!(layout(&rows[1], &widths, &[1]), "  long   9");
    }

    #[test]
    fn wrapped_text_keeps_its_words_and_width() {
        let text = "one two three four five six";
        assert_eq!(wrap(text, 24, 4), "one two three four\n    five six");
        assert_eq!(wrap(text, 100, 2), text);
    }

    #[test]
    fn output_without_a_terminal_has_no_escape_sequences() {
        let output = Output { json: false, colours: false, progress: false, width: 80 };
        assert_eq!(output.tint(Tone::Bad, "x"), "x");
        let coloured = Output { colours: true, ..output };
        assert_eq!(coloured.tint(Tone::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
