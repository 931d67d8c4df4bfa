//! A terminal that shows one table again and again; anything else gets one table after the other.

use console::Term;

use super::rows::LiveTree;
use crate::cli::{Failure, output};

/// Columns that the table takes at least: a narrower terminal shows its left part, not a letter of each column.
const WIDTH_MIN: u16 = 100;

/// Gives the terminal back as it was when dropped.
pub(super) struct Screen {
    term: Option<Term>,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let term = Some(Term::stdout()).filter(Term::is_term);
        if let Some(term) = &term {
            // A terminal that cannot do that shows its cursor.
            let _ = term.hide_cursor().and_then(|()| term.clear_screen());
        }
        Screen { term }
    }

    /// Shows it in place of what was shown before. What does not fit is counted, not shown.
    pub(super) fn show(&mut self, live: &LiveTree) -> Result<(), Failure> {
        let mut table = output::table(&live.header);
        table.add_rows(&live.rows);
        let Some(term) = &self.term else {
            return output::line(format!("{}\n{table}", live.title));
        };
        let (height, width) = term.size();
        table.set_width(width.max(WIDTH_MIN));
        let mut lines = vec![live.title.clone()];
        lines.extend(table.to_string().lines().map(str::to_owned));
        output::bytes(frame(lines, usize::from(height)).as_bytes())
    }
}

/// The lines in place of the old ones, on a terminal of this height. Line by line, so that nothing flickers; and cut off at
/// the right by the terminal, for a line that went on in the next row would push the first ones out.
fn frame(mut lines: Vec<String>, height: usize) -> String {
    // The last row is where the cursor is left.
    let room = height.saturating_sub(1).max(1);
    if lines.len() > room {
        let hidden = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(format!("… {hidden} more lines"));
    }
    let text: String = lines.iter().map(|line| format!("\x1b[K{line}\n")).collect();
    format!("\x1b[?7l\x1b[H{text}\x1b[J\x1b[?7h")
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(term) = &self.term {
            let _ = term.show_cursor();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: usize, height: usize) -> Vec<String> {
        let frame = frame((1..=lines).map(|line| line.to_string()).collect(), height);
        let text = frame.strip_prefix("\x1b[?7l\x1b[H").unwrap().strip_suffix("\x1b[J\x1b[?7h").unwrap();
        text.lines().map(|line| line.strip_prefix("\x1b[K").unwrap().to_owned()).collect()
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(shown(3, 4), ["1", "2", "3"]);
        assert_eq!(shown(4, 4), ["1", "2", "… 2 more lines"]);
        assert_eq!(shown(9, 2), ["… 9 more lines"]);
        assert_eq!(shown(9, 0), ["… 9 more lines"]);
    }
}
