//! The known name that a mistyped one was probably meant to be.

/// Longest name compared, in characters; nothing we know is longer, and the comparison is quadratic.
const NAME_CHARS_MAX: usize = 64;

/// The known name nearest to `word`, when one is near: at most a third of its letters differ.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters: Vec<char> = word.chars().take(NAME_CHARS_MAX + 1).collect();
    if letters.len() > NAME_CHARS_MAX {
        return None;
    }
    let near = known.into_iter().map(|name| (distance(&letters, name), name)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, name)| *distance * 3 <= name.chars().count().max(letters.len())).map(|(_, name)| name)
}

/// How many single letters must be added, dropped, changed or swapped with their neighbor.
fn distance(word: &[char], name: &str) -> usize {
    let name: Vec<char> = name.chars().collect();
    let mut before = vec![0; name.len() + 1];
    let mut last: Vec<usize> = (0..=name.len()).collect();
    for (i, a) in word.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in name.iter().enumerate() {
            let mut best = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == name[j - 1] && word[i - 1] == *b {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[name.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant_and_nothing_far_off() {
        let known = ["gateway", "health", "status", "sessions", "config", "devices", "doctor"];
        let cases = [
            ("gatewya", Some("gateway")),
            ("helth", Some("health")),
            ("session", Some("sessions")),
            ("docotr", Some("doctor")),
            ("status", Some("status")),
            ("xyz", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), known), None);
        assert_eq!(nearest("x", []), None);
    }
}
