//! HTML that cannot be broken by what is put into it.

/// A piece of a page. Literals go in as they are; everything else is escaped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Html(String);

impl Html {
    /// Markup of the program itself; `'static`, so that no text of a run gets here.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text, escaped.
    pub fn text(&mut self, text: &str) -> &mut Self {
        text.chars().for_each(|c| self.push_escaped(c));
        self
    }

    /// ` name="value"`, escaped.
    pub fn attribute(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.raw(" ").raw(name).raw("=\"").text(value).raw("\"")
    }

    /// `<tag>text</tag>`, escaped; `open` and `close` are the tags.
    pub fn element(&mut self, open: &'static str, text: &str, close: &'static str) -> &mut Self {
        self.raw(open).text(text).raw(close)
    }

    /// Another piece.
    pub fn push(&mut self, other: &Html) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    /// The markup.
    pub fn into_string(self) -> String {
        self.0
    }

    /// A page from a template in which `{{name}}` stands for a piece. Braces inside the pieces mean nothing.
    ///
    /// # Panics
    /// If the template names a piece that is not given; both belong to the program.
    pub fn fill(template: &'static str, pieces: &[(&str, Html)]) -> String {
        let mut parts = template.split("{{");
        let mut page = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let (name, rest) = part.split_once("}}").expect("the template closes its braces");
            let (_, piece) = pieces.iter().find(|(n, _)| *n == name).expect("every piece of the template is given");
            page.push_str(&piece.0);
            page.push_str(rest);
        }
        page
    }

    fn push_escaped(&mut self, c: char) {
        match c {
            '&' => self.0.push_str("&amp;"),
            '<' => self.0.push_str("&lt;"),
            '>' => self.0.push_str("&gt;"),
            '"' => self.0.push_str("&quot;"),
            '\'' => self.0.push_str("&#39;"),
            '\n' | '\t' => self.0.push(c),
            // Control characters are written out: browsers forbid some of them and hide the rest.
            _ if c.is_control() => self.0.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ => self.0.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_control_characters_are_written_out() {
        let mut html = Html::default();
        html.raw("<p").attribute("title", "a\" onclick='x").raw(">").text("<script>&\0\u{1b}\n\u{85}—é").raw("</p>");
        let expected = "<p title=\"a&quot; onclick=&#39;x\">&lt;script&gt;&amp;\\x00\\x1b\n\\x85—é</p>";
        assert_eq!(html.0, expected);
    }

    #[test]
    fn braces_in_a_piece_are_no_names() {
        let (mut a, mut b) = (Html::default(), Html::default());
        a.text("{{b}}");
        b.text("two");
        assert_eq!(Html::fill("<i>{{a}}</i> {{b}}.", &[("a", a), ("b", b)]), "<i>{{b}}</i> two.");
    }
}
