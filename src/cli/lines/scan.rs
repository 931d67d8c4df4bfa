//! Cuts text into what can be sent: an entry at the end of its line, or each entry of a page, which is one line too, as
//! soon as it is complete. Knows no more of JSON than strings and brackets; what it cuts out is parsed by others.

/// The longest entry: a payload at its limit, every byte escaped, and some more.
const ENTRY_BYTES_MAX: usize = 32 << 20;
/// Some editors begin a file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What the bytes up to here complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A line, which may be blank.
    Line,
    /// An entry of a page.
    Entry,
    /// The line of a page, without its entries.
    Page,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonPlace {
    /// In a line that may turn out to be a page.
    Line,
    /// Between the entries of a page, at its first, after one, or after a comma.
    First,
    After,
    Comma,
    /// In an entry of a page.
    Entry,
    /// Past the entries of a page.
    Rest,
}

/// See the module.
pub(super) struct Scan {
    place: JsonPlace,
    /// What is being cut out; whole after a cut.
    text: Vec<u8>,
    nesting: Nesting,
    /// What stands before the entries of a page.
    head: Vec<u8>,
    /// Characters of the line so far, and of those the ones before the text.
    column: u64,
    before: u64,
    is_cut: bool,
}

impl Scan {
    pub(super) fn new() -> Self {
        Scan {
            place: JsonPlace::Line,
            text: Vec::new(),
            nesting: Nesting::default(),
            head: Vec::new(),
            column: 0,
            before: 0,
            is_cut: false,
        }
    }

    /// What was cut out last.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The column of the byte that was taken last, in characters and from 1 on.
    pub(super) fn column(&self) -> u64 {
        self.column.max(1)
    }

    /// The column of the text's n-th byte.
    pub(super) fn column_of(&self, byte: usize) -> u64 {
        let up_to = &self.text[..byte.min(self.text.len())];
        self.before + (up_to.iter().filter(|byte| begins_character(**byte)).count() as u64).max(1)
    }

    /// Takes bytes up to the next cut. Gives how many it took, and the cut if there is one.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Cut>), String> {
        for (at, byte) in bytes.iter().enumerate() {
            if let Some(cut) = self.push(*byte)? {
                return Ok((at + 1, Some(cut)));
            }
        }
        Ok((bytes.len(), None))
    }

    /// The input is over: what a last line without an end comes to.
    pub(super) fn finish(&mut self) -> Result<Option<Cut>, String> {
        self.go_on();
        match self.place {
            JsonPlace::Line if self.text.is_empty() => Ok(None),
            _ => self.push(b'\n'),
        }
    }

    /// Lets go of what was cut out.
    fn go_on(&mut self) {
        if std::mem::take(&mut self.is_cut) {
            self.text.clear();
            self.nesting = Nesting::default();
            if self.place == JsonPlace::Line {
                (self.column, self.before) = (0, 0);
            }
        }
    }

    fn cut(&mut self, cut: Cut, next: JsonPlace) -> Option<Cut> {
        self.is_cut = true;
        self.place = next;
        Some(cut)
    }

    fn push(&mut self, byte: u8) -> Result<Option<Cut>, String> {
        self.go_on();
        if byte == b'\n' {
            return match self.place {
                JsonPlace::Line => Ok(self.cut(Cut::Line, JsonPlace::Line)),
                JsonPlace::Rest => Ok(self.cut(Cut::Page, JsonPlace::Line)),
                _ => Err("the line ends within its entries".to_owned()),
            };
        }
        self.column += u64::from(begins_character(byte));
        match (self.place, byte) {
            (JsonPlace::First | JsonPlace::After | JsonPlace::Comma, b' ' | b'\t' | b'\r') => Ok(None),
            (JsonPlace::First | JsonPlace::Comma, b'{') => {
                self.place = JsonPlace::Entry;
                self.before = self.column - 1;
                self.take(byte)
            }
            (JsonPlace::After, b',') => {
                self.place = JsonPlace::Comma;
                Ok(None)
            }
            (JsonPlace::First | JsonPlace::After, b']') => {
                self.place = JsonPlace::Rest;
                self.before = 0;
                self.text = std::mem::take(&mut self.head);
                self.take(byte)
            }
            (JsonPlace::First | JsonPlace::After | JsonPlace::Comma, _) => {
                Err("expected an entry, or the comma or the end after one".to_owned())
            }
            (JsonPlace::Line | JsonPlace::Entry | JsonPlace::Rest, _) => self.take(byte),
        }
    }

    fn take(&mut self, byte: u8) -> Result<Option<Cut>, String> {
        if self.text.len() >= ENTRY_BYTES_MAX {
            return Err(format!("the entry is longer than {ENTRY_BYTES_MAX} bytes: split it"));
        }
        self.text.push(byte);
        match self.place {
            JsonPlace::Line if self.text == BYTE_ORDER_MARK => {
                self.text.clear();
                self.column = 0;
            }
            JsonPlace::Line => {
                self.nesting.push(&self.text, byte);
                if self.nesting.begins_entries {
                    self.place = JsonPlace::First;
                    self.head = std::mem::take(&mut self.text);
                    self.nesting = Nesting::default();
                }
            }
            JsonPlace::Entry => {
                self.nesting.push(&self.text, byte);
                if self.nesting.depth == 0 {
                    return Ok(self.cut(Cut::Entry, JsonPlace::After));
                }
            }
            _ => {}
        }
        Ok(None)
    }
}

/// Where in an object a text has come to.
#[derive(Default)]
struct Nesting {
    depth: u32,
    in_string: bool,
    is_escaped: bool,
    /// Where the last string stands, its quotes included.
    string: (usize, usize),
    /// Where the name stands whose value in the outermost object this is, its quotes included.
    name: Option<(usize, usize)>,
    /// The value is that of `entries`, an array, and this is its bracket.
    begins_entries: bool,
}

impl Nesting {
    /// The text ends with the byte.
    fn push(&mut self, text: &[u8], byte: u8) {
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => {
                    self.in_string = false;
                    self.string.1 = text.len();
                }
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.string = (text.len() - 1, text.len());
            }
            b':' if self.depth == 1 => self.name = Some(self.string),
            b',' if self.depth == 1 => self.name = None,
            b'{' | b'[' => {
                let is_entries = self.name.is_some_and(|(start, end)| &text[start..end] == b"\"entries\"");
                self.begins_entries = byte == b'[' && self.depth == 1 && is_entries;
                self.depth += 1;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// The name in the outermost object of whose value this text is the beginning.
pub(super) fn name_at_end(text: &[u8]) -> Option<&str> {
    let mut nesting = Nesting::default();
    for (at, byte) in text.iter().enumerate() {
        nesting.push(&text[..=at], *byte);
    }
    let (start, end) = nesting.name?;
    std::str::from_utf8(text.get(start + 1..end.checked_sub(1)?)?).ok()
}

/// Of UTF-8: every other byte goes on with a character.
fn begins_character(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is cut out, fed in pieces of this size.
    fn cuts(text: &str, size: usize) -> Result<Vec<(Cut, String)>, String> {
        let mut scan = Scan::new();
        let mut cuts = Vec::new();
        for mut piece in text.as_bytes().chunks(size) {
            while !piece.is_empty() {
                let (taken, cut) = scan.feed(piece)?;
                piece = &piece[taken..];
                cuts.extend(cut.map(|cut| (cut, String::from_utf8(scan.text().to_vec()).unwrap())));
            }
        }
        if let Some(cut) = scan.finish()? {
            cuts.push((cut, String::from_utf8(scan.text().to_vec()).unwrap()));
        }
        Ok(cuts)
    }

    #[test]
    fn lines_and_the_entries_of_pages_are_cut_out() {
        let text = "\u{feff}{\"a\":1}\n\n{\"c\":\"x]}\\\"\",\"entries\":[ {\"p\":\"[{\"},{\"m\":{}} ],\"n\":2}\n{\"entries\":[]}";
        let wanted = [
            (Cut::Line, "{\"a\":1}"),
            (Cut::Line, ""),
            (Cut::Entry, "{\"p\":\"[{\"}"),
            (Cut::Entry, "{\"m\":{}}"),
            (Cut::Page, "{\"c\":\"x]}\\\"\",\"entries\":[],\"n\":2}"),
            (Cut::Page, "{\"entries\":[]}"),
        ]
        .map(|(cut, text)| (cut, text.to_owned()));
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(cuts(text, size).unwrap(), wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn entries_that_are_none_end_the_page() {
        for bad in ["[1]", "[{},]", "[{}{}]", "[,{}]", "[{}\n", "[{\n}]", "[", "[{}"] {
            assert!(cuts(&format!("{{\"entries\":{bad}"), 4).is_err(), "{bad}");
        }
        // Not the entries of a page: a line like any other, whatever it says.
        for line in [
            "{\"x\":{\"entries\":[{}]}}",
            "{\"entries\":{\"a\":[{}]}}",
            "[\"entries\",[{}]]",
            "{\"a\":\"entries\",[{}]",
        ] {
            assert_eq!(cuts(line, 5).unwrap(), [(Cut::Line, line.to_owned())]);
        }
    }
}
