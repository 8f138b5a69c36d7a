//! What providers say of a subscription: how much of it is used, and until when (`usage.status`, MODEL-61).
//!
//! Only what a provider itself tells is shown; nothing is estimated. Each that can be asked has a row in [`ASKABLE`]: where,
//! and how its answer reads. The others are not shown at all.

use std::time::Duration;

use serde_json::Value;

use super::models::Models;
use super::providers::http::Get;
use super::talk::Failure;
use crate::runtime::stop::Stop;

/// How long one provider may take to answer.
pub const TIME_MAX: Duration = Duration::from_secs(5);
/// Windows shown of one provider.
pub const WINDOWS_MAX: usize = 16;
/// Longest word of a provider that is shown, in characters.
const WORD_CHARS_MAX: usize = 120;

/// A provider's word on a subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quota {
    /// Whose: the provider's id,
    pub provider: String,
    /// and its name for people.
    pub name: &'static str,
    /// How much is used, and of which stretch of time.
    pub windows: Vec<Window>,
    /// What is paid for.
    pub plan: Option<String>,
    /// What is left to spend, in words.
    pub summary: Option<String>,
    /// Why nothing is known.
    pub error: Option<String>,
}

/// A stretch of time in which so much may be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// What it is called.
    pub label: String,
    /// How much of it is used, from 0 to 100.
    pub used_percent: f64,
    /// When it begins anew, in milliseconds since 1970.
    pub reset_ms: Option<i64>,
}

/// A provider that tells.
struct Askable {
    id: &'static str,
    name: &'static str,
    /// Below the host its API is at.
    path: &'static str,
    read: fn(&Value, &mut Quota) -> Result<(), String>,
}

/// Those that tell whoever has an API key.
static ASKABLE: [Askable; 2] = [
    Askable { id: "zai", name: "z.ai", path: "/api/monitor/usage/quota/limit", read: zai },
    Askable { id: "deepseek", name: "DeepSeek", path: "/user/balance", read: deepseek },
];

/// Asks those that tell and that there is a key for, one after the other.
pub fn ask(models: &Models, stop: &Stop, now_ms: i64) -> Vec<Quota> {
    let asked = |row: &Askable| {
        let (base_url, key) = models.key_of(row.id, now_ms)?;
        let mut quota = Quota { provider: row.id.to_owned(), name: row.name, ..Quota::default() };
        let url = format!("{}{}", origin(&base_url), row.path);
        let headers = [("authorization".to_owned(), format!("Bearer {}", key.reveal()))];
        let get = Get { url: &url, headers: &headers, time_max: TIME_MAX, stop, now_ms };
        let told = models.client().get(&get).map_err(|Failure { message, .. }| message);
        quota.error = told.and_then(|value| (row.read)(&value, &mut quota)).err().map(|why| word(&why));
        Some(quota)
    };
    ASKABLE.iter().filter_map(asked).collect()
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host_at = url.find("://").map_or(0, |at| at + 3);
    url[host_at..].find('/').map_or(url, |end| &url[..host_at + end])
}

/// What a provider says, short and on one line.
fn word(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORD_CHARS_MAX).collect()
}

fn zai(answer: &Value, quota: &mut Quota) -> Result<(), String> {
    if answer["success"] != true || answer["code"].as_i64() != Some(200) {
        return Err(answer["msg"].as_str().unwrap_or("API error").to_owned());
    }
    let data = &answer["data"];
    for limit in data["limits"].as_array().into_iter().flatten().take(WINDOWS_MAX) {
        let n = limit["number"].as_i64();
        let stretch = match (limit["unit"].as_i64(), n) {
            (Some(1), Some(n)) => format!("{n}d"),
            (Some(3), Some(n)) => format!("{n}h"),
            (Some(5), Some(n)) => format!("{n}m"),
            _ => "Limit".to_owned(),
        };
        let label = match limit["type"].as_str() {
            Some("TOKENS_LIMIT") => format!("Tokens ({stretch})"),
            Some("TIME_LIMIT") => "Monthly".to_owned(),
            _ => continue,
        };
        let used_percent = limit["percentage"].as_f64().unwrap_or(0.0).clamp(0.0, 100.0);
        quota.windows.push(Window { label, used_percent, reset_ms: moment(&limit["nextResetTime"]) });
    }
    quota.plan = data["planName"].as_str().or(data["plan"].as_str()).map(word);
    Ok(())
}

/// A moment, in milliseconds or as a date.
fn moment(value: &Value) -> Option<i64> {
    let of_text = |text: &str| Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond());
    value.as_i64().or_else(|| of_text(value.as_str()?))
}

fn deepseek(answer: &Value, quota: &mut Quota) -> Result<(), String> {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse::<f64>().ok());
    let mut parts = Vec::new();
    for balance in answer["balance_infos"].as_array().into_iter().flatten().take(WINDOWS_MAX) {
        let Some(amount) = number(&balance["total_balance"]).filter(|amount| amount.is_finite()) else { continue };
        let amount = match balance["currency"].as_str() {
            Some("CNY" | "RMB") => format!("¥{amount:.2}"),
            Some("USD") => format!("${amount:.2}"),
            Some(currency) => format!("{amount:.2} {}", word(currency)),
            None => format!("{amount:.2}"),
        };
        parts.push(format!("Balance {amount}"));
    }
    if parts.is_empty() {
        return Err("No balance data".to_owned());
    }
    quota.summary = Some(parts.join(" · "));
    quota.plan = (answer["is_available"] == false).then(|| "Unavailable".to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(by: fn(&Value, &mut Quota) -> Result<(), String>, answer: &Value) -> Result<Quota, String> {
        let mut quota = Quota::default();
        by(answer, &mut quota).map(|()| quota)
    }

    #[test]
    fn a_subscription_has_its_windows_and_an_error_its_words() {
        let answer = json!({ "success": true, "code": 200, "data": { "planName": "Pro", "limits": [
            { "type": "TOKENS_LIMIT", "unit": 3, "number": 5, "percentage": 12.5, "nextResetTime": 1_800_000_000_000_i64 },
            { "type": "TIME_LIMIT", "percentage": 140, "nextResetTime": "2026-12-01T00:00:00Z" },
            { "type": "SOMETHING_NEW", "percentage": 1 },
        ] } });
        let quota = read(zai, &answer).unwrap();
        let window = |label: &str, used_percent, reset_ms| Window { label: label.to_owned(), used_percent, reset_ms };
        assert_eq!(
            quota.windows,
            [window("Tokens (5h)", 12.5, Some(1_800_000_000_000)), window("Monthly", 100.0, Some(1_796_083_200_000)),]
        );
        assert_eq!(quota.plan.as_deref(), Some("Pro"));
        assert_eq!(read(zai, &json!({ "success": false, "msg": "no plan" })), Err("no plan".to_owned()));
        let many = vec![json!({ "type": "TIME_LIMIT" }); WINDOWS_MAX + 1];
        let many = json!({ "success": true, "code": 200, "data": { "limits": many } });
        assert_eq!(read(zai, &many).unwrap().windows.len(), WINDOWS_MAX);
    }

    #[test]
    fn a_balance_is_told_in_its_own_money() {
        let answer = json!({ "is_available": true, "balance_infos": [
            { "currency": "USD", "total_balance": "3.5" }, { "currency": "CNY", "total_balance": 10 },
        ] });
        assert_eq!(read(deepseek, &answer).unwrap().summary.as_deref(), Some("Balance $3.50 · Balance ¥10.00"));
        assert_eq!(read(deepseek, &json!({})), Err("No balance data".to_owned()));
    }

    #[test]
    fn the_host_is_asked_wherever_below_it_the_api_is() {
        assert_eq!(origin("https://api.z.ai/api/paas/v4"), "https://api.z.ai");
        assert_eq!(origin("http://127.0.0.1:8080"), "http://127.0.0.1:8080");
    }
}
