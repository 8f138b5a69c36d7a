//! Roles and scopes: what a connection may call, decided by the server and never by the client's wish.

use super::version::Protocol;

/// Who a connection acts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A person's client.
    Operator,
    /// A machine that offers commands.
    Node,
}

impl Role {
    /// The role named on the wire; absent means operator.
    pub fn parse(name: Option<&str>) -> Option<Role> {
        match name {
            None | Some("operator") => Some(Role::Operator),
            Some("node") => Some(Role::Node),
            Some(_) => None,
        }
    }

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::Node => "node",
        }
    }
}

/// A scope the gateway knows. Others are kept as text and satisfy nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Scope {
    /// Everything an operator can do.
    Admin = 1,
    /// Reading.
    Read = 1 << 1,
    /// Acting in sessions and on nodes.
    Write = 1 << 2,
    /// Deciding approvals.
    Approvals = 1 << 3,
    /// Pairing devices and nodes.
    Pairing = 1 << 4,
    /// Answering questions (protocol 4).
    Questions = 1 << 5,
    /// Voice (protocol 4).
    Talk = 1 << 6,
    /// Reading voice secrets (protocol 4).
    TalkSecrets = 1 << 7,
    /// Reading sessions only (protocol 4).
    SessionsRead = 1 << 8,
    /// Acting in sessions only (protocol 4).
    SessionsWrite = 1 << 9,
}

/// Every known scope with its wire name.
const SCOPES: &[(Scope, &str)] = &[
    (Scope::Admin, "operator.admin"),
    (Scope::Read, "operator.read"),
    (Scope::Write, "operator.write"),
    (Scope::Approvals, "operator.approvals"),
    (Scope::Pairing, "operator.pairing"),
    (Scope::Questions, "operator.questions"),
    (Scope::Talk, "operator.talk"),
    (Scope::TalkSecrets, "operator.talk.secrets"),
    (Scope::SessionsRead, "operator.sessions.read"),
    (Scope::SessionsWrite, "operator.sessions.write"),
];

impl Scope {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        SCOPES.iter().find(|(scope, _)| *scope == self).map_or("", |(_, name)| name)
    }

    /// The scope of this name.
    pub fn parse(name: &str) -> Option<Scope> {
        SCOPES.iter().find(|(_, known)| *known == name).map(|(scope, _)| *scope)
    }
}

/// The scopes a connection or a token holds, in the order they were asked for, unknown ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    names: Vec<String>,
    bits: u16,
}

impl Scopes {
    /// Most scopes kept of one request; the rest is ignored. Real clients ask for at most seven.
    pub const COUNT_MAX: usize = 32;

    /// No scope: such an operator can call `health` and nothing else.
    pub const fn none() -> Scopes {
        Scopes { names: Vec::new(), bits: 0 }
    }

    /// The scopes named, without repetitions.
    pub fn from_names<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Scopes {
        let mut out = Scopes::none();
        for name in names {
            let name = name.as_ref().trim();
            if !name.is_empty() && out.names.len() < Scopes::COUNT_MAX && !out.names.iter().any(|n| n == name) {
                out.bits |= Scope::parse(name).map_or(0, |scope| scope as u16);
                out.names.push(name.to_owned());
            }
        }
        out
    }

    /// The names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether nothing was granted.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Both sets, these first.
    #[must_use]
    pub fn union(&self, other: &Scopes) -> Scopes {
        Scopes::from_names(self.names.iter().chain(&other.names))
    }

    /// Sorted copy, as upstream stores and reports token scopes.
    #[must_use]
    pub fn sorted(&self) -> Scopes {
        let mut names = self.names.clone();
        names.sort();
        Scopes { names, bits: self.bits }
    }

    /// Whether `needed` is satisfied when a method is called.
    pub fn satisfies(&self, needed: Scope, protocol: Protocol) -> bool {
        let closure = match protocol {
            Protocol::V3 => closure_v3(self.bits),
            Protocol::V4 => closure_v4(self.bits),
        };
        closure & Scope::Admin as u16 != 0 || closure & needed as u16 != 0
    }

    /// Whether every scope of `wanted` is covered by these, as pairing records cover a connection's request.
    ///
    /// Uses protocol 4's implications for both protocols: with protocol 3's own rule (`operator.admin` does not cover
    /// `operator.pairing`) its command line locks itself out after its first `status`.
    pub fn cover(&self, wanted: &Scopes) -> bool {
        let closure = closure_v4(self.bits);
        wanted.names.iter().all(|name| {
            self.names.contains(name)
                || match Scope::parse(name) {
                    Some(scope) => closure & scope as u16 != 0,
                    None => closure & Scope::Admin as u16 != 0 && name.starts_with("operator."),
                }
        })
    }
}

fn closure_v3(bits: u16) -> u16 {
    if bits & Scope::Write as u16 != 0 { bits | Scope::Read as u16 } else { bits }
}

fn closure_v4(bits: u16) -> u16 {
    let has = |scope: Scope| bits & scope as u16 != 0;
    let mut out = bits;
    if has(Scope::Admin) {
        out = u16::MAX;
    }
    if has(Scope::Write) {
        out |= Scope::Read as u16 | Scope::Talk as u16 | Scope::SessionsRead as u16 | Scope::SessionsWrite as u16;
    }
    if has(Scope::Read) {
        out |= Scope::SessionsRead as u16;
    }
    if has(Scope::SessionsWrite) {
        out |= Scope::SessionsRead as u16;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(names: &[&str]) -> Scopes {
        Scopes::from_names(names)
    }

    #[test]
    fn write_reaches_read_and_nothing_reaches_admin() {
        let write = scopes(&["operator.write"]);
        assert!(write.satisfies(Scope::Read, Protocol::V3));
        assert!(write.satisfies(Scope::Talk, Protocol::V4));
        assert!(!write.satisfies(Scope::Talk, Protocol::V3));
        for protocol in [Protocol::V3, Protocol::V4] {
            assert!(!write.satisfies(Scope::Admin, protocol));
            assert!(!write.satisfies(Scope::Pairing, protocol));
            assert!(!scopes(&["operator.nonsense"]).satisfies(Scope::Read, protocol));
        }
    }

    #[test]
    fn admin_reaches_everything() {
        let admin = scopes(&["operator.admin"]);
        for (scope, _) in SCOPES {
            assert!(admin.satisfies(*scope, Protocol::V3));
            assert!(admin.satisfies(*scope, Protocol::V4));
        }
        assert!(admin.cover(&scopes(&["operator.pairing", "operator.approvals"])));
    }

    #[test]
    fn a_record_covers_no_more_than_it_holds() {
        let read = scopes(&["operator.read"]);
        assert!(read.cover(&Scopes::none()));
        assert!(!read.cover(&scopes(&["operator.write"])));
        assert!(!read.cover(&scopes(&["operator.nonsense"])));
        assert!(scopes(&["operator.nonsense"]).cover(&scopes(&["operator.nonsense"])));
    }

    #[test]
    fn keeps_at_most_the_named_number() {
        let many: Vec<String> = (0..100).map(|i| format!("x.{i}")).collect();
        assert_eq!(Scopes::from_names(&many).names().len(), Scopes::COUNT_MAX);
    }
}
