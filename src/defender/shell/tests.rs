use super::*;

#[track_caller]
fn check(source: &str, canonical: &str) {
    assert_eq!(read(source).canonical, canonical, "reading of {source}");
}

#[track_caller]
fn check_segments(source: &str, expected: &[&str]) {
    let reading = read(source);
    let segments: Vec<&str> =
        reading.segments.iter().map(|range| source[range.clone()].trim()).filter(|text| !text.is_empty()).collect();
    assert_eq!(segments, expected, "segments of {source}");
}

#[test]
fn words_are_unquoted_and_joined_by_one_space() {
    check(r#"  echo   'a  b' "c\"d" e\ f  "#, r#"echo a  b c"d e f"#);
    check("echo $'a\\x62\\143\\n'd", "echo abc\nd");
    check("echo \"$HOME/x\" ${Y} $", "echo $HOME/x ${Y} $");
    check("cat <<< x >out 2>&1", "cat <<< x > out 2 >& 1");
}

#[test]
fn operators_stand_between_commands() {
    check("a;b&&c||d|e&f\ng", "a ; b && c || d | e & f ; g");
    check("(a | b) | c", "a | b | c");
    check("if a; then b; fi", "a ; b ; fi");
}

#[test]
fn wrappers_assignments_and_directories_are_left_out() {
    check("A=1 sudo -u x -- env -i B=2 /usr/bin/nice -n 3 /bin/ls -l", "ls -l");
    check("timeout -k 5 10 xargs -0 -I {} tee {}", "tee {}");
    check("sudo", "sudo");
    check("/bin/BASH -x", "sh -x");
}

/// A beginning of a long option that leaves no doubt is that option to GNU's programs, and was none to us.
#[test]
fn long_options_that_are_cut_short_are_what_they_begin() {
    check("rm --recursiv --for --no-pres /x", "rm -rf /x");
    check("rm --r --f -- /x", "rm -rf /x");
    check("rm -- --r /x", "rm --r /x");
    check("rm -r --verbose /x", "rm -r /x --verbose");
}

#[test]
fn what_a_shell_would_run_is_read_on_its_own_line() {
    check("bash -ec 'a | b' x", "sh -ec a | b x\na | b");
    check("find . -exec a {} \\; -exec b +", "find . -exec a {} ; -exec b +\nb\na {}");
    check("su -c 'a;b' root", "su -c a;b root\na ; b");
}

#[test]
fn substitutions_come_before_what_uses_them() {
    check("a $(b | c) d", "b | c ; a $() d");
    check("a $(echo b) c", "echo b ; a b c");
    check("sh -c \"$(a)\"", "a | sh -c $()\n$()");
    assert!(read("bash <(a)").pipes);
}

#[test]
fn segments_are_the_commands_as_written() {
    check_segments("git a; ls 'x;y' && rg \"z\"", &["git a", "ls 'x;y'", "rg \"z\""]);
    check_segments("git $(a) b", &["a", "git $(a) b"]);
    check_segments("(a; b) | c", &["a", "b", "c"]);
    check_segments("git 'a; b", &["git 'a; b", "git 'a", "b"]);
}

#[test]
fn pipes_and_elevation_are_noted_at_any_depth() {
    assert!(read("sh -c 'a | b'").pipes);
    assert!(!read("a || b; c 'd | e'").pipes);
    assert!(read("a && FOO=1 /usr/bin/sudo -n b").elevated);
    assert!(!read("a sudo").elevated);
}

#[test]
fn nesting_beyond_the_limits_is_said() {
    let frames = |n: usize| format!("{}a{}", "$(".repeat(n), ")".repeat(n));
    assert!(!read(&frames(OPEN_FRAMES_MAX)).unreadable);
    assert!(read(&frames(OPEN_FRAMES_MAX + 1)).unreadable);
    let evals = |n: usize| format!("{}a", "eval ".repeat(n));
    assert!(!read(&evals(NESTING_MAX)).unreadable);
    assert!(read(&evals(NESTING_MAX + 1)).unreadable);
}

#[test]
fn expansion_is_bounded() {
    let value = "x".repeat(1000);
    let uses = |n: usize| read(&format!("a={value}; b {}", "$a ".repeat(n)));
    assert!(!uses(6).unreadable);
    let many = uses(100_000);
    assert!(many.unreadable);
    assert!(many.canonical.len() < 5 * 300_000 + EXPANSION_BYTES_FREE);
}

#[test]
fn variables_beyond_the_limit_are_not_followed() {
    let assign = |n: usize| (0..n).map(|n| format!("v{n}=x{n};")).collect::<String>();
    assert!(read(&format!("{} $v{}", assign(VARIABLES_MAX), VARIABLES_MAX - 1)).canonical.ends_with("x15"));
    assert!(read(&format!("{} $v{VARIABLES_MAX}", assign(VARIABLES_MAX + 1))).canonical.ends_with("$v16"));
}

#[test]
fn encoded_text_is_read_only_beside_a_decoder() {
    check("echo bHMgLWxhIC8= | base64 -d", "echo bHMgLWxhIC8= | base64 -d\nls -la /");
    check("echo bHMgLWxhIC8=", "echo bHMgLWxhIC8=");
    check("echo 6c73202d6c61 | xxd -r -p", "echo 6c73202d6c61 | xxd -r -p\nls -la");
}
