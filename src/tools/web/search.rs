//! `web_search`: what a search service finds.
//!
//! Brave gives pages; Perplexity and Grok give an answer with its sources. The address of a service is the operator's
//! own word, and its key leaves for that address only.

use std::time::Instant;

use serde_json::{Value, json};

use super::external;
use crate::config::settings::web::{Account, Service};
use crate::defender::request::ActionRequest;
use crate::protocol::params::{Int, NonEmpty, Text};
use crate::runtime::outbound::address::Reach;
use crate::runtime::outbound::fetch::{self, Request};
use crate::tools::{Effect, Output, Prepared, Scene, Tool, ToolError};

pub(in crate::tools) const TOOL: Tool = Tool {
    name: "web_search",
    description: "Search the web. Gives titles, addresses and excerpts, or an answer with its sources, as the configured \
                  service does. Use web_fetch for a whole page.",
    summary: "Search the web",
    parameters,
    effect: Effect::None,
    is_offered: |settings| settings.web.search.service().is_some(),
    prepare,
};

/// Longest question, in characters.
const QUERY_CHARS_MAX: usize = 1000;
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Characters of an answer in words that are given.
const ANSWER_CHARS_MAX: usize = 20_000;
/// Characters of an excerpt that are given.
const EXCERPT_CHARS_MAX: usize = 1000;
/// Most sources that are named.
const SOURCES_MAX: usize = 20;

fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "query": { "type": "string", "description": "What to look for" },
            "count": { "type": "integer", "minimum": 1, "maximum": 10, "description": "Most results" },
            "country": { "type": "string", "description": "Two letters: results for this country" },
            "language": { "type": "string", "description": "Two letters: results in this language" },
            "freshness": { "type": "string", "enum": ["day", "week", "month", "year"], "description": "Only what is this new" },
        },
        "required": ["query"],
        "additionalProperties": false,
    })
}

crate::words! {
    /// How new results must be.
    pub enum Freshness {
        /// Of the last day.
        Day = "day",
        /// Of the last week.
        Week = "week",
        /// Of the last month.
        Month = "month",
        /// Of the last year.
        Year = "year",
    }
}

crate::params! {
    /// What to look for.
    pub struct SearchArguments {
        query: Text<1, QUERY_CHARS_MAX> = "query",
        count: Option<Int<1, 10>> = "count",
        country: Option<NonEmpty> = "country",
        language: Option<NonEmpty> = "language",
        freshness: Option<Freshness> = "freshness",
    }
}

fn prepare(arguments: &Value) -> Result<Box<dyn Prepared>, ToolError> {
    let wanted: SearchArguments = super::super::decode("web_search", arguments)?;
    for (name, code) in [("country", &wanted.country), ("language", &wanted.language)] {
        if code.as_ref().is_some_and(|code| code.0.len() != 2 || !code.0.bytes().all(|b| b.is_ascii_alphabetic())) {
            return Err(ToolError::Arguments(format!("{name} is two letters")));
        }
    }
    Ok(Box::new(wanted))
}

impl Prepared for SearchArguments {
    /// The words leave for a stranger: they are judged for what they give away.
    fn parts(&self, _: &Scene<'_>) -> ActionRequest {
        ActionRequest { prompt: Some(self.query.0.clone()), ..ActionRequest::default() }
    }

    fn run(self: Box<Self>, scene: &Scene<'_>) -> Result<Output, ToolError> {
        let settings = &scene.config.settings.web.search;
        let Some((service, account, key)) = settings.service() else {
            let how = "no search service has a key: set tools.web.search.apiKey (Brave), or perplexity's or grok's";
            return Err(ToolError::Failed(how.to_owned()));
        };
        let began = Instant::now();
        let count = self.count.as_ref().map_or(settings.results_max, |n| n.0 as usize);
        let asked = self.ask(service, account, count);
        let bearer = format!("Bearer {}", key.reveal());
        let headers: &[(&str, &str)] = match service {
            Service::Brave => &[("x-subscription-token", key.reveal()), ("accept", "application/json")],
            Service::Perplexity | Service::Grok => &[("authorization", &bearer), ("accept", "application/json")],
        };
        let body = asked.body.as_ref().map(|body| body.to_string().into_bytes());
        let request = Request {
            url: &asked.url,
            headers,
            wants: &[],
            body: body.as_deref(),
            time_max: settings.timeout,
            bytes_max: ANSWER_BYTES_MAX,
            // It would carry the key to who knows whom.
            redirects_max: 0,
            stop: scene.stop,
        };
        let name = service.as_str();
        let got = fetch::fetch(&request, &|_| Ok(Reach::Anywhere));
        let got = got.map_err(|error| ToolError::Failed(format!("{name} cannot be asked: {error}")))?;
        if got.status != 200 {
            let hint = match got.status {
                401 | 403 => "; its key is not accepted",
                429 => "; it is asked too often, or its quota is used up",
                _ => "",
            };
            return Err(ToolError::Failed(format!("{name} answered {}{hint}", got.status)));
        }
        let answer: Value = match serde_json::from_slice(&got.body) {
            Ok(answer) if !got.is_cut => answer,
            _ => {
                return Err(ToolError::Failed(format!(
                    "{name} did not answer with JSON of at most {ANSWER_BYTES_MAX} bytes"
                )));
            }
        };
        let found = match service {
            Service::Brave => Found::pages(&answer, count),
            Service::Perplexity => Found::perplexity(&answer),
            Service::Grok => Found::grok(&answer, settings.keeps_citations),
        };
        let mut details = json!({
            "query": self.query.0,
            "provider": name,
            "tookMs": began.elapsed().as_millis() as u64,
            "externalContent": { "untrusted": true, "source": "web_search", "provider": name, "wrapped": true },
        });
        let text = match found {
            Found::Pages(pages) if pages.is_empty() => "Nothing was found.".to_owned(),
            Found::Pages(pages) => {
                details["count"] = json!(pages.len());
                let line = |(idx, page): (usize, &Page)| {
                    let published = page.published.as_ref().map_or_else(String::new, |when| format!(" ({when})"));
                    format!("{}. {}{published}\n   {}\n   {}", idx + 1, page.title, page.url, page.excerpt)
                };
                pages.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
            }
            Found::Answer { text, sources } => {
                details["citations"] = json!(sources);
                let sources: Vec<String> =
                    sources.iter().enumerate().map(|(idx, url)| format!("[{}] {url}", idx + 1)).collect();
                format!("{text}\n\n{}", sources.join("\n"))
            }
        };
        Ok(Output { text: external::wrap("Web Search", text.trim_end()), details: Some(details), ..Output::default() })
    }
}

/// A request to a service.
struct Asked {
    url: String,
    body: Option<Value>,
}

impl SearchArguments {
    fn ask(&self, service: Service, account: &Account, count: usize) -> Asked {
        let Account { base_url, model, .. } = account;
        let query = &self.query.0;
        let fresh = self.freshness.map(Freshness::as_str);
        match service {
            Service::Brave => {
                let mut url = format!("{base_url}/res/v1/web/search?q={}&count={count}", percent(query));
                for (name, value) in [("country", &self.country), ("search_lang", &self.language)] {
                    if let Some(code) = value {
                        url.push_str(&format!("&{name}={}", code.0.to_ascii_lowercase()));
                    }
                }
                if let Some(first) = fresh.and_then(|fresh| fresh.chars().next()) {
                    url.push_str(&format!("&freshness=p{first}"));
                }
                Asked { url, body: None }
            }
            Service::Perplexity => {
                let mut body =
                    json!({ "model": model, "messages": [{ "role": "user", "content": self.in_words(query) }] });
                if let Some(fresh) = fresh {
                    body["search_recency_filter"] = json!(fresh);
                }
                Asked { url: format!("{base_url}/chat/completions"), body: Some(body) }
            }
            Service::Grok => {
                let mut words = self.in_words(query);
                if let Some(fresh) = fresh {
                    words.push_str(&format!(" Only what is new within the last {fresh}."));
                }
                let body = json!({
                    "model": model,
                    "input": [{ "role": "user", "content": words }],
                    "tools": [{ "type": "web_search" }],
                });
                Asked { url: format!("{base_url}/v1/responses"), body: Some(body) }
            }
        }
    }

    /// The question with what a service that reads words is not asked otherwise.
    fn in_words(&self, query: &str) -> String {
        let mut words = query.to_owned();
        if let Some(country) = &self.country {
            words.push_str(&format!(" (results for the country {})", country.0.to_ascii_uppercase()));
        }
        if let Some(language) = &self.language {
            words.push_str(&format!(" (answer in the language {})", language.0.to_ascii_lowercase()));
        }
        words
    }
}

/// What a service found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Pages(Vec<Page>),
    Answer { text: String, sources: Vec<String> },
}

#[derive(Debug, PartialEq, Eq)]
struct Page {
    title: String,
    url: String,
    excerpt: String,
    published: Option<String>,
}

impl Found {
    fn pages(answer: &Value, count: usize) -> Found {
        let results = answer.pointer("/web/results").and_then(Value::as_array);
        let page = |result: &Value| {
            let text = |name: &str| result[name].as_str().map(|text| one_line(text, EXCERPT_CHARS_MAX));
            Some(Page {
                title: text("title").unwrap_or_default(),
                url: text("url").filter(|url| url.starts_with("http"))?,
                excerpt: text("description").unwrap_or_default(),
                published: text("age"),
            })
        };
        Found::Pages(results.into_iter().flatten().filter_map(page).take(count).collect())
    }

    fn perplexity(answer: &Value) -> Found {
        let text = answer.pointer("/choices/0/message/content").and_then(Value::as_str).unwrap_or_default();
        let sources = answer["citations"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Found::Answer { text: head(text), sources: urls(sources) }
    }

    fn grok(answer: &Value, keeps_citations: bool) -> Found {
        let outputs = answer["output"].as_array().into_iter().flatten();
        let parts: Vec<&Value> = outputs
            .filter_map(|output| output["content"].as_array())
            .flatten()
            .filter(|part| part["text"].is_string())
            .collect();
        let text: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
        let noted = parts.iter().filter_map(|part| part["annotations"].as_array()).flatten();
        let noted = noted.filter_map(|note| note["url"].as_str());
        let listed = answer["citations"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let text = text.join("\n");
        let text = if keeps_citations { text } else { without_citations(&text) };
        Found::Answer { text: head(&text), sources: urls(noted.chain(listed)) }
    }
}

/// Without marks of the form `[[1]](https://…)`.
fn without_citations(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("[[") {
        let after = &rest[at + 2..];
        let mark = after.find("]](").filter(|end| *end > 0 && after[..*end].bytes().all(|byte| byte.is_ascii_digit()));
        let end = mark.and_then(|end| after[end..].find(')').map(|close| end + close + 1));
        match end {
            Some(end) => {
                out.push_str(rest[..at].trim_end());
                rest = &after[end..];
            }
            None => {
                out.push_str(&rest[..at + 2]);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn head(text: &str) -> String {
    text.chars().take(ANSWER_CHARS_MAX).collect()
}

/// Addresses, each once.
fn urls<'a>(all: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for url in all.filter(|url| url.starts_with("http")) {
        if urls.len() < SOURCES_MAX && !urls.iter().any(|own| own == url) {
            urls.push(one_line(url, EXCERPT_CHARS_MAX));
        }
    }
    urls
}

/// In one line, without the tags that a service puts around the words that were found.
fn one_line(text: &str, chars_max: usize) -> String {
    let page = super::readable::read(text, super::readable::Form::Text).text;
    page.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(chars_max).collect()
}

/// As it stands in an address.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_asked_in_its_own_words() {
        let account = |model: &str| Account { key: None, base_url: "http://s".to_owned(), model: model.to_owned() };
        let wanted: SearchArguments = super::super::super::decode(
            "web_search",
            &json!({ "query": "rust & co", "country": "DE", "language": "de", "freshness": "week" }),
        )
        .unwrap();
        let brave = wanted.ask(Service::Brave, &account(""), 3);
        assert_eq!(
            brave.url,
            "http://s/res/v1/web/search?q=rust%20%26%20co&count=3&country=de&search_lang=de&freshness=pw"
        );
        let perplexity = wanted.ask(Service::Perplexity, &account("sonar"), 3).body.unwrap();
        assert_eq!((&perplexity["model"], &perplexity["search_recency_filter"]), (&json!("sonar"), &json!("week")));
        let grok = wanted.ask(Service::Grok, &account("g"), 3);
        assert_eq!(
            (&*grok.url, &grok.body.unwrap()["tools"][0]["type"]),
            ("http://s/v1/responses", &json!("web_search"))
        );
        for wrong in [json!({}), json!({ "query": "x", "count": 11 }), json!({ "query": "x", "country": "a&b" })] {
            assert!(prepare(&wrong).is_err(), "{wrong}");
        }
        assert!(prepare(&json!({ "query": "x".repeat(QUERY_CHARS_MAX) })).is_ok(), "the limit itself");
        assert!(prepare(&json!({ "query": "x".repeat(QUERY_CHARS_MAX + 1) })).is_err());
    }

    #[test]
    fn answers_are_read_in_three_forms_and_bounded() {
        let result = json!({ "title": "A <strong>b</strong>", "url": "https://x.example/", "description": "c\nd", "age": "2 days" });
        let bad = json!({ "title": "no", "url": "javascript:x" });
        let answer = json!({ "web": { "results": [bad, result, result, result] } });
        let Found::Pages(pages) = Found::pages(&answer, 2) else { panic!("pages") };
        assert_eq!(pages.len(), 2);
        assert_eq!(
            (&*pages[0].title, &*pages[0].excerpt, pages[0].published.as_deref()),
            ("A b", "c d", Some("2 days"))
        );

        let answer =
            json!({ "choices": [{ "message": { "content": "yes [1]" } }], "citations": ["https://a", "https://a", 1] });
        let wanted = Found::Answer { text: "yes [1]".to_owned(), sources: vec!["https://a".to_owned()] };
        assert_eq!(Found::perplexity(&answer), wanted);

        let answer = json!({ "output": [{ "type": "web_search_call" }, { "content": [
            { "type": "output_text", "text": "yes [[1]](https://a) so", "annotations": [{ "url": "https://a" }] },
        ] }], "citations": ["https://b"] });
        let sources = vec!["https://a".to_owned(), "https://b".to_owned()];
        assert_eq!(Found::grok(&answer, false), Found::Answer { text: "yes so".to_owned(), sources: sources.clone() });
        assert_eq!(Found::grok(&answer, true), Found::Answer { text: "yes [[1]](https://a) so".to_owned(), sources });
        for nothing in [json!({}), json!([]), json!(null)] {
            assert_eq!(Found::pages(&nothing, 5), Found::Pages(Vec::new()));
            assert_eq!(Found::grok(&nothing, true), Found::Answer { text: String::new(), sources: Vec::new() });
        }
        assert_eq!(without_citations("a [[x]](b) [[1]] [[2]"), "a [[x]](b) [[1]] [[2]");
    }
}
