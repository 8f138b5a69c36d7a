//! What a file is to those who will read it one day: some are run, some are orders.

/// What writing a file comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is a file.
    Plain,
    /// An agent is given it as instructions.
    Instructions,
    /// Something of this machine runs it, or does as it says, outside of every sandbox: it needs a person's word.
    Trusted,
}

/// Files that are put before an agent, by their name at the top of its workspace.
const INSTRUCTIONS: [&str; 8] =
    ["AGENTS.md", "SOUL.md", "TOOLS.md", "IDENTITY.md", "USER.md", "HEARTBEAT.md", "BOOTSTRAP.md", "MEMORY.md"];
/// The folder of the same kind.
const MEMORY_FOLDER: &str = "memory";
/// The folder whose files an agent obeys and runs with the rights of a skill, at the top of its workspace.
const SKILLS_FOLDER: &str = "skills";
/// Folders, wherever they are, whose files are run or believed.
const TRUSTED_FOLDERS: [&[&str]; 6] = [
    &[".ssh"],
    &[".gnupg"],
    &[".config", "systemd"],
    &[".config", "autostart"],
    &[".config", "fish"],
    &[".local", "bin"],
];
/// Single files of that kind, wherever they are, by the end of their path.
const TRUSTED_FILES: [&[&str]; 11] = [
    // It names programs that every `git` command starts.
    &[".git", "config"],
    &[".gitconfig"],
    &[".bashrc"],
    &[".bash_profile"],
    &[".bash_logout"],
    &[".profile"],
    &[".zshrc"],
    &[".zshenv"],
    &[".zprofile"],
    &[".envrc"],
    &["SKILL.md"],
];
/// Where the system keeps what it runs.
const SYSTEM: [&str; 6] = ["etc", "usr", "bin", "sbin", "lib", "boot"];

/// What the file of this path is: from the workspace, or absolute. Without links and ways up.
pub fn standing(path: &str) -> Standing {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let Some((name, folders)) = parts.split_last() else { return Standing::Plain };
    // File systems differ in what they take for the same name, and a check that is too wide costs a question.
    let is = |known: &[&str], found: &[&str]| {
        known.len() == found.len() && known.iter().zip(found).all(|(a, b)| a.eq_ignore_ascii_case(b))
    };
    let is_in = |known: &&[&str]| folders.windows(known.len()).any(|found| is(known, found));
    let ends_with = |known: &&[&str]| parts.len() >= known.len() && is(known, &parts[parts.len() - known.len()..]);
    let is_system = path.starts_with('/') && SYSTEM.iter().any(|folder| parts[0] == *folder);
    if is_system || TRUSTED_FOLDERS.iter().any(is_in) || TRUSTED_FILES.iter().any(ends_with) {
        return Standing::Trusted;
    }
    // Hooks of a repository within a repository lie deeper.
    let at_git = folders.iter().position(|folder| folder.eq_ignore_ascii_case(".git"));
    if at_git.is_some_and(|at| folders[at..].iter().any(|folder| folder.eq_ignore_ascii_case("hooks"))) {
        return Standing::Trusted;
    }
    if folders.first().is_some_and(|folder| folder.eq_ignore_ascii_case(SKILLS_FOLDER)) {
        return Standing::Trusted;
    }
    let is_note = folders.first().is_some_and(|folder| folder.eq_ignore_ascii_case(MEMORY_FOLDER));
    let is_document = folders.is_empty() && INSTRUCTIONS.iter().any(|known| known.eq_ignore_ascii_case(name));
    if is_note || is_document { Standing::Instructions } else { Standing::Plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_run_and_what_is_obeyed() {
        for (path, expected) in [
            ("notes.md", Standing::Plain),
            ("src/main.rs", Standing::Plain),
            ("docs/AGENTS.md", Standing::Plain),
            ("hooks/pre-commit", Standing::Plain),
            ("git/hooks/x", Standing::Plain),
            (".gitignore", Standing::Plain),
            ("AGENTS.md", Standing::Instructions),
            ("./soul.MD", Standing::Instructions),
            ("memory/2026-09-06.md", Standing::Instructions),
            ("memory/deep/x.md", Standing::Instructions),
            ("memory.md", Standing::Instructions),
            (".git/hooks/pre-commit", Standing::Trusted),
            ("project/.git/hooks/deep/x", Standing::Trusted),
            ("project/.GIT/Hooks/x", Standing::Trusted),
            (".git/config", Standing::Trusted),
            (".git/modules/a/hooks/x", Standing::Trusted),
            ("skills/weather/SKILL.md", Standing::Trusted),
            ("skills/weather/run.sh", Standing::Trusted),
            ("src/skills/x.rs", Standing::Plain),
            ("/home/u/.ssh/authorized_keys", Standing::Trusted),
            ("/home/u/.bashrc", Standing::Trusted),
            ("/etc/cron.d/x", Standing::Trusted),
            ("etc/x", Standing::Plain),
            ("", Standing::Plain),
        ] {
            assert_eq!(standing(path), expected, "{path}");
        }
    }
}
