//! What tools are called: aliases, groups, profiles. Names and members are upstream's.
//!
//! The table has every tool that this program is to have, and a tool has its row before it is built, so that a group
//! means the same from one version to the next. One deviation: upstream's profiles offer `gateway` everywhere, with
//! rules of its own about what it tells; here it is in none but `full`.

use crate::config::settings::tools::Profile;

/// A section of the catalog; `group:ID` is all of it.
pub struct Section {
    /// Its id.
    pub id: &'static str,
    /// What people read.
    pub label: &'static str,
}

/// The sections, in the order they are shown.
pub static SECTIONS: &[Section] = &[
    Section { id: "fs", label: "Files" },
    Section { id: "runtime", label: "Runtime" },
    Section { id: "web", label: "Web" },
    Section { id: "memory", label: "Memory" },
    Section { id: "sessions", label: "Sessions" },
    Section { id: "ui", label: "UI" },
    Section { id: "messaging", label: "Messaging" },
    Section { id: "automation", label: "Automation" },
    Section { id: "nodes", label: "Nodes" },
    Section { id: "agents", label: "Agents" },
    Section { id: "media", label: "Media" },
];

/// A tool's place.
pub struct Place {
    /// The tool.
    pub name: &'static str,
    /// Its section's id.
    pub section: &'static str,
    profiles: &'static [Profile],
    /// Whether `group:openclaw` has it: what works on files and runs commands is named by itself.
    is_openclaw: bool,
}

const NONE: &[Profile] = &[];
const CODING: &[Profile] = &[Profile::Coding];
const MESSAGING: &[Profile] = &[Profile::Messaging];
const BOTH: &[Profile] = &[Profile::Coding, Profile::Messaging];
const EVERY: &[Profile] = &[Profile::Minimal, Profile::Coding, Profile::Messaging];

const fn place(name: &'static str, section: &'static str, profiles: &'static [Profile]) -> Place {
    Place { name, section, profiles, is_openclaw: true }
}

const fn basic(name: &'static str, section: &'static str, profiles: &'static [Profile]) -> Place {
    Place { name, section, profiles, is_openclaw: false }
}

/// Every tool's place.
pub static PLACES: &[Place] = &[
    basic("read", "fs", CODING),
    basic("write", "fs", CODING),
    basic("edit", "fs", CODING),
    basic("apply_patch", "fs", CODING),
    basic("exec", "runtime", CODING),
    basic("process", "runtime", CODING),
    place("web_search", "web", CODING),
    place("web_fetch", "web", CODING),
    place("memory_search", "memory", CODING),
    place("memory_get", "memory", CODING),
    place("sessions", "sessions", BOTH),
    place("sessions_list", "sessions", BOTH),
    place("sessions_history", "sessions", BOTH),
    place("sessions_send", "sessions", BOTH),
    place("sessions_spawn", "sessions", BOTH),
    place("subagents", "sessions", BOTH),
    place("session_status", "sessions", EVERY),
    place("browser", "ui", NONE),
    place("canvas", "ui", NONE),
    place("message", "messaging", MESSAGING),
    place("cron", "automation", CODING),
    place("gateway", "automation", NONE),
    place("nodes", "nodes", NONE),
    place("agents_list", "agents", NONE),
    place("image", "media", CODING),
    place("tts", "media", NONE),
];

/// Other names, as people and other releases write them.
static ALIASES: &[(&str, &str)] = &[
    ("bash", "exec"),
    ("apply-patch", "apply_patch"),
    ("session", "sessions"),
    ("node", "nodes"),
    ("automations", "cron"),
    ("view_image", "image"),
];

/// What a name is compared as: trimmed, lower case, aliases resolved.
pub fn canonical(name: &str) -> String {
    let name = name.trim().to_lowercase();
    match ALIASES.iter().find(|(alias, _)| *alias == name) {
        Some((_, name)) => (*name).to_owned(),
        None => name,
    }
}

/// A name for people: `memory_get` is `Memory Get`.
pub fn title(name: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_uppercase().chain(chars).collect::<String>()).unwrap_or_default()
    };
    name.split('_').map(word).collect::<Vec<_>>().join(" ")
}

/// What people call the tool of this name, upstream's word where that is another one.
pub fn label(name: &str) -> String {
    let known = [
        ("agents_list", "Agents"),
        ("sessions_history", "Session History"),
        ("sessions_list", "Sessions"),
        ("sessions_send", "Session Send"),
        ("sessions_spawn", "Sub-agent"),
        ("tts", "TTS"),
    ];
    known.iter().find(|(known, _)| *known == name).map_or_else(|| title(name), |(_, label)| (*label).to_owned())
}

/// The place of the tool of this canonical name.
pub fn place_of(name: &str) -> Option<&'static Place> {
    PLACES.iter().find(|place| place.name == name)
}

impl Place {
    /// The profiles that offer it, beside `full`, which offers everything.
    pub fn profiles(&self) -> &'static [Profile] {
        self.profiles
    }
}

/// Whether a profile offers the tool of this canonical name.
pub fn has(profile: Profile, name: &str) -> bool {
    profile == Profile::Full || place_of(name).is_some_and(|place| place.profiles.contains(&profile))
}

/// Whether the group of this name, without its `group:`, has the tool of this canonical name. A group that is not known
/// has none.
pub fn is_in_group(group: &str, name: &str) -> bool {
    place_of(name).is_some_and(|place| place.section == group || group == "openclaw" && place.is_openclaw)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_tool_has_one_place_in_a_section_that_is_there() {
        let names: BTreeSet<&str> = PLACES.iter().map(|place| place.name).collect();
        assert_eq!(names.len(), PLACES.len());
        for place in PLACES {
            assert!(SECTIONS.iter().any(|section| section.id == place.section), "{}", place.name);
            assert_eq!(canonical(place.name), place.name, "no tool has another one's other name");
        }
        for tool in crate::tools::TOOLS {
            assert!(place_of(tool.name).is_some(), "{} has no place", tool.name);
        }
        for (alias, name) in ALIASES {
            assert!(place_of(alias).is_none() && place_of(name).is_some(), "{alias}");
        }
    }

    #[test]
    fn groups_are_upstreams() {
        let members = |group: &str| {
            PLACES.iter().map(|place| place.name).filter(|name| is_in_group(group, name)).collect::<Vec<_>>()
        };
        assert_eq!(members("fs"), ["read", "write", "edit", "apply_patch"]);
        assert_eq!(members("runtime"), ["exec", "process"]);
        assert_eq!(members("web"), ["web_search", "web_fetch"]);
        assert_eq!(members("memory"), ["memory_search", "memory_get"]);
        assert_eq!(members("automation"), ["cron", "gateway"]);
        assert!(members("openclaw").contains(&"message") && !members("openclaw").contains(&"exec"));
        assert_eq!(members("nonsense"), [""; 0]);
    }

    #[test]
    fn profiles_are_upstreams() {
        let members =
            |profile| PLACES.iter().map(|place| place.name).filter(|name| has(profile, name)).collect::<Vec<_>>();
        assert_eq!(members(Profile::Minimal), ["session_status"]);
        assert_eq!(members(Profile::Full).len(), PLACES.len());
        let coding = members(Profile::Coding);
        assert!(["read", "exec", "memory_get", "image"].iter().all(|name| coding.contains(name)), "{coding:?}");
        assert!(["message", "nodes", "gateway", "browser"].iter().all(|name| !coding.contains(name)), "{coding:?}");
        let messaging = members(Profile::Messaging);
        assert!(["message", "sessions_send"].iter().all(|name| messaging.contains(name)), "{messaging:?}");
        assert!(["read", "write", "exec"].iter().all(|name| !messaging.contains(name)), "{messaging:?}");
        assert!(has(Profile::Full, "what is not known yet") && !has(Profile::Coding, "what is not known yet"));
    }

    #[test]
    fn names_are_read_whatever_their_case() {
        for (written, name) in
            [(" Exec ", "exec"), ("BASH", "exec"), ("apply-patch", "apply_patch"), ("Automations", "cron")]
        {
            assert_eq!(canonical(written), name);
        }
    }
}
