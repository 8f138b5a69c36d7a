//! `channels.*` and `automation.*`, as far as webhooks of channels go.

use std::collections::BTreeMap;

use super::reader::Reader;
use super::tools::Group;
use crate::config::secret::Secret;

/// Keys of `channels` that are no channel.
const NO_CHANNELS: &[&str] = &["defaults", "modelByChannel", "runtimeStorePath"];

/// The configured channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Each channel's own webhook secret, by its name in lower case.
    webhook_secrets: BTreeMap<String, Option<Secret>>,
    /// The webhook secret of configured channels without one of their own.
    shared_webhook_secret: Option<Secret>,
    /// What groups may use: of each channel by its name in lower case, and of its accounts that say so themselves.
    groups: BTreeMap<String, Groups>,
}

/// Groups of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Groups {
    shared: Vec<Group>,
    of_accounts: Vec<(String, Vec<Group>)>,
}

impl Channels {
    pub(super) fn read(root: &Reader<'_>) -> Channels {
        let channels = root.entries("channels").into_iter();
        let channels: Vec<_> = channels.filter(|(name, _)| !NO_CHANNELS.contains(&name.as_str())).collect();
        Channels {
            groups: channels
                .iter()
                .map(|(name, channel)| (name.to_lowercase(), Groups::read(channel)))
                .filter(|(_, groups)| *groups != Groups::default())
                .collect(),
            webhook_secrets: channels
                .into_iter()
                .map(|(name, channel)| (name.to_lowercase(), channel.secret("webhookSecret")))
                .collect(),
            shared_webhook_secret: root.at("automation").secret("webhook_secret"),
        }
    }

    /// The secret that a webhook of this channel must show: its own, else the one for all. `None` for a channel that
    /// is not configured, and where there is no secret at all: an unsigned post is never accepted.
    pub fn webhook_secret(&self, channel: &str) -> Option<&Secret> {
        self.webhook_secrets.get(channel)?.as_ref().or(self.shared_webhook_secret.as_ref())
    }

    /// The groups that a channel says something of, for one of our accounts on it: the account's own, else the
    /// channel's.
    pub fn groups(&self, channel: &str, account: Option<&str>) -> &[Group] {
        let Some(groups) = self.groups.get(&channel.to_lowercase()) else { return &[] };
        let own = account.and_then(|account| {
            groups.of_accounts.iter().find(|(id, _)| id.eq_ignore_ascii_case(account)).map(|(_, groups)| groups)
        });
        own.unwrap_or(&groups.shared)
    }
}

impl Channels {
    /// Whether what a group may use depends on who speaks in it.
    pub(super) fn tells_senders_apart(&self) -> bool {
        let of_accounts =
            |groups: &Groups| groups.of_accounts.iter().flat_map(|(_, groups)| groups).any(Group::has_senders);
        self.groups.values().any(|groups| groups.shared.iter().any(Group::has_senders) || of_accounts(groups))
    }
}

impl Groups {
    fn read(channel: &Reader<'_>) -> Groups {
        let accounts = channel.entries("accounts").into_iter();
        Groups {
            shared: Group::all(channel),
            of_accounts: accounts
                .map(|(id, account)| (id, Group::all(&account)))
                .filter(|(_, groups)| !groups.is_empty())
                .collect(),
        }
    }
}
