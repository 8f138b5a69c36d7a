//! Credentials in text: the built-in expressions (DEF-57), and masking.

/// Expressions for credentials in common use, as `credentials.leak_patterns` holds them unless configured. Letter case
/// counts. Where an expression has a group, the group is the secret and the rest is what shows that it is one.
pub(super) const DEFAULT_LEAK_PATTERNS: &[&str] = &[
    // Provider keys: OpenAI, Anthropic, OpenRouter and others of this form.
    r"\bsk-[A-Za-z0-9_-]{20,}",
    // GitHub: classic, fine-grained.
    r"\bgh[pousr]_[A-Za-z0-9]{36,}",
    r"\bgithub_pat_[A-Za-z0-9_]{22,}",
    // AWS access key ids, and the secret beside its usual name.
    r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b",
    AWS_SECRET_ASSIGNMENT,
    // Slack: tokens, app tokens, incoming webhooks.
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"\bxapp-[0-9]-[A-Za-z0-9-]{10,}",
    r"hooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9+/]{30,})",
    // Authorization headers.
    r"(?i)\bbearer\s+([a-z0-9._~+/=-]{20,})",
    // PEM private keys.
    PEM_BLOCK,
    // Google, GitLab, npm, PyPI, Stripe, Hugging Face, SendGrid, Shopify, DigitalOcean.
    r"\bAIza[A-Za-z0-9_-]{35}",
    r"\bglpat-[A-Za-z0-9_-]{20,}",
    r"\bnpm_[A-Za-z0-9]{36}",
    r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}",
    r"\b[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,}",
    r"\bhf_[A-Za-z]{34}",
    r"\bSG\.[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{39,50}",
    r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",
    r"\bdo[opr]_v1_[a-f0-9]{64}",
    // Telegram bot tokens.
    r"\b[0-9]{5,16}:(AA[A-Za-z0-9_-]{33})",
    // Signed JSON web tokens.
    r"\beyJ[A-Za-z0-9_-]{14,}\.eyJ[A-Za-z0-9_-]{14,}\.[A-Za-z0-9_-]{16,}",
    // A password between user name and host of a URL.
    r"[a-z]://[^\s/:@]*:([^\s/:@]{3,})@",
];

/// A PEM private key, to its end or to the end of the text.
pub(super) const PEM_BLOCK: &str = r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\z)";

/// The start of a PEM private key (DEF-12).
pub(super) const PEM_PRIVATE_KEY: &str = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----";

/// `aws_secret_access_key` given a value (DEF-12).
pub(super) const AWS_SECRET_ASSIGNMENT: &str = r#"(?i)aws_secret_access_key["']?\s*[:=]\s*["']?([A-Za-z0-9/+]{16,})"#;

/// Distinct characters in the second half of a credential from which on it is taken for a real one.
const DISTINCT_MIN: usize = 5;

/// A shorter text, in bytes, is a password that somebody made up: it may well have few different characters.
const PLACEHOLDER_BYTES_MIN: usize = 16;

/// Whether `credential` only shows where one would stand: `xoxb-xxxxxxxx-xxxxxxxx`, `AKIAIOSFODNN7EXAMPLE`. Its first
/// half holds the fixed prefix, so the second decides.
pub(super) fn is_placeholder(credential: &str) -> bool {
    if credential.len() < PLACEHOLDER_BYTES_MIN {
        return false;
    }
    let mut seen = [false; 256];
    for &byte in &credential.as_bytes()[credential.len() / 2..] {
        seen[usize::from(byte)] = true;
    }
    seen.iter().filter(|&&seen| seen).count() < DISTINCT_MIN || credential.ends_with("EXAMPLE")
}

/// Replaces `spans` of `text`, which may overlap, by `token`; returns the text and the number of replacements.
pub(super) fn replace(text: &str, mut spans: Vec<(usize, usize)>, token: &str) -> (String, usize) {
    spans.sort_unstable();
    let mut out = String::with_capacity(text.len());
    let (mut written, mut n_replaced) = (0, 0);
    for (start, end) in spans {
        if end <= written {
            continue;
        }
        // A span that overlaps the one before lengthens it.
        if start >= written {
            out.push_str(&text[written..start]);
            out.push_str(token);
            n_replaced += 1;
        }
        written = end;
    }
    out.push_str(&text[written..]);
    (out, n_replaced)
}

#[cfg(test)]
mod tests {
    use super::{is_placeholder, replace};

    #[test]
    fn placeholders_are_told_from_credentials() {
        for text in ["xoxb-xxxxxxxxx-xxxxxxxxxx", "github_pat_XXXXXXXXXXXXXXXX_XXXX", "AKIAIOSFODNN7EXAMPLE"] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["xoxb-4f9a2c71e0b3", "aaaaaaaa", ""] {
            assert!(!is_placeholder(text), "{text}");
        }
    }

    #[test]
    fn overlapping_spans_become_one_token() {
        let spans = vec![(6, 9), (2, 4), (3, 7), (2, 3)];
        assert_eq!(replace("abcdefghijk", spans, "*"), ("ab*jk".to_owned(), 1));
        assert_eq!(replace("abc", vec![(0, 1), (2, 3)], "**"), ("**b**".to_owned(), 2));
        assert_eq!(replace("abc", vec![], "*"), ("abc".to_owned(), 0));
    }
}
