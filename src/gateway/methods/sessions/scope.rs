//! Which scope a change needs on protocol 4: it depends on what is asked (protocol.md, part 9).

use serde_json::{Map, Value};

use crate::gateway::table::Need;
use crate::protocol::scope::Scope;
use crate::sessions::patch;

/// `sessions.patch`: `operator.write` while only light fields are named.
pub const PATCH: Need = Need::ByParams(|raw| weigh(patch_is_heavy(&members(raw))));
/// `sessions.patchMany`: the same, of the shared patch.
pub const PATCH_MANY: Need = Need::ByParams(|raw| {
    let members = members(raw);
    weigh(members.get("patch").and_then(Value::as_object).is_some_and(patch::is_heavy))
});
/// `sessions.create`: `operator.write` unless the session would run where or as ordinary ones may not.
pub const CREATE: Need = Need::ByParams(|raw| {
    let members = members(raw);
    let asks = |name: &str| members.get(name).is_some_and(|value| !value.is_null() && value != false);
    let full = members.get("permissionMode").is_some_and(|mode| mode == "full");
    weigh(full || ["incognito", "execNode", "toolOverrides"].iter().any(|name| asks(name)))
});
/// `sessions.delete`: `operator.write` for a session that was put away before.
pub const DELETE: Need = Need::ByParams(|raw| {
    let members = members(raw);
    let plain = ["key", "agentId", "deleteTranscript", "expectedSessionId", "archivedOnly"];
    let only_archived = members.get("archivedOnly") == Some(&Value::Bool(true));
    weigh(!only_archived || members.keys().any(|name| !plain.contains(&name.as_str())))
});

/// Members of a patch that say which session is meant and what the caller saw of it.
const PATCH_TARGET: [&str; 7] = [
    "key",
    "sessionKey",
    "agentId",
    "expectedSessionId",
    "expectedLifecycleRevision",
    "expectedPermissionMode",
    "expectedMarkedUnreadAt",
];

fn patch_is_heavy(members: &Map<String, Value>) -> bool {
    let changes = members.iter().filter(|(name, _)| !PATCH_TARGET.contains(&name.as_str()));
    patch::is_heavy(&changes.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The scope asked for, and the narrower one that is enough as well.
fn weigh(is_heavy: bool) -> (Scope, Scope) {
    if is_heavy { (Scope::Admin, Scope::Admin) } else { (Scope::Write, Scope::SessionsWrite) }
}

/// The members of the parameters; none when they are not an object, which decoding refuses later.
fn members(raw: Option<&str>) -> Map<String, Value> {
    raw.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(need: Need, raw: &str, heavy: bool) {
        let Need::ByParams(decide) = need else { panic!("the scope depends on the parameters") };
        assert_eq!(decide(Some(raw)).0 == Scope::Admin, heavy, "{raw}");
    }

    #[test]
    fn a_patch_needs_what_its_heaviest_field_needs() {
        check(PATCH, r#"{"key":"main"}"#, false);
        check(PATCH, r#"{"key":"main","agentId":"a","expectedSessionId":"s","expectedMarkedUnreadAt":1}"#, false);
        let light = r#"{"key":"k","label":"l","autoLabel":"a","icon":"i","color":"c","category":"c","boardFace":"chat",
            "boardPresentation":"split","pinned":true,"archived":true,"unread":true,"model":"m","agentRuntime":"r",
            "thinkingLevel":"low","fastMode":true,"permissionMode":"guarded"}"#;
        check(PATCH, light, false);
        check(PATCH, r#"{"key":"main","permissionMode":"full"}"#, true);
        check(PATCH, r#"{"key":"main","permission_mode":"full"}"#, true);
        for field in ["sandboxMode", "execHost", "sendPolicy", "elevatedLevel", "toolOverrides", "zzUnknown"] {
            check(PATCH, &format!(r#"{{"key":"main","label":"x","{field}":"off"}}"#), true);
        }
    }

    #[test]
    fn many_are_patched_with_the_same_weight() {
        check(PATCH_MANY, r#"{"targets":[{"key":"a"}],"patch":{"pinned":true}}"#, false);
        check(PATCH_MANY, r#"{"targets":[{"key":"a"}],"patch":{"execAsk":"off"}}"#, true);
        check(PATCH_MANY, r#"{"zzUnknown":1}"#, false);
    }

    #[test]
    fn only_what_was_put_away_is_deleted_without_admin() {
        check(DELETE, r#"{"key":"a","archivedOnly":true,"deleteTranscript":true}"#, false);
        check(DELETE, r#"{"key":"a"}"#, true);
        check(DELETE, r#"{"key":"a","archivedOnly":false}"#, true);
        check(DELETE, r#"{"key":"a","archivedOnly":true,"emitLifecycleHooks":false}"#, true);
    }

    #[test]
    fn making_a_session_with_special_rights_needs_admin() {
        check(CREATE, "{}", false);
        check(CREATE, r#"{"label":"x","permissionMode":"guarded","incognito":false}"#, false);
        check(CREATE, r#"{"permissionMode":"full"}"#, true);
        check(CREATE, r#"{"incognito":true}"#, true);
        check(CREATE, r#"{"execNode":"n"}"#, true);
        check(CREATE, r#"{"toolOverrides":{}}"#, true);
    }
}
