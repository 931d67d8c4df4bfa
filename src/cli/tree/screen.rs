//! A terminal that shows one table again and again; anything else gets one table after the other.

use console::Term;

use super::rows::Live;
use crate::cli::{Failure, output};

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
    pub(super) fn show(&mut self, live: &Live) -> Result<(), Failure> {
        let mut table = output::table(&live.header);
        table.add_rows(&live.rows);
        let Some(term) = &self.term else {
            return output::line(format!("{}\n{table}", live.title));
        };
        let height = usize::from(term.size().0).saturating_sub(1).max(3);
        let mut lines: Vec<String> = vec![live.title.clone()];
        lines.extend(table.to_string().lines().map(str::to_owned));
        if lines.len() > height {
            let hidden = lines.len() - height + 1;
            lines.truncate(height - 1);
            lines.push(format!("… {hidden} more lines"));
        }
        // Line by line over the old ones, so that nothing flickers.
        let text: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
        output::bytes(format!("\x1b[H{text}\x1b[J").as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(term) = &self.term {
            let _ = term.show_cursor();
        }
    }
}
