//! Ed25519 device identities, made at their first use and kept by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// One device: its key pair and what the wire calls it.
pub(crate) struct Identity {
    /// Lower-case hex SHA-256 of the raw public key, 64 characters.
    pub(crate) id: String,
    /// The raw public key in base64url without padding, 43 characters.
    pub(crate) public_key: String,
    pair: Ed25519KeyPair,
}

impl Identity {
    /// A new random key pair.
    pub(crate) fn generate() -> Identity {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the system has randomness");
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key just made is well formed");
        let raw = pair.public_key().as_ref();
        let id = digest(&SHA256, raw).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        Identity { id, public_key: URL_SAFE_NO_PAD.encode(raw), pair }
    }

    /// The signature of `text` in base64url without padding.
    pub(crate) fn sign(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()).as_ref())
    }
}

/// Identities by name: the same name is the same device for as long as the table lives.
#[derive(Clone, Default)]
pub(crate) struct Identities(Arc<Mutex<HashMap<String, Arc<Identity>>>>);

impl Identities {
    /// The identity called `name`, made now when it is new.
    pub(crate) fn get(&self, name: &str) -> Arc<Identity> {
        let mut table = self.0.lock().expect("no holder of this lock panics");
        table.entry(name.to_owned()).or_insert_with(|| Arc::new(Identity::generate())).clone()
    }
}
