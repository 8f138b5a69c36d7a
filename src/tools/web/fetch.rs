//! `web_fetch`: a page of the web, as text.

use std::time::Instant;

use serde_json::{Value, json};

use super::external;
use super::readable::{self, Form};
use crate::config::settings::web::Fetch;
use crate::defender::decision::Action;
use crate::defender::request::ActionRequest;
use crate::protocol::params::{Int, Text};
use crate::runtime::clock;
use crate::runtime::outbound::address::Reach;
use crate::runtime::outbound::fetch::{self, Hop, Request, URL_BYTES_MAX};
use crate::tools::{Effect, Output, Prepared, Scene, Tool, ToolError};

pub(in crate::tools) const TOOL: Tool = Tool {
    name: "web_fetch",
    description: "Get a page of the web by its address (http or https) as readable text. No browser: scripts are not run, \
                  forms not filled in. Addresses of this machine and its network are refused.",
    summary: "Get a page of the web as text",
    parameters,
    effect: Effect::None,
    is_offered: |settings| settings.web.fetch.enabled,
    prepare,
};

/// Characters of an error page that are shown.
const ERROR_CHARS_MAX: usize = 4000;

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "url": { "type": "string", "description": "The address" },
            "extractMode": { "type": "string", "enum": ["markdown", "text"], "description": "How the text is written; `markdown` unless it is said" },
            "maxChars": { "type": "integer", "minimum": 100, "description": "Most characters" },
        },
        "required": ["url"],
        "additionalProperties": false,
    })
}

crate::words! {
    /// How the text is written.
    pub enum ExtractMode {
        /// With headings, lists and links.
        Markdown = "markdown",
        /// Words only.
        Text = "text",
    }
}

crate::params! {
    /// Which page.
    pub struct FetchArguments {
        url: Text<1, URL_BYTES_MAX> = "url",
        extract_mode: Option<ExtractMode> = "extractMode",
        max_chars: Option<Int<100, { i64::MAX }>> = "maxChars",
    }
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    Ok(Box::new(super::super::decode::<FetchArguments>("web_fetch", arguments)?))
}

impl Prepared for FetchArguments {
    fn parts(&self, _: &Scene<'_>) -> ActionRequest {
        ActionRequest { url: Some(self.url.0.clone()), ..ActionRequest::default() }
    }

    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        let settings = &scene.config.settings.web.fetch;
        let began = Instant::now();
        let request = Request {
            url: &self.url.0,
            headers: &[
                (
                    "user-agent",
                    settings.user_agent.as_deref().unwrap_or(concat!("openclaw-rs/", env!("CARGO_PKG_VERSION"))),
                ),
                ("accept", "text/markdown, text/html;q=0.9, */*;q=0.1"),
                ("accept-language", "en-US,en;q=0.9"),
            ],
            wants: &[],
            body: None,
            time_max: settings.timeout,
            bytes_max: settings.bytes_max,
            redirects_max: settings.redirects_max,
            stop: scene.stop,
        };
        let got = fetch::fetch(&request, &|hop| may(scene, settings, hop));
        let got = got.map_err(|error| ToolError::Failed(error.to_string()))?;
        let form = if self.extract_mode == Some(ExtractMode::Text) { Form::Text } else { Form::Markdown };
        let kind = got.content_type.as_deref().unwrap_or_default();
        let (title, text, extractor) = text_of(&got.body, kind, form)?;
        if !(200..300).contains(&got.status) {
            let head: String = text.chars().take(ERROR_CHARS_MAX).collect();
            let words = external::wrap("Web Fetch", &head);
            return Err(ToolError::Failed(format!("Web fetch failed ({}): {words}", got.status)));
        }
        let chars_max = self.max_chars.as_ref().map_or(settings.chars, |n| usize::try_from(n.0).unwrap_or(usize::MAX));
        let chars_max = chars_max.min(settings.chars_max);
        let end = text.char_indices().nth(chars_max).map_or(text.len(), |(at, _)| at);
        let (n_chars, is_cut) = (text[..end].chars().count(), end < text.len() || got.is_cut);
        let title = title.map(|title| external::clean(&title));
        let wrapped = external::wrap("Web Fetch", &text[..end]);
        let mut details = json!({
            "url": self.url.0,
            "finalUrl": got.url,
            "status": got.status,
            "contentType": kind.split(';').next().unwrap_or_default().trim(),
            "extractMode": if form == Form::Text { "text" } else { "markdown" },
            "extractor": extractor,
            "externalContent": { "untrusted": true, "source": "web_fetch", "wrapped": true },
            "truncated": is_cut,
            "length": wrapped.chars().count(),
            "rawLength": n_chars,
            "fetchedAt": clock::iso(clock::wall_ms()),
            "tookMs": began.elapsed().as_millis() as u64,
        });
        let mut head = format!("{} {} {}", got.status, got.url, details["contentType"].as_str().unwrap_or_default());
        if let Some(title) = title {
            details["title"] = json!(title);
        }
        if got.is_cut {
            let warning = format!("Response body incomplete after {} bytes.", got.body.len());
            head.push_str(&format!("\n{warning}"));
            details["warning"] = json!(warning);
        } else if is_cut {
            head.push_str(&format!("\nThe first {n_chars} of {} characters.", text.chars().count()));
        }
        Ok(Output { text: format!("{head}\n\n{wrapped}"), details: Some(details), ..Output::default() })
    }
}

/// Whether a host may be asked, and how far it may lead. Where a redirect goes is judged as what was asked for was.
fn may(scene: &Scene<'_>, settings: &Fetch, hop: &Hop) -> Result<Reach, String> {
    if let Some(hosts) = &settings.hosts {
        let is_listed = |own: &String| match own.strip_prefix("*.") {
            Some(parent) => hop.host.strip_suffix(parent).is_some_and(|sub| sub.ends_with('.') && sub.len() > 1),
            None => *own == hop.host,
        };
        if !hosts.iter().any(is_listed) {
            return Err(format!("{} is not on the list of hosts", hop.host));
        }
    }
    let request = ActionRequest {
        source: "agent.tool.web_fetch".to_owned(),
        tool: Some("web_fetch".to_owned()),
        url: Some(hop.url.clone()),
        ..ActionRequest::default()
    };
    let (began, runtime) = (Instant::now(), &scene.config.settings.runtime);
    let decision = scene.rules.evaluate(&request, || began.elapsed() > runtime.eval_timeout);
    let is_fine = match decision.action {
        Action::Allow => true,
        Action::Review => runtime.audit_only,
        Action::Block => false,
    };
    if !is_fine {
        return Err(format!("the defender: {}", decision.reasons.join("; ")));
    }
    let is_known = settings.private_hosts.contains(&hop.host);
    Ok(if settings.reaches_private || is_known { Reach::Anywhere } else { Reach::Public })
}

/// What a body says: its title, its text, and how that was had.
fn text_of(body: &[u8], kind: &str, form: Form) -> Result<(Option<String>, String, &'static str), ToolError> {
    let mime = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_text = mime.is_empty()
        || mime.starts_with("text/")
        || ["json", "xml", "javascript", "yaml", "toml", "csv", "x-sh"].iter().any(|word| mime.contains(word));
    let looks_binary = body[..body.len().min(1024)].contains(&0);
    if !is_text || looks_binary {
        let mime = if mime.is_empty() { "of no known kind" } else { &mime };
        return Err(ToolError::Failed(format!("the page is {mime}, {} bytes, and no text", body.len())));
    }
    let text = String::from_utf8_lossy(body);
    let begins = text.trim_start().get(..15).unwrap_or_default().to_ascii_lowercase();
    let is_html = mime.contains("html")
        || mime.is_empty() && (begins.starts_with("<!doctype html") || begins.starts_with("<html"));
    if is_html {
        let page = readable::read(&text, form);
        return Ok((page.title, page.text, "readable"));
    }
    if mime.contains("json")
        && let Ok(value) = serde_json::from_str::<Value>(&text)
        && let Ok(pretty) = serde_json::to_string_pretty(&value)
    {
        return Ok((None, pretty, "json"));
    }
    Ok((None, text.into_owned(), if mime == "text/markdown" { "cf-markdown" } else { "raw" }))
}
