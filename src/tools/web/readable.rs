//! The text of a page, as a person would read it.
//!
//! A page is read once, from the front, tag by tag; no tree is built. What a reader does not see is left out: scripts,
//! styles, forms, what is hidden, and, where the page says which part of it is the article, everything around that.
//! Whatever bytes come, this ends, in time that grows with their number alone.

/// How the text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// With headings, lists and links in Markdown.
    Markdown,
    /// Words only.
    Text,
}

/// A page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// What it calls itself.
    pub title: Option<String>,
    /// What it says.
    pub text: String,
}

/// Longest title, in characters.
const TITLE_CHARS_MAX: usize = 256;
/// Longest address of a link that is shown, in bytes; of a longer one only the words are.
const LINK_BYTES_MAX: usize = 512;
/// Elements that have no end.
const VOID: &[&str] =
    &["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"];
/// Elements whose content is no markup.
const RAW: &[&str] = &["script", "style", "title", "textarea", "xmp", "noembed", "noframes", "iframe"];
/// Elements that nobody reads.
const UNREAD: &[&str] = &[
    "script", "style", "noscript", "template", "svg", "math", "canvas", "iframe", "object", "video", "audio", "button",
    "select", "textarea", "input", "dialog", "nav", "footer", "aside", "xmp", "noembed", "noframes",
];
/// Elements that begin a line of their own.
const BLOCKS: &[&str] = &[
    "p",
    "div",
    "section",
    "article",
    "main",
    "header",
    "ul",
    "ol",
    "dl",
    "table",
    "blockquote",
    "figure",
    "figcaption",
    "details",
    "summary",
    "address",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "hr",
    "body",
];

/// Reads a page.
pub fn read(html: &str, form: Form) -> Page {
    let whole = Walk::new(form).go(html, None);
    // The largest part that the page itself calls its content, when that is most of what there is to read.
    let parts = ["main", "article"].map(|name| Walk::new(form).go(html, Some(name)));
    let best =
        parts.into_iter().max_by_key(|part| part.text.len()).filter(|part| part.text.len() * 3 > whole.text.len());
    let text = best.map_or(whole.text, |part| part.text);
    Page { title: whole.title, text }
}

/// Reading on the way through a page.
struct Walk {
    form: Form,
    out: String,
    title: Option<String>,
    /// Elements that are open and not read, and the one that all of it ends with: its name, and how many of that name
    /// are open inside.
    unread: Option<(String, usize)>,
    /// How many of the wanted element are open; `None`: everything is wanted.
    inside: Option<usize>,
    /// How many `pre` are open.
    pre: usize,
    /// Lists that are open: the next number, or 0 for points.
    lists: Vec<u32>,
    /// Where a link leads, and where its words begin in `out`.
    link: Option<(String, usize)>,
    /// Whether a space is due before the next word.
    space: bool,
}

/// Lists inside lists that are told apart by their indentation; deeper ones look the same.
const LISTS_MAX: usize = 8;

impl Walk {
    fn new(form: Form) -> Walk {
        Walk {
            form,
            out: String::new(),
            title: None,
            unread: None,
            inside: None,
            pre: 0,
            lists: Vec::new(),
            link: None,
            space: false,
        }
    }

    fn go(mut self, html: &str, only: Option<&str>) -> Page {
        self.inside = only.map(|_| 0);
        let mut rest = html;
        while !rest.is_empty() {
            let Some(at) = rest.find('<') else {
                self.words(rest);
                break;
            };
            self.words(&rest[..at]);
            rest = &rest[at..];
            if let Some(comment) = rest.strip_prefix("<!--") {
                rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            } else if rest.starts_with("<!") || rest.starts_with("<?") {
                rest = rest.find('>').map_or("", |end| &rest[end + 1..]);
            } else if let Some((tag, after)) = Tag::read(rest) {
                rest = after;
                if !tag.is_end && RAW.contains(&tag.name.as_str()) {
                    let (content, after) = raw(rest, &tag.name);
                    if tag.name == "title" && self.title.is_none() && self.unread.is_none() {
                        self.title = title(content);
                    }
                    rest = after;
                } else {
                    self.tag(&tag, only);
                }
            } else {
                self.words("<");
                rest = &rest[1..];
            }
        }
        self.close_link();
        Page { title: self.title, text: tidy(&self.out) }
    }

    fn is_read(&self) -> bool {
        self.unread.is_none() && self.inside != Some(0)
    }

    fn words(&mut self, text: &str) {
        if !self.is_read() {
            return;
        }
        let text = entities(text);
        if self.pre > 0 {
            self.out.push_str(&text);
            return;
        }
        for (idx, word) in text.split_ascii_whitespace().enumerate() {
            if (idx > 0 || self.space || text.starts_with(|c: char| c.is_ascii_whitespace())) && !self.at_line_start() {
                self.out.push(' ');
            }
            self.space = false;
            self.out.push_str(word);
        }
        self.space |= text.ends_with(|c: char| c.is_ascii_whitespace());
    }

    fn at_line_start(&self) -> bool {
        self.out.is_empty() || self.out.ends_with(['\n', ' '])
    }

    /// Begins a line; `n` line ends at least before it.
    fn line(&mut self, n: usize) {
        self.space = false;
        if self.out.is_empty() {
            return;
        }
        let ends = self.out.bytes().rev().take_while(|byte| *byte == b'\n').count();
        for _ in ends..n {
            self.out.push('\n');
        }
    }

    fn tag(&mut self, tag: &Tag, only: Option<&str>) {
        let name = tag.name.as_str();
        let is_void = VOID.contains(&name) || tag.is_closed;
        if let Some((until, depth)) = &mut self.unread {
            if name == until && !is_void {
                match (tag.is_end, *depth) {
                    (true, 0) => self.unread = None,
                    (true, _) => *depth -= 1,
                    (false, _) => *depth += 1,
                }
            }
            return;
        }
        if Some(name) == only {
            let inside = self.inside.get_or_insert(0);
            *inside = if tag.is_end { inside.saturating_sub(1) } else { *inside + 1 };
        }
        if !tag.is_end && !is_void && (UNREAD.contains(&name) || tag.is_hidden()) {
            self.close_link();
            self.unread = Some((name.to_owned(), 0));
            return;
        }
        if self.is_read() {
            self.mark(tag);
        }
    }

    /// What a tag that is read does to the text.
    fn mark(&mut self, tag: &Tag) {
        let is_markdown = self.form == Form::Markdown;
        let name = tag.name.as_str();
        if BLOCKS.contains(&name) {
            self.close_link();
            self.line(if self.lists.is_empty() { 2 } else { 1 });
        }
        match (name, tag.is_end) {
            ("br", _) => self.line(1),
            ("hr", false) if is_markdown => {
                self.out.push_str("---");
                self.line(2);
            }
            ("pre", false) => {
                self.pre += 1;
                if is_markdown {
                    self.out.push_str("```\n");
                }
            }
            ("pre", true) if self.pre > 0 => {
                self.pre -= 1;
                if is_markdown {
                    while self.out.ends_with('\n') {
                        self.out.pop();
                    }
                    self.out.push_str("\n```");
                }
                self.line(2);
            }
            ("code", _) if is_markdown && self.pre == 0 => self.out.push('`'),
            ("h1" | "h2" | "h3" | "h4" | "h5" | "h6", false) if is_markdown => {
                let level = usize::from(name.as_bytes()[1] - b'0');
                self.out.push_str(&"#".repeat(level));
                self.out.push(' ');
            }
            ("blockquote", false) if is_markdown => self.out.push_str("> "),
            ("ul", false) if self.lists.len() < LISTS_MAX => self.lists.push(0),
            ("ol", false) if self.lists.len() < LISTS_MAX => self.lists.push(1),
            ("ul" | "ol", true) => {
                self.lists.pop();
                self.line(if self.lists.is_empty() { 2 } else { 1 });
            }
            ("li", false) => {
                self.close_link();
                self.line(1);
                self.out.push_str(&"  ".repeat(self.lists.len().saturating_sub(1)));
                match self.lists.last_mut() {
                    Some(number) if *number > 0 => {
                        self.out.push_str(&format!("{number}. "));
                        *number += 1;
                    }
                    _ => self.out.push_str("- "),
                }
            }
            ("tr" | "dt" | "dd", false) => self.line(1),
            ("td" | "th", false) if !self.at_line_start() => self.out.push_str(" | "),
            ("a", false) if is_markdown => {
                self.close_link();
                let href = tag.attribute("href").map(|href| href.trim().to_owned()).filter(|href| {
                    let is_web = href.starts_with("http://") || href.starts_with("https://") || href.starts_with('/');
                    is_web && href.len() <= LINK_BYTES_MAX && !href.contains(|c: char| c.is_whitespace() || c == ')')
                });
                if let Some(href) = href {
                    if self.space && !self.at_line_start() {
                        self.out.push(' ');
                    }
                    self.space = false;
                    self.link = Some((href, self.out.len()));
                }
            }
            ("a", true) => self.close_link(),
            ("img", false) => {
                if let Some(alt) = tag.attribute("alt").filter(|alt| !alt.trim().is_empty()) {
                    self.words(&format!(" [{}] ", alt.trim()));
                }
            }
            _ => {}
        }
    }

    /// Writes where the words since the beginning of a link lead.
    fn close_link(&mut self) {
        let Some((href, from)) = self.link.take() else { return };
        let words = self.out[from..].trim().to_owned();
        if words.is_empty() || words.contains('\n') {
            return;
        }
        self.out.truncate(from);
        self.out.push_str(&format!("[{words}]({href})"));
    }
}

/// A tag: its name in lower case, and what it says of itself.
struct Tag {
    name: String,
    is_end: bool,
    is_closed: bool,
    attributes: Vec<(String, String)>,
}

/// Attributes of a tag that are read; more are skipped.
const ATTRIBUTES_MAX: usize = 64;

impl Tag {
    /// Reads a tag at the beginning of `text`, which begins with `<`; gives what follows it.
    fn read(text: &str) -> Option<(Tag, &str)> {
        let mut rest = &text[1..];
        let is_end = rest.starts_with('/');
        if is_end {
            rest = &rest[1..];
        }
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let end = rest.find(|c: char| c.is_ascii_whitespace() || c == '>' || c == '/').unwrap_or(rest.len());
        let mut tag = Tag { name: rest[..end].to_ascii_lowercase(), is_end, is_closed: false, attributes: Vec::new() };
        rest = &rest[end..];
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
            if rest.is_empty() {
                return Some((tag, rest));
            }
            if let Some(after) = rest.strip_prefix('>') {
                tag.is_closed = text[..text.len() - rest.len()].ends_with('/') && !is_end;
                return Some((tag, after));
            }
            // A name has one character at least, whichever: else this would go nowhere.
            let first = rest.chars().next().map_or(1, char::len_utf8);
            let ends = |c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/');
            let end = rest[first..].find(ends).map_or(rest.len(), |end| end + first);
            let name = rest[..end].to_ascii_lowercase();
            rest = rest[end..].trim_start();
            let mut value = "";
            if let Some(after) = rest.strip_prefix('=') {
                let after = after.trim_start();
                (value, rest) = match after.chars().next() {
                    Some(quote @ ('"' | '\'')) => match after[1..].find(quote) {
                        Some(end) => (&after[1..=end], &after[end + 2..]),
                        None => ("", ""),
                    },
                    _ => {
                        let end = after.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(after.len());
                        (&after[..end], &after[end..])
                    }
                };
            }
            if tag.attributes.len() < ATTRIBUTES_MAX {
                tag.attributes.push((name, entities(value)));
            }
        }
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Whether nobody is shown it. Orders are hidden there for whoever reads without eyes.
    fn is_hidden(&self) -> bool {
        let style: String = self.attribute("style").unwrap_or_default().to_ascii_lowercase();
        let style: String = style.chars().filter(|c| !c.is_whitespace()).collect();
        let hides = |declaration: &str| {
            matches!(declaration, "display:none" | "visibility:hidden" | "opacity:0" | "font-size:0" | "font-size:0px")
                || declaration.starts_with("text-indent:-9")
                || matches!(declaration, "color:transparent" | "height:0" | "width:0" | "height:0px" | "width:0px")
        };
        self.attribute("hidden").is_some()
            || self.attribute("aria-hidden").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || style.split(';').any(|declaration| hides(declaration.trim_end_matches("!important")))
            || self.attribute("class").is_some_and(|class| {
                class
                    .split_whitespace()
                    .any(|class| matches!(class, "sr-only" | "visually-hidden" | "d-none" | "hidden"))
            })
    }
}

/// The content of an element that holds no markup, and what follows its end.
fn raw<'t>(text: &'t str, name: &str) -> (&'t str, &'t str) {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(at) = text[from..].find("</").map(|at| at + from) {
        let end = at + 2 + name.len();
        if bytes.len() >= end && bytes[at + 2..end].eq_ignore_ascii_case(name.as_bytes()) {
            let after = text[end..].find('>').map_or("", |close| &text[end + close + 1..]);
            return (&text[..at], after);
        }
        from = at + 2;
    }
    (text, "")
}

fn title(text: &str) -> Option<String> {
    let text = entities(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let title: String = words.join(" ").chars().take(TITLE_CHARS_MAX).collect();
    (!title.is_empty()).then_some(title)
}

/// Longest name of a character, in bytes.
const ENTITY_BYTES_MAX: usize = 12;
const ENTITIES: &[(&str, char)] = &[
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", ' '),
    ("copy", '©'),
    ("reg", '®'),
    ("trade", '™'),
    ("hellip", '…'),
    ("mdash", '—'),
    ("ndash", '–'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("bull", '•'),
    ("middot", '·'),
    ("laquo", '«'),
    ("raquo", '»'),
    ("euro", '€'),
    ("pound", '£'),
    ("yen", '¥'),
    ("cent", '¢'),
    ("sect", '§'),
    ("deg", '°'),
    ("plusmn", '±'),
    ("times", '×'),
    ("frac12", '½'),
    ("auml", 'ä'),
    ("ouml", 'ö'),
    ("uuml", 'ü'),
    ("Auml", 'Ä'),
    ("Ouml", 'Ö'),
    ("Uuml", 'Ü'),
    ("szlig", 'ß'),
    ("eacute", 'é'),
    ("egrave", 'è'),
    ("agrave", 'à'),
    ("ccedil", 'ç'),
    ("ntilde", 'ñ'),
    ("rarr", '→'),
    ("larr", '←'),
];

/// Characters that are written by name or number, as themselves.
fn entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let head = &rest.as_bytes()[1..rest.len().min(ENTITY_BYTES_MAX + 2)];
        let named = head.iter().position(|byte| *byte == b';').and_then(|end| {
            let name = std::str::from_utf8(&head[..end]).ok()?;
            let c = match name.strip_prefix('#') {
                Some(number) => {
                    let code = match number.strip_prefix(['x', 'X']) {
                        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                        None => number.parse().ok()?,
                    };
                    char::from_u32(code).filter(|c| *c != '\0')?
                }
                None => ENTITIES.iter().find(|(own, _)| *own == name)?.1,
            };
            Some((c, end + 2))
        });
        let (c, n_bytes) = named.unwrap_or(('&', 1));
        out.push(c);
        rest = &rest[n_bytes..];
    }
    out.push_str(rest);
    out
}

/// Without spaces at line ends, without more than one empty line at once, without any around.
fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut n_empty = 0;
    for line in text.lines() {
        let line = line.trim_end();
        // A point or a heading with nothing in it.
        if line.is_empty() || matches!(line.trim_start(), "-" | ">" | "#" | "##" | "###" | "####" | "#####" | "######")
        {
            n_empty += 1;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if n_empty > 0 { "\n\n" } else { "\n" });
        }
        n_empty = 0;
        out.push_str(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn markdown(html: &str) -> String {
        read(html, Form::Markdown).text
    }

    #[test]
    fn a_page_reads_like_a_page() {
        let html = r#"<!doctype html><html><head><title> A &amp; B </title><style>p { color: red }</style>
            <script>if (a < b) { document.write("<p>no</p>") }</script></head><body>
            <nav><a href="/">Home</a></nav>
            <h1>The <em>news</em></h1><p>One   two<br>three, <a href="https://x.example/y">a link</a>.</p>
            <ul><li>first</li><li>second<ol><li>inner</li><li>more</li></ol></li></ul>
            <pre>  keep
    this</pre><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
            <img src=x alt="a cat"><footer>imprint</footer></body></html>"#;
        let page = read(html, Form::Markdown);
        assert_eq!(page.title.as_deref(), Some("A & B"));
        let wanted = "# The news\n\nOne two\nthree, [a link](https://x.example/y).\n\n- first\n- second\n  1. inner\n  2. more\n\n```\n  keep\n    this\n```\n\na | b\n1 | 2\n\n[a cat]";
        assert_eq!(page.text, wanted, "{}", page.text);
        let text = read(html, Form::Text).text;
        assert!(text.contains("three, a link.") && !text.contains('#') && !text.contains("```"), "{text}");
    }

    #[test]
    fn what_the_page_calls_its_article_is_what_is_read() {
        let article = "words ".repeat(50);
        let html = format!("<body><div>menu menu</div><main><h2>T</h2><p>{article}</p></main><div>more</div></body>");
        assert!(markdown(&html).starts_with("## T\n\nwords"), "{}", markdown(&html));
        assert!(!markdown(&html).contains("menu"));
        let small = format!("<div>{article}</div><article>ad</article>");
        assert!(markdown(&small).contains("words"), "a small part is not the page");
    }

    #[test]
    fn what_nobody_sees_is_not_read() {
        for hidden in [
            "<div hidden>orders</div>",
            "<div style='display: none'>orders</div>",
            "<span style=\"color:red; VISIBILITY : hidden !important\">orders</span>",
            "<p aria-hidden=true>orders</p>",
            "<div style='font-size:0'><div>orders</div></div>",
            "<p class='x sr-only'>orders</p>",
            "<!-- orders -->",
            "<template><p>orders</p></template>",
            "<noscript>orders</noscript>",
            "<textarea>orders</textarea>",
            "<svg><text>orders</text></svg>",
            "<script>orders</script >",
            "<script>'</scrip' + 'orders'</script>",
        ] {
            assert_eq!(markdown(&format!("<p>seen</p>{hidden}<p>too</p>")), "seen\n\ntoo", "{hidden}");
        }
    }

    #[test]
    fn characters_by_name_are_themselves() {
        assert_eq!(
            markdown("a &lt;b&gt; &#65;&#x42; &nosuch; &amp;lt; & &#0; &#xD800;"),
            "a <b> AB &nosuch; &lt; & &#0; &#xD800;"
        );
    }

    #[test]
    fn a_page_without_end_is_read_to_its_end() {
        for html in
            ["<", "<a", "<a href='", "<!--", "<p", "</", "<script>", "<div style=\"", "a < b", "<p>x<div hidden>"]
        {
            markdown(html);
        }
        assert_eq!(markdown("a < b"), "a < b");
        let deep = "<div>".repeat(200_000);
        assert_eq!(markdown(&deep), "");
        let lists = format!("{}x", "<ul><li>".repeat(50_000));
        assert!(markdown(&lists).len() < 2_000_000);
    }

    proptest! {
        #[test]
        fn no_bytes_stop_it(html in "[<>/a-z=\"'& ;#!\\-é\\n]{0,400}") {
            let page = read(&html, Form::Markdown);
            prop_assert!(page.text.len() <= html.len() * 8 + 64);
        }
    }
}
