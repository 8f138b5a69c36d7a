//! Regular expressions over hostile text: linear, bounded, and rarely run.
//!
//! Every expression has a gate: literals of which at least one stands in any text it matches. One pass of an
//! automaton over the text finds the literals of the whole set; only expressions whose gate opened are run. An
//! ordinary message therefore costs one pass, however many expressions there are. An expression without such a
//! literal (`\d{16}`) always runs.
//!
//! Automaton and built-in expressions are compiled when first needed, so that a start pays for neither. Expressions
//! that an operator wrote are compiled at once, because a mistake in them has to stop the start.
//!
//! Gates look at folded text ([`super::fold`]); folding keeps ASCII words whole, so a gate that stays shut on the
//! folded text would have stayed shut on the original.

use std::sync::OnceLock;

use aho_corasick::automaton::Automaton as _;
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Input, MatchKind};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind};

/// Expressions in one list at most; a longer list is refused at start.
pub(super) const PATTERNS_MAX: usize = 256;
/// Longest source text of one expression, in bytes.
pub(super) const PATTERN_BYTES_MAX: usize = 4 * 1024;
/// Largest compiled program of one expression, in bytes; a larger one is refused at start.
pub(super) const PATTERN_COMPILED_BYTES_MAX: usize = 256 * 1024;
/// Most memory that one expression's lazily built automaton may take, in bytes, for each thread that runs it. At the
/// limit it starts over, which costs time and no correctness.
pub(super) const PATTERN_CACHE_BYTES_MAX: usize = 64 * 1024;
/// Shortest literal worth a gate, in bytes.
const GATE_BYTES_MIN: usize = 2;
/// Most alternative literals for one gate; an expression that needs more always runs.
const GATE_LITERALS_MAX: usize = 16;

/// Whether letter case counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Exact,
    Ignored,
}

/// Where an expression comes from, and so how and when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Ours: known to compile (a test holds it), compiled when first needed. ASCII rules for classes, word boundaries
    /// and case, which folded text makes enough, and which are a tenth of the size.
    BuiltIn,
    /// An operator's: compiled at once, so that a mistake is found at start. Unicode rules, as they would expect.
    Configured,
}

/// One text to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) text: &'a str,
    /// A match counts only if it ends after this offset: what stands before was judged with an earlier message.
    pub(super) counts_after: usize,
    /// False when another view of the same list is the folded form of this one, so its gates serve for both.
    pub(super) gated: bool,
}

impl<'a> View<'a> {
    /// The whole of `text`.
    pub(super) fn of(text: &'a str) -> View<'a> {
        View { text, counts_after: 0, gated: true }
    }

    /// The original of a folded view.
    pub(super) fn original(text: &'a str) -> View<'a> {
        View { gated: false, ..View::of(text) }
    }
}

/// An ordered set of expressions; an index is the order in which they were pushed.
#[derive(Debug, Default)]
pub(super) struct PatternSet {
    patterns: Vec<Pattern>,
    gates: OnceLock<Gates>,
}

#[derive(Debug)]
struct Pattern {
    source: Box<str>,
    case: Case,
    origin: Origin,
    regex: OnceLock<Regex>,
}

#[derive(Debug)]
struct Gates {
    /// `None` when no expression has a gate.
    automaton: Option<NFA>,
    /// For each literal of the automaton: the expression it opens, and whether the literal is all of that expression.
    doors: Vec<(usize, bool)>,
    always: Vec<usize>,
}

/// What one pass over the gates found for one expression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Shut,
    Open,
    Matched,
}

impl PatternSet {
    /// Adds an expression and returns its index; one that is there already keeps its index.
    ///
    /// # Errors
    /// Why a configured expression is refused, in the words of the expression parser.
    pub(super) fn push(&mut self, source: &str, case: Case, origin: Origin) -> Result<usize, String> {
        debug_assert!(self.gates.get().is_none(), "patterns are pushed before the set is used");
        if let Some(known) = self.patterns.iter().position(|p| &*p.source == source && p.case == case) {
            return Ok(known);
        }
        if source.len() > PATTERN_BYTES_MAX {
            return Err(format!("{} bytes are more than {PATTERN_BYTES_MAX}", source.len()));
        }
        let pattern = Pattern { source: source.into(), case, origin, regex: OnceLock::new() };
        if origin == Origin::Configured {
            // Stricter than the byte-wise compiler: refuses what could match half a character.
            regex_syntax::parse(source).map_err(|error| parser_words(&error.to_string()))?;
            let regex = pattern.compile().map_err(|error| parser_words(&error.to_string()))?;
            pattern.regex.set(regex).expect("the cell was made empty two lines above");
        }
        self.patterns.push(pattern);
        Ok(self.patterns.len() - 1)
    }

    /// The source text of expression `index`.
    pub(super) fn source(&self, index: usize) -> &str {
        &self.patterns[index].source
    }

    /// Indexes of the expressions that match any of `views`, ascending.
    pub(super) fn matches(&self, views: &[View<'_>]) -> Vec<usize> {
        let gates = self.open_gates(views);
        let mut found = Vec::new();
        for (index, gate) in gates.iter().enumerate() {
            let hit = match gate {
                Gate::Shut => false,
                Gate::Matched => true,
                Gate::Open => views.iter().any(|view| self.patterns[index].ends_after(view)),
            };
            if hit {
                found.push(index);
            }
        }
        found
    }

    /// Byte ranges in `text` that any expression matches; see [`PatternSet::spans_of`].
    pub(super) fn spans(&self, text: &str) -> Vec<(usize, usize)> {
        let gates = self.open_gates(&[View::of(text)]);
        let open = gates.iter().enumerate().filter(|(_, gate)| **gate != Gate::Shut);
        open.flat_map(|(index, _)| self.spans_of(index, text)).collect()
    }

    /// Byte ranges in `text` that expression `index` matches: its first group where it has one, else the whole match.
    /// Not empty, at character boundaries, ascending.
    pub(super) fn spans_of<'s>(&'s self, index: usize, text: &'s str) -> impl Iterator<Item = (usize, usize)> + 's {
        self.patterns[index].regex().captures_iter(text.as_bytes()).filter_map(|captures| {
            let span = captures.get(1).or_else(|| captures.get(0)).expect("group 0 is the match itself");
            let range = (text.floor_char_boundary(span.start()), text.ceil_char_boundary(span.end()));
            (!span.is_empty()).then_some(range)
        })
    }

    /// Whether expression `index` is one of ours.
    pub(super) fn is_built_in(&self, index: usize) -> bool {
        self.patterns[index].origin == Origin::BuiltIn
    }

    /// Compiles every expression; panics where one does not compile.
    #[cfg(test)]
    pub(super) fn compile_all(&self) {
        for pattern in &self.patterns {
            let _ = pattern.regex();
        }
    }

    /// Expressions that run on every text.
    #[cfg(test)]
    pub(super) fn ungated(&self) -> Vec<&str> {
        self.gates().always.iter().map(|&index| self.source(index)).collect()
    }

    fn open_gates(&self, views: &[View<'_>]) -> Vec<Gate> {
        let gates = self.gates();
        let mut state = vec![Gate::Shut; self.patterns.len()];
        for &index in &gates.always {
            state[index] = Gate::Open;
        }
        let Some(automaton) = &gates.automaton else { return state };
        for view in views.iter().filter(|view| view.gated) {
            let found = automaton.try_find_overlapping_iter(Input::new(view.text));
            for found in found.expect("it is of the standard kind, and searches from anywhere") {
                let (index, whole) = gates.doors[found.pattern().as_usize()];
                if whole && found.end() > view.counts_after {
                    state[index] = Gate::Matched;
                } else if state[index] == Gate::Shut {
                    state[index] = Gate::Open;
                }
            }
        }
        state
    }

    fn gates(&self) -> &Gates {
        self.gates.get_or_init(|| {
            let (mut literals, mut doors, mut always) = (Vec::new(), Vec::new(), Vec::new());
            for (index, pattern) in self.patterns.iter().enumerate() {
                match pattern.gate() {
                    Some((alternatives, whole)) => {
                        for literal in alternatives {
                            literals.push(literal);
                            doors.push((index, whole));
                        }
                    }
                    None => always.push(index),
                }
            }
            // The contiguous form is a tenth of a full table's size, and fast enough: one pass at 300 MB/s or better.
            let automaton = (!literals.is_empty()).then(|| {
                NFA::builder()
                    .ascii_case_insensitive(true)
                    .match_kind(MatchKind::Standard)
                    .build(&literals)
                    .expect("at most PATTERNS_MAX times GATE_LITERALS_MAX short literals fit")
            });
            Gates { automaton, doors, always }
        })
    }
}

impl Pattern {
    fn compile(&self) -> Result<Regex, regex::Error> {
        RegexBuilder::new(&self.source)
            .case_insensitive(self.case == Case::Ignored)
            .unicode(self.origin == Origin::Configured)
            .size_limit(PATTERN_COMPILED_BYTES_MAX)
            .dfa_size_limit(PATTERN_CACHE_BYTES_MAX)
            .build()
    }

    fn regex(&self) -> &Regex {
        self.regex.get_or_init(|| self.compile().expect("a configured pattern was compiled at start, ours are tested"))
    }

    fn ends_after(&self, view: &View<'_>) -> bool {
        if view.counts_after == 0 {
            return self.regex().is_match(view.text.as_bytes());
        }
        self.regex().find_iter(view.text.as_bytes()).any(|found| found.end() > view.counts_after)
    }

    /// Literals of which at least one stands in every match, and whether the only one is the whole expression.
    fn gate(&self) -> Option<(Vec<String>, bool)> {
        // Read without the case flag: letters then come out as literals, and the automaton ignores ASCII case anyway.
        let hir = regex_syntax::parse(&self.source).ok()?;
        if let (HirKind::Literal(literal), Case::Ignored) = (hir.kind(), self.case)
            && let Ok(text) = std::str::from_utf8(&literal.0)
            && text.is_ascii()
            && super::fold::fold(text) == text
        {
            return Some((vec![text.to_owned()], true));
        }
        required(&hir).map(|literals| (literals, false))
    }
}

/// The best set of literals of which any match of `hir` holds at least one; `None` when there is no such set.
fn required(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Literal(_) | HirKind::Class(_) => longest_pieces(letters(hir)?),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Alternation(branches) => {
            let mut all = Vec::new();
            for branch in branches {
                all.extend(required(branch)?);
            }
            (all.len() <= GATE_LITERALS_MAX).then_some(all)
        }
        HirKind::Concat(parts) => required_of_sequence(parts),
        _ => None,
    }
}

fn required_of_sequence(parts: &[Hir]) -> Option<Vec<String>> {
    let mut best = None;
    // What the neighbors so far spell, in every variant.
    let mut run = vec![String::new()];
    for part in parts {
        // A look-around is empty: letters on both sides of it are neighbors all the same.
        if matches!(part.kind(), HirKind::Look(_)) {
            continue;
        }
        match letters(part) {
            Some(variants) if run.len() * variants.len() <= GATE_LITERALS_MAX => {
                run = run.iter().flat_map(|head| variants.iter().map(move |tail| format!("{head}{tail}"))).collect();
            }
            variants => {
                best = better(best, longest_pieces(std::mem::replace(&mut run, vec![String::new()])));
                match variants {
                    Some(variants) => run = variants,
                    None => best = better(best, required(part)),
                }
            }
        }
    }
    better(best, longest_pieces(run))
}

/// The few ASCII texts that `hir` can spell, letter case aside. A character that is not ASCII becomes a line end, which
/// [`longest_pieces`] cuts at.
fn letters(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Literal(literal) => {
            Some(vec![literal.0.iter().map(|&b| if b.is_ascii() { char::from(b) } else { '\n' }).collect()])
        }
        HirKind::Class(Class::Unicode(class)) => {
            let mut variants: Vec<String> = Vec::new();
            for c in class.ranges().iter().flat_map(|range| range.start()..=range.end()).take(2 * GATE_LITERALS_MAX + 1)
            {
                // Case-insensitive `k` and `s` bring the Kelvin sign and the long s along; folding makes both ASCII.
                let plain = match c {
                    '\u{212a}' => 'k',
                    '\u{17f}' => 's',
                    other => other.to_ascii_lowercase(),
                };
                if !plain.is_ascii_alphanumeric() {
                    return None;
                }
                if !variants.iter().any(|known| known.starts_with(plain)) {
                    variants.push(plain.into());
                }
            }
            (1..=GATE_LITERALS_MAX).contains(&variants.len()).then_some(variants)
        }
        _ => None,
    }
}

/// Of each variant the longest piece without white space, if all are long enough. White space is cut at, because
/// folding may change how much of it there is.
fn longest_pieces(variants: Vec<String>) -> Option<Vec<String>> {
    let pieces: Option<Vec<String>> = variants
        .iter()
        .map(|text| {
            let pieces = text.split(|c: char| c.is_ascii_whitespace() || c.is_ascii_control());
            let longest = pieces.max_by_key(|piece| piece.len()).filter(|piece| piece.len() >= GATE_BYTES_MIN)?;
            Some(longest.to_owned())
        })
        .collect();
    pieces.map(|mut pieces| {
        pieces.sort_unstable();
        pieces.dedup();
        pieces
    })
}

/// The set whose shortest literal is longer: it opens less often.
fn better(a: Option<Vec<String>>, b: Option<Vec<String>>) -> Option<Vec<String>> {
    let shortest = |set: &Option<Vec<String>>| set.iter().flatten().map(String::len).min().unwrap_or(0);
    if shortest(&b) > shortest(&a) { b } else { a }
}

/// The last line of what the parser says, which is its message; above it stands a drawing of the expression.
fn parser_words(error: &str) -> String {
    let last = error.lines().last().unwrap_or_default().trim();
    let message = last.strip_prefix("error: ").unwrap_or(last).trim_end_matches('.');
    let mut letters = message.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_gate(source: &str, expected: Option<(&[&str], bool)>) {
        let pattern =
            Pattern { source: source.into(), case: Case::Ignored, origin: Origin::BuiltIn, regex: OnceLock::new() };
        let expected = expected.map(|(texts, whole)| (texts.iter().map(|t| (*t).to_owned()).collect(), whole));
        assert_eq!(pattern.gate(), expected, "gate of {source}");
    }

    fn set_of(sources: &[&str]) -> PatternSet {
        let mut set = PatternSet::default();
        for source in sources {
            set.push(source, Case::Ignored, Origin::Configured).unwrap();
        }
        set
    }

    #[test]
    fn a_gate_is_the_longest_word_every_match_holds() {
        check_gate(r"ignore\s+all\s+previous\s+instructions", Some((&["instructions"], false)));
        check_gate(r"\brm\s+-rf\s+/", Some((&["-rf"], false)));
        check_gate(r"\bcurl\s+[^|]*\|\s*sh\b", Some((&["curl"], false)));
        check_gate("system prompt", Some((&["system prompt"], true)));
        check_gate(r"system\s?prompt", Some((&["system"], false)));
        check_gate(r"(?:token|secret)\d+", Some((&["token", "secret"], false)));
        check_gate(r"\bgh[pou]_[a-z]{36}", Some((&["gho_", "ghp_", "ghu_"], false)));
        check_gate(r"[a-z]sk-", Some((&["sk-"], false)));
        check_gate(r"(?i)pass(?-i)word", Some((&["password"], false)));
        check_gate(r"a\bb", Some((&["ab"], false)));
        check_gate("wörter", Some((&["rter"], false)));
        check_gate(r"\d{16}", None);
        check_gate("(?:a|bcd)?", None);
        check_gate("x|yy", None);
    }

    #[test]
    fn matches_through_gate_whole_literal_and_without_gate() {
        let set = set_of(&["system prompt", r"over\s*ride", r"\d{4}-\d{4}", "absent"]);
        let found = set.matches(&[View::of("SYSTEM PROMPT, override, 1234-5678")]);
        assert_eq!(found, [0, 1, 2]);
        assert_eq!(set.matches(&[View::of("nothing here")]), Vec::<usize>::new());
    }

    #[test]
    fn a_match_counts_only_if_it_ends_in_the_new_part() {
        let set = set_of(&["system prompt", r"ignore\s+all"]);
        let text = "system prompt ignore all";
        let after = |counts_after| set.matches(&[View { counts_after, ..View::of(text) }]);
        assert_eq!(after(0), [0, 1]);
        assert_eq!(after(14), [1]);
        assert_eq!(after(23), [1]);
        assert_eq!(after(24), Vec::<usize>::new());
    }

    #[test]
    fn the_same_expression_is_kept_once() {
        let mut set = PatternSet::default();
        let first = set.push("a+", Case::Ignored, Origin::BuiltIn).unwrap();
        assert_eq!(set.push("a+", Case::Ignored, Origin::Configured).unwrap(), first);
        assert_ne!(set.push("a+", Case::Exact, Origin::BuiltIn).unwrap(), first);
    }

    #[test]
    fn refuses_what_is_broken_or_too_big() {
        let mut set = PatternSet::default();
        let mut push = |source: &str| set.push(source, Case::Ignored, Origin::Configured).unwrap_err();
        assert_eq!(push("(unclosed"), "unclosed group");
        assert_eq!(
            push(r"\w{900}{90}"),
            format!("compiled regex exceeds size limit of {PATTERN_COMPILED_BYTES_MAX} bytes")
        );
        assert_eq!(push(r"(?-u:\xff)"), "pattern can match invalid UTF-8");
        assert!(push(&"a".repeat(PATTERN_BYTES_MAX + 1)).contains("more than"));
        let at_the_limit = format!("(?x)a{}", " ".repeat(PATTERN_BYTES_MAX - 5));
        set.push(&at_the_limit, Case::Ignored, Origin::Configured).unwrap();
    }

    #[test]
    fn spans_take_the_first_group_where_there_is_one() {
        let set = set_of(&[r"key=(\w+)", "tok_[a-z]+"]);
        assert_eq!(set.spans("key=abc tok_x"), [(4, 7), (8, 13)]);
    }

    proptest::proptest! {
        /// The gate is an optimization and nothing else.
        #[test]
        fn gates_never_hide_a_match(text in "[a-eKkSs \\u{212a}\\u{17f}\\u{430}\\u{435}]{0,24}", pick in 0usize..8) {
            let sources = ["a b", "ab|cd", "(?:ab)+c", r"k\s+s", "a(?:bc|d e)d", "sk", r"\bab\b", "а[bc]d"];
            let set = set_of(&sources[pick..=pick]);
            let folded = super::super::fold::fold(&text);
            let regex = set.patterns[0].regex();
            let plain = regex.is_match(text.as_bytes()) || regex.is_match(folded.as_bytes());
            let gated = !set.matches(&[View::of(&folded), View::original(&text)]).is_empty();
            proptest::prop_assert_eq!(plain, gated);
        }
    }
}
