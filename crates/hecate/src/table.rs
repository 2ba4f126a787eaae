//! Plain tables for the terminal, and as Markdown.

/// Columns of text; numbers are right-aligned by the caller's choice.
pub struct Table {
    head: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a leading `>` right-aligns one.
    pub fn new(head: &[&str]) -> Self {
        let right = head.iter().map(|h| h.starts_with('>')).collect();
        Self { head: head.iter().map(|h| h.trim_start_matches('>').to_string()).collect(), right, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Aligned columns, two spaces apart.
    pub fn plain(&self) -> String {
        let width = |c: usize| self.lines().map(|r| r[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut out = String::new();
        for row in self.lines() {
            let cell = |(c, text): (usize, &String)| {
                let pad = " ".repeat(widths[c] - text.chars().count());
                if self.right[c] { format!("{pad}{text}") } else { format!("{text}{pad}") }
            };
            let line = row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ");
            out += line.trim_end();
            out.push('\n');
        }
        out
    }

    /// A Markdown table.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> = self.right.iter().map(|&r| if r { "---:" } else { "---" }.to_string()).collect();
        let rows = self.rows.iter().map(|r| line(r)).collect::<String>();
        line(&self.head) + &line(&rule) + &rows
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.head).chain(&self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut t = Table::new(&["name", ">n"]);
        t.row(["a".into(), "1".into()]);
        t.row(["long".into(), "100".into()]);
        assert_eq!(t.plain(), "name    n\na       1\nlong  100\n");
        assert_eq!(t.markdown(), "| name | n |\n| --- | ---: |\n| a | 1 |\n| long | 100 |\n");
        t.row(["|k|".into(), "2".into()]);
        assert!(t.markdown().ends_with("| \\|k\\| | 2 |\n"));
    }
}
