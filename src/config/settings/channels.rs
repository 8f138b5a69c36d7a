//! `channels.*` and `automation.*`, as far as webhooks of channels go.

use std::collections::BTreeMap;

use super::reader::Reader;
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
}

impl Channels {
    pub(super) fn read(root: &Reader<'_>) -> Channels {
        let channels = root.entries("channels").into_iter();
        let channels = channels.filter(|(name, _)| !NO_CHANNELS.contains(&name.as_str()));
        Channels {
            webhook_secrets: channels
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
}
