//! Groups of the session list: which there are, in which order, and what a new session of one begins with.
//!
//! They are everybody's: there is one list for the gateway, and whoever may write changes it. `sessions.changed` with
//! the reason `groups` says that it is to be read again.

use std::path::{Component, Path};

use serde_json::Value;

use super::audit_as;
use crate::gateway::Fact;
use crate::gateway::table::{QueryCx, StoreCx};
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::json::json;
use crate::protocol::params::{NonEmpty, Nothing, Nullable, Text};
use crate::runtime::beneath::Folder;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::groups::{GROUPS_MAX, GroupRow};
use crate::store::sessions::SessionRow;

/// Where the order of the list's sections is kept: groups, and other parts that clients know.
const SECTIONS: &str = "sidebar.sectionOrder";
/// Sections at most; what is beyond is forgotten.
pub const SECTIONS_MAX: usize = 2 * GROUPS_MAX;

/// The name of a group, with blanks around it.
type Name = Text<1, 512>;

pub(super) fn list(cx: QueryCx<'_>, _params: Nothing) -> Result<Value, RpcError> {
    let db = cx.store.get()?;
    Ok(json!({ "groups": shown(db)?, "sectionOrder": sections(db)? }))
}

fn shown(db: &Queries) -> Result<Vec<Value>, StoreError> {
    let groups = db.groups()?;
    Ok(groups.iter().map(|group| json!({ "name": group.name, "position": group.position })).collect())
}

fn sections(db: &Queries) -> Result<Vec<String>, StoreError> {
    let kept = db.meta(SECTIONS)?;
    Ok(kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

fn keep_sections(cx: &StoreCx<'_>, sections: &[String]) -> Result<(), StoreError> {
    cx.db.meta_put(SECTIONS, &json!(sections).to_string(), cx.call.now_ms)
}

/// What each group begins with.
pub(super) fn defaults(cx: QueryCx<'_>, _params: Nothing) -> Result<Value, RpcError> {
    Ok(json!({ "defaults": beginnings(cx.store.get()?)? }))
}

fn beginnings(db: &Queries) -> Result<Vec<Value>, StoreError> {
    let beginning = |group: &GroupRow| {
        let mut out = json!({ "name": group.name });
        if let Some(cwd) = &group.cwd {
            out["cwd"] = json!(cwd);
        }
        if let Some(worktree) = group.worktree {
            out["worktree"] = json!(worktree);
        }
        out
    };
    Ok(db.groups()?.iter().map(beginning).collect())
}

crate::params! {
    /// All groups in their order, and the order of the sections.
    pub struct PutParams {
        names: Vec<Name> = "names",
        section_order: Option<Vec<Name>> = "sectionOrder",
    }
}

pub(super) fn put(cx: StoreCx<'_>, params: PutParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let mut names: Vec<String> = Vec::new();
    for name in params.names.iter().map(|name| name.0.trim()).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if names.len() > GROUPS_MAX {
        return Err(RpcError::invalid(format!("there can be {GROUPS_MAX} session groups")).into());
    }
    let members = cx.db.group_members()?;
    let groups = cx.db.groups()?;
    let left_out = groups.iter().filter(|group| !names.contains(&group.name));
    let in_use: Vec<String> =
        left_out.filter_map(|group| Some(format!("\"{}\" ({})", group.name, members.get(&group.name)?))).collect();
    if !in_use.is_empty() {
        let text = "sessions.groups.put cannot leave out groups with sessions in them";
        let text = format!("{text}: {}; name them too, or remove them with sessions.groups.delete", in_use.join(", "));
        return Err(RpcError::invalid(text).into());
    }
    cx.db.groups_put(&names)?;
    if let Some(order) = &params.section_order {
        let order: Vec<&str> = order.iter().map(|section| section.0.as_str()).collect();
        keep_sections(&cx, &canonical(&order, &names))?;
    }
    audit_as(&cx, "session groups", Some(json!({ "names": names })))?;
    let answer = json!({ "ok": true, "groups": shown(cx.db)?, "sectionOrder": sections(cx.db)? });
    Ok((answer, vec![Fact::Groups]))
}

/// Sections as they are kept: those that clients know, once each.
fn canonical(order: &[&str], groups: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for section in order {
        let section = section.trim();
        let is_group = |name: &str| groups.iter().any(|group| group == name);
        let known = match section.split_once(':').map(|(kind, name)| (kind, name.trim())) {
            None if matches!(section, "ungrouped" | "groups" | "work") => section.to_owned(),
            Some(("category", name)) if is_group(name) => of_group(name),
            Some(("catalog", name)) if !name.is_empty() => format!("catalog:{name}"),
            _ => continue,
        };
        if !kept.contains(&known) && kept.len() < SECTIONS_MAX {
            kept.push(known);
        }
    }
    kept
}

/// The section of a group.
fn of_group(name: &str) -> String {
    format!("category:{name}")
}

crate::params! {
    /// A group and its new name.
    pub struct RenameParams {
        name: Name = "name",
        to: Name = "to",
    }
}

pub(super) fn rename(cx: StoreCx<'_>, params: RenameParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let (from, to) = (named(&params.name)?, named(&params.to)?);
    let n_sessions = cx.db.group_rename(from, to)?.ok_or_else(|| unknown(from))?;
    let before = sections(cx.db)?;
    if from != to && before.contains(&of_group(from)) {
        let mut after: Vec<String> = Vec::new();
        for section in before {
            let section = if section == of_group(from) { of_group(to) } else { section };
            if !after.contains(&section) {
                after.push(section);
            }
        }
        keep_sections(&cx, &after)?;
    }
    audit_as(&cx, "session groups", Some(json!({ "name": from, "to": to })))?;
    Ok((changed(&cx, n_sessions)?, vec![Fact::Groups]))
}

crate::params! {
    /// Which group goes.
    pub struct DeleteParams {
        name: Name = "name",
    }
}

/// Removes a group; its sessions stay, in none.
pub(super) fn delete(cx: StoreCx<'_>, params: DeleteParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let name = named(&params.name)?;
    let n_sessions = cx.db.group_delete(name)?;
    let before = sections(cx.db)?;
    if before.contains(&of_group(name)) {
        let after: Vec<String> = before.into_iter().filter(|section| *section != of_group(name)).collect();
        keep_sections(&cx, &after)?;
    }
    audit_as(&cx, "session groups", Some(json!({ "name": name })))?;
    Ok((changed(&cx, n_sessions)?, vec![Fact::Groups]))
}

fn changed(cx: &StoreCx<'_>, n_sessions: u64) -> Result<Value, StoreError> {
    let (groups, order) = (shown(cx.db)?, sections(cx.db)?);
    Ok(json!({ "ok": true, "groups": groups, "sectionOrder": order, "updatedSessions": n_sessions }))
}

crate::params! {
    /// A group, and what a new session of it begins with.
    pub struct UpdateParams {
        name: Name = "name",
        cwd: Nullable<NonEmpty> = "cwd",
        worktree: bool = "worktree",
    }
}

pub(super) fn update(cx: StoreCx<'_>, params: UpdateParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let cwd = params.cwd.0.map(|cwd| cwd.0);
    let cwd = cwd.as_deref().map(str::trim).filter(|cwd| !cwd.is_empty());
    if cwd.is_some_and(|cwd| !Path::new(cwd).is_absolute()) {
        return Err(RpcError::invalid("session group cwd must be absolute").into());
    }
    let name = named(&params.name)?;
    if let Some(cwd) = cwd
        && !cx.call.caller.is_admin()
        && !is_in_a_workspace(&cx, Path::new(cwd))
    {
        // Whoever may only write sends sessions where agents work already, and nowhere else.
        let details = json!({
            "code": "MISSING_SCOPE",
            "missingScope": "operator.admin",
            "requiredScopes": ["operator.admin"],
        });
        let error = RpcError::new(ErrorCode::Forbidden, "missing scope: operator.admin").with_details(details);
        return Err(error.into());
    }
    if !cx.db.group_begins_with(name, cwd, params.worktree)? {
        return Err(unknown(name).into());
    }
    audit_as(&cx, "session groups", Some(json!({ "name": name, "cwd": cwd, "worktree": params.worktree })))?;
    Ok((json!({ "ok": true, "defaults": beginnings(cx.db)? }), vec![Fact::Groups]))
}

/// Whether a path is a folder of some agent's workspace, reached without a link and without a way up.
fn is_in_a_workspace(cx: &StoreCx<'_>, path: &Path) -> bool {
    cx.snapshot.config.settings.agents.list.iter().any(|agent| {
        let Ok(below) = path.strip_prefix(&agent.workspace) else { return false };
        let parts: Vec<_> = below.components().collect();
        let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
        let names: Vec<_> = parts.iter().map(|part| part.as_os_str()).collect();
        plain && Folder::open(&agent.workspace).is_ok_and(|workspace| workspace.folder(&names).is_ok())
    })
}

fn named(name: &Name) -> Result<&str, RpcError> {
    match name.0.trim() {
        "" => Err(RpcError::invalid("session group name must not be empty")),
        name => Ok(name),
    }
}

fn unknown(name: &str) -> RpcError {
    RpcError::invalid(format!("unknown session group: {name}"))
}

/// Sees to it that the group of a session is in the list; the fact that it was not.
pub(super) fn register(cx: &StoreCx<'_>, session: &SessionRow) -> Result<Option<Fact>, StoreError> {
    let Some(name) = session.entry.get("category").and_then(Value::as_str) else { return Ok(None) };
    Ok(cx.db.group_register(name)?.then_some(Fact::Groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_those_that_clients_know_once_each() {
        let groups = ["Work".to_owned()];
        let order = [" groups ", "category: Work ", "category:Gone", "catalog:x", "catalog:", "groups", "other", ""];
        assert_eq!(canonical(&order, &groups), ["groups", "category:Work", "catalog:x"]);
        let many: Vec<String> = (0..=SECTIONS_MAX).map(|n| format!("catalog:{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(canonical(&many, &groups).len(), SECTIONS_MAX);
    }
}
