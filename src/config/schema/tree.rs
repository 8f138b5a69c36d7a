//! The rows as a tree, so that a document can be walked beside it.

use super::{Kind, Read, Row, all, fold, parts};

/// Names a node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(u32);

/// A place in the document.
#[derive(Debug)]
pub struct Node {
    /// Canonical spelling of its key; `*` and `[]` for what the user names or counts.
    pub key: &'static str,
    /// Its row; `None` for an object that only has rows below it.
    pub row: Option<&'static Row>,
    /// Where its value belongs when this is another name.
    pub alias: Option<Alias>,
    /// Named children: folded key and node, in row order.
    children: Vec<(String, NodeId)>,
    /// What every user-chosen key holds.
    pub entry: Option<NodeId>,
    /// What every element holds.
    pub item: Option<NodeId>,
    /// A node whose children this one has as well: `channels.telegram` has those of `channels.*`.
    inherits: Option<NodeId>,
}

/// Another name: `up` levels above it, then `down` to the canonical key.
#[derive(Clone, Debug)]
pub struct Alias {
    /// Levels from the alias to the common ancestor; 1 for a sibling.
    pub up: usize,
    /// Keys from there to the canonical place.
    pub down: Vec<&'static str>,
    /// The canonical node.
    pub target: NodeId,
}

/// All rows; the root is the document.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// Builds the tree of [`all`] rows.
    pub(super) fn build() -> Tree {
        let mut tree = Tree { nodes: Vec::with_capacity(1024) };
        tree.add_node("");
        for row in all() {
            let id = tree.reach(row.path);
            tree.nodes[id.0 as usize].row = Some(row);
        }
        for row in all() {
            for alias in row.aliases {
                tree.add_alias(row, alias);
            }
        }
        tree.inherit_entries("channels");
        tree
    }

    /// The document itself.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// The node behind an id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The node of a canonical path (`agents.list[].id`), aliases not followed.
    pub fn at(&self, path: &str) -> Option<NodeId> {
        let mut id = self.root();
        for part in path.split('.').filter(|part| !part.is_empty()) {
            let (name, is_list) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
            id = if name == "*" { self.entry(id)? } else { self.named(id, name)? };
            if is_list {
                id = self.node(id).item?;
            }
        }
        Some(id)
    }

    /// The named child for a key in either spelling.
    pub fn named(&self, id: NodeId, key: &str) -> Option<NodeId> {
        let folded = fold(key);
        let mut next = Some(id);
        while let Some(current) = next {
            let node = self.node(current);
            if let Some((_, child)) = node.children.iter().find(|(name, _)| *name == folded) {
                return Some(*child);
            }
            next = node.inherits;
        }
        None
    }

    /// What user-chosen keys below `id` hold.
    pub fn entry(&self, id: NodeId) -> Option<NodeId> {
        let node = self.node(id);
        node.entry.or_else(|| node.inherits.and_then(|from| self.entry(from)))
    }

    /// The child for a key: named, else the map's entry.
    pub fn child(&self, id: NodeId, key: &str) -> Option<NodeId> {
        self.named(id, key).or_else(|| self.entry(id))
    }

    /// Named children that are no aliases, own ones first, inherited ones after.
    pub fn children(&self, id: NodeId) -> Vec<NodeId> {
        let mut out: Vec<NodeId> = Vec::new();
        let mut next = Some(id);
        while let Some(current) = next {
            let node = self.node(current);
            for (_, child) in &node.children {
                let key = self.node(*child).key;
                let shadowed = out.iter().any(|seen| self.node(*seen).key == key);
                if !shadowed && self.is_canonical(*child) {
                    out.push(*child);
                }
            }
            next = node.inherits;
        }
        out
    }

    /// Follows an alias to the place it stands for.
    pub fn resolve(&self, id: NodeId) -> NodeId {
        self.node(id).alias.as_ref().map_or(id, |alias| alias.target)
    }

    /// What kind of value belongs at a node: rows say, else an object is implied.
    pub fn kind(&self, id: NodeId) -> Kind {
        let id = self.resolve(id);
        self.node(id).row.map_or(Kind::Table, |row| row.kind)
    }

    /// Whether this build reads the key or anything below it.
    pub fn is_read(&self, id: NodeId) -> bool {
        self.any_below(id, &|node| node.row.is_some_and(|row| row.read == Read::Now))
    }

    /// The strongest reload class among the keys that this build reads, from this one down; `None`: it reads none.
    pub fn reload(&self, id: NodeId) -> Option<super::Reload> {
        let node = self.node(id);
        let own = node.row.filter(|row| row.read == Read::Now).map(|row| row.reload);
        self.below(id).into_iter().filter_map(|child| self.reload(child)).chain(own).max()
    }

    /// Whether `test` holds for this node or one below it.
    fn any_below(&self, id: NodeId, test: &dyn Fn(&Node) -> bool) -> bool {
        test(self.node(id)) || self.below(id).into_iter().any(|child| self.any_below(child, test))
    }

    /// Own children, entry and item: what inheritance repeats is left out, so that walks end.
    fn below(&self, id: NodeId) -> Vec<NodeId> {
        let node = self.node(id);
        let named = node.children.iter().map(|(_, child)| *child);
        named.chain(node.entry).chain(node.item).collect()
    }

    /// Whether a node is there for itself: not an alias, nor an object that holds nothing but aliases.
    pub fn is_canonical(&self, id: NodeId) -> bool {
        self.any_below(id, &|node| node.row.is_some())
    }

    fn add_node(&mut self, key: &'static str) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("a table of rows has fewer than 2^32 nodes"));
        let node = Node { key, row: None, alias: None, children: Vec::new(), entry: None, item: None, inherits: None };
        self.nodes.push(node);
        id
    }

    /// The node of a row's path, made where missing.
    fn reach(&mut self, path: &'static str) -> NodeId {
        let mut id = self.root();
        for part in parts(path) {
            let found = match part {
                "*" => self.node(id).entry,
                "[]" => self.node(id).item,
                name => {
                    let folded = fold(name);
                    self.node(id).children.iter().find(|(key, _)| *key == folded).map(|(_, child)| *child)
                }
            };
            id = match found {
                Some(child) => child,
                None => {
                    let child = self.add_node(part);
                    let parent = &mut self.nodes[id.0 as usize];
                    match part {
                        "*" => parent.entry = Some(child),
                        "[]" => parent.item = Some(child),
                        name => parent.children.push((fold(name), child)),
                    }
                    child
                }
            };
        }
        id
    }

    fn add_alias(&mut self, row: &'static Row, alias: &'static str) {
        let target = self.reach(row.path);
        let id = self.reach(alias);
        let (from, to): (Vec<_>, Vec<_>) = (parts(alias).collect(), parts(row.path).collect());
        let n_common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        let down: Vec<&'static str> = to[n_common..].to_vec();
        assert!(!down.iter().any(|part| matches!(*part, "*" | "[]")), "{alias}: the way to {} has no name", row.path);
        let node = &mut self.nodes[id.0 as usize];
        assert!(node.row.is_none(), "{alias} is a row and an alias");
        node.alias = Some(Alias { up: from.len() - n_common, down, target });
    }

    /// Lets named entries of a map have what its `*` has, and accounts what their channel has.
    fn inherit_entries(&mut self, path: &str) {
        let id = self.at(path).expect("the map has rows");
        let shared = self.node(id).entry.expect("the map has a `*` row");
        let named: Vec<NodeId> = self.node(id).children.iter().map(|(_, child)| *child).collect();
        let accounts = self.named(shared, "accounts").expect("every channel has accounts");
        let account = self.node(accounts).entry.expect("accounts are a map");
        self.nodes[account.0 as usize].inherits = Some(shared);
        for channel in named {
            // `channels.defaults` is no channel.
            let node = self.node(channel);
            if node.key != "defaults" && node.row.is_some_and(|row| row.kind == Kind::Open) {
                self.nodes[channel.0 as usize].inherits = Some(shared);
                self.own_accounts(channel);
            }
        }
    }

    /// Gives a channel an accounts map whose entries have the channel's own keys.
    fn own_accounts(&mut self, channel: NodeId) {
        let shared = self.node(channel).inherits.expect("set by the caller");
        let template = self.named(shared, "accounts").expect("every channel has accounts");
        let accounts = self.add_node("accounts");
        self.nodes[accounts.0 as usize].row = self.node(template).row;
        let account = self.add_node("*");
        let account_row = self.node(template).entry.and_then(|entry| self.node(entry).row);
        let node = &mut self.nodes[account.0 as usize];
        node.row = account_row;
        node.inherits = Some(channel);
        self.nodes[accounts.0 as usize].entry = Some(account);
        self.nodes[channel.0 as usize].children.push((fold("accounts"), accounts));
    }
}

#[cfg(test)]
mod tests {
    use crate::config::schema::{Reload, tree};

    #[test]
    fn finds_rows_by_either_spelling_and_through_lists_and_maps() {
        let tree = tree();
        assert_eq!(tree.at("gateway.server.httpBind"), tree.at("gateway.server.http_bind"));
        assert!(tree.at("agents.list[].id").is_some());
        assert!(tree.at("models.providers.*.apiKey").is_some());
        assert!(tree.at("no.such.key").is_none());
    }

    #[test]
    fn an_alias_knows_its_way() {
        let tree = tree();
        let gateway = tree.at("gateway").unwrap();
        let token = tree.named(gateway, "token").unwrap();
        let alias = tree.node(token).alias.as_ref().unwrap();
        assert_eq!((alias.up, alias.down.as_slice()), (1, ["auth", "token"].as_slice()));
        assert_eq!(alias.target, tree.at("gateway.auth.token").unwrap());
        let url = tree.at("models.providers.*.url").unwrap();
        assert_eq!(tree.node(url).alias.as_ref().unwrap().up, 1);
    }

    #[test]
    fn channels_and_their_accounts_have_the_shared_keys() {
        let tree = tree();
        let telegram = tree.at("channels.telegram").unwrap();
        assert!(tree.named(telegram, "dmPolicy").is_some());
        let account = tree.at("channels.telegram.accounts.*").unwrap();
        assert!(tree.named(account, "dm_policy").is_some());
        assert!(tree.named(account, "bot_token").is_some());
    }

    #[test]
    fn a_section_reloads_as_its_strongest_key() {
        let tree = tree();
        assert_eq!(tree.reload(tree.at("gateway").unwrap()), Some(Reload::Restart));
        assert_eq!(tree.reload(tree.at("gateway.port").unwrap()), Some(Reload::Restart));
        assert_eq!(tree.reload(tree.at("ui").unwrap()), Some(Reload::Live));
        assert_eq!(tree.reload(tree.at("browser").unwrap()), None, "what is not read reloads nothing");
    }
}
