//! The rows themselves, one file per group of sections, and the sections with their names and order in forms.
//!
//! Column order and wording follow `config.md`. Keys that only upstream's programs read are here too, so that an
//! upstream `openclaw.json` loads without a warning; where upstream's own subtree is large and unread, its object is
//! [`Kind::Open`](super::Kind::Open) or [`Kind::Any`](super::Kind::Any) and keeps what it is given.

use super::Row;

mod agents;
mod automation;
mod channels;
mod gateway;
mod memory;
mod models;
mod nodes;
mod runtime;
mod security;
mod session;
mod skills;
mod system;
mod tools;
mod voice;

/// A top-level key as forms and the reference page group it.
#[derive(Debug)]
pub struct Section {
    /// Top-level keys that belong here, the first one naming the section.
    pub keys: &'static [&'static str],
    /// Heading.
    pub label: &'static str,
    /// Place in forms; upstream's numbers where it has the section.
    pub order: u32,
    /// Upstream's page about it, where there is one that fits.
    pub docs_url: Option<&'static str>,
    /// One sentence.
    pub help: &'static str,
    /// Its rows.
    pub rows: &'static [Row],
}

/// Every section, in the order of the reference page.
pub static SECTIONS: &[Section] = &[
    Section {
        keys: &["gateway"],
        label: "Gateway",
        order: 30,
        docs_url: None,
        help: "Where the gateway listens, who may connect, and the page it serves.",
        rows: gateway::ROWS,
    },
    Section {
        keys: &["runtime"],
        label: "Runtime",
        order: 31,
        docs_url: None,
        help: "Worker counts, queues and limits of this process.",
        rows: runtime::ROWS,
    },
    Section {
        keys: &["security"],
        label: "Security",
        order: 32,
        docs_url: None,
        help: "The defender: thresholds, patterns, policies, telemetry.",
        rows: security::ROWS,
    },
    Section {
        keys: &["agents", "bindings", "broadcast"],
        label: "Agents",
        order: 40,
        docs_url: None,
        help: "The agents, their models, workspaces and limits, and which conversation goes to which.",
        rows: agents::ROWS,
    },
    Section {
        keys: &["models", "auth", "keys", "general"],
        label: "Models",
        order: 70,
        docs_url: None,
        help: "Model providers, their keys and what they offer.",
        rows: models::ROWS,
    },
    Section {
        keys: &["session", "messages", "commands", "approvals"],
        label: "Sessions and messages",
        order: 80,
        docs_url: None,
        help: "Session keys and resets, message handling, commands, approvals.",
        rows: session::ROWS,
    },
    Section {
        keys: &["tools", "mcp", "acp"],
        label: "Tools",
        order: 50,
        docs_url: None,
        help: "What agents may do.",
        rows: tools::ROWS,
    },
    Section {
        keys: &["channels", "web", "webLogin"],
        label: "Channels",
        order: 150,
        docs_url: None,
        help: "Chat services and their accounts.",
        rows: channels::ROWS,
    },
    Section {
        keys: &["nodeHost", "devicePair", "nodePair"],
        label: "Nodes and devices",
        order: 35,
        docs_url: None,
        help: "Node hosts and where pairings are kept.",
        rows: nodes::ROWS,
    },
    Section {
        keys: &["talk", "voice", "voicewake", "audio"],
        label: "Voice",
        order: 140,
        docs_url: None,
        help: "Speech in and out.",
        rows: voice::ROWS,
    },
    Section {
        keys: &["hooks", "cron", "automation"],
        label: "Automation",
        order: 110,
        docs_url: None,
        help: "Webhooks, scheduled jobs, ingest.",
        rows: automation::ROWS,
    },
    Section {
        keys: &["skills", "plugins"],
        label: "Skills and plugins",
        order: 200,
        docs_url: None,
        help: "What may be installed and loaded.",
        rows: skills::ROWS,
    },
    Section {
        keys: &["memory", "store", "idempotency", "config"],
        label: "Memory and store",
        order: 210,
        docs_url: None,
        help: "What is remembered, and in which files.",
        rows: memory::ROWS,
    },
    Section {
        keys: &["ui"],
        label: "UI",
        order: 120,
        docs_url: Some("https://docs.openclaw.ai/web/control-ui"),
        help: "How the control page looks.",
        rows: system::UI,
    },
    Section {
        keys: &["logging", "diagnostics", "update", "env", "meta", "wizard", "browser", "canvasHost", "discovery"],
        label: "System",
        order: 900,
        docs_url: None,
        help: "Logs, diagnostics, updates, environment, and keys that upstream's tools keep for themselves.",
        rows: system::ROWS,
    },
];

/// The section of a top-level key.
pub fn section_of(top_level: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.rows.iter().any(|row| row.path.split(['.', '[']).next() == Some(top_level)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::all;

    #[test]
    fn every_section_owns_the_keys_it_names() {
        for section in SECTIONS {
            for key in section.keys {
                assert_eq!(section_of(key).map(|found| found.label), Some(section.label), "{key}");
            }
        }
        assert!(all().all(|row| section_of(row.path.split(['.', '[']).next().unwrap()).is_some()));
    }
}
