//! What a client says in `connect`: the options of the recordings, and the params they become.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::identity::Identities;

/// The scopes an operator asks for when nothing else is said.
pub(crate) const OPERATOR_SCOPES: [&str; 5] =
    ["operator.admin", "operator.read", "operator.write", "operator.approvals", "operator.pairing"];

/// Which generation of client is speaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proto {
    V3,
    V4,
}

impl Proto {
    pub(crate) fn number(self) -> u64 {
        match self {
            Proto::V3 => 3,
            Proto::V4 => 4,
        }
    }

    /// The folder and family prefix of this protocol.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Proto::V3 => "v3",
            Proto::V4 => "v4",
        }
    }

    /// Protocol 3 clients sign payload version 2, protocol 4 clients version 3: two meanings of "v3".
    fn payload_version(self) -> &'static str {
        match self {
            Proto::V3 => "v2",
            Proto::V4 => "v3",
        }
    }
}

/// How a `connect` differs from the plain one. The fields are those of the recordings' `connect` object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ConnectOptions {
    /// Name of a device identity; none: no device is sent.
    pub(crate) device: Option<String>,
    /// Default `operator`.
    pub(crate) role: Option<String>,
    pub(crate) scopes: Vec<String>,
    /// Merged into the client description; null removes a field.
    pub(crate) client: Map<String, Value>,
    /// Replaces `{token}`; null: no auth.
    #[serde(deserialize_with = "present")]
    pub(crate) auth: Option<Value>,
    pub(crate) min_protocol: Option<Value>,
    pub(crate) max_protocol: Option<Value>,
    /// Merged into the params at the end.
    pub(crate) extra: Map<String, Value>,
    /// Params left out at the end.
    pub(crate) omit: Vec<String>,
    /// Version of the signed text.
    pub(crate) payload_version: Option<String>,
    pub(crate) tamper: Tamper,
    /// Stop after the challenge.
    pub(crate) no_connect: bool,
}

/// What is wrong with the device proof on purpose.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Tamper {
    /// `bad` (a signature of something else) or `garbage`.
    pub(crate) signature: Option<String>,
    /// `omit` or `wrong`.
    pub(crate) nonce: Option<String>,
    pub(crate) signed_at_offset_ms: i64,
    pub(crate) id: Option<String>,
    pub(crate) public_key: Option<String>,
}

/// Keeps `null` apart from absent.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

impl ConnectOptions {
    /// An operator with all five scopes and a device of its own.
    pub(crate) fn operator(device: &str) -> ConnectOptions {
        ConnectOptions { device: Some(device.to_owned()), ..ConnectOptions::operator_without_device() }
    }

    /// The same without a device.
    pub(crate) fn operator_without_device() -> ConnectOptions {
        ConnectOptions { scopes: OPERATOR_SCOPES.map(str::to_owned).to_vec(), ..ConnectOptions::default() }
    }

    /// A node host that offers `system.which`.
    pub(crate) fn node(device: &str) -> ConnectOptions {
        let object = |value: Value| match value {
            Value::Object(map) => map,
            _ => unreachable!("the literals below are objects"),
        };
        ConnectOptions {
            device: Some(device.to_owned()),
            role: Some(String::from("node")),
            client: object(json!({ "id": "node-host", "mode": "node", "displayName": device })),
            extra: object(json!({ "caps": ["system"], "commands": ["system.which"] })),
            ..ConnectOptions::default()
        }
    }

    /// The same with only these scopes.
    #[must_use]
    pub(crate) fn scopes(self, scopes: &[&str]) -> ConnectOptions {
        ConnectOptions { scopes: scopes.iter().map(|&s| s.to_owned()).collect(), ..self }
    }

    /// The same with this `auth` (null: none).
    #[must_use]
    pub(crate) fn auth(self, auth: Value) -> ConnectOptions {
        ConnectOptions { auth: Some(auth), ..self }
    }

    /// The same with this client field.
    #[must_use]
    pub(crate) fn client(mut self, key: &str, value: &str) -> ConnectOptions {
        self.client.insert(key.to_owned(), Value::from(value));
        self
    }

    /// The same with the proof spoilt.
    #[must_use]
    pub(crate) fn tamper(self, tamper: Tamper) -> ConnectOptions {
        ConnectOptions { tamper, ..self }
    }

    /// The params of the `connect` request, signed where there is a device.
    pub(crate) fn params(&self, proto: Proto, nonce: Option<&str>, token: &str, identities: &Identities) -> Value {
        let mut client: Map<String, Value> =
            [("id", "cli"), ("version", "1.0.0"), ("platform", "linux"), ("mode", "cli")]
                .map(|(key, value)| (key.to_owned(), Value::from(value)))
                .into_iter()
                .collect();
        client.extend(self.client.clone());
        client.retain(|_, value| !value.is_null());
        let role = self.role.as_deref().unwrap_or("operator");
        let auth = self.auth.clone().unwrap_or_else(|| json!({ "token": token }));
        let number = |given: &Option<Value>| given.clone().unwrap_or_else(|| Value::from(proto.number()));
        let mut params = json!({
            "minProtocol": number(&self.min_protocol), "maxProtocol": number(&self.max_protocol),
            "client": client, "role": role, "scopes": self.scopes,
        });
        let object = params.as_object_mut().expect("made as an object above");
        if let Some(name) = &self.device {
            let proof = self.proof(name, proto, nonce, role, &client, &auth, identities);
            object.insert(String::from("device"), proof);
        }
        if !auth.is_null() {
            object.insert(String::from("auth"), auth);
        }
        object.extend(self.extra.clone());
        object.retain(|key, _| !self.omit.contains(key));
        params
    }

    #[expect(clippy::too_many_arguments, reason = "each is one field of the signed text")]
    fn proof(
        &self,
        name: &str,
        proto: Proto,
        nonce: Option<&str>,
        role: &str,
        client: &Map<String, Value>,
        auth: &Value,
        identities: &Identities,
    ) -> Value {
        let identity = identities.get(name);
        let tamper = &self.tamper;
        let signed_at = wall_ms() + tamper.signed_at_offset_ms;
        let nonce = if tamper.nonce.as_deref() == Some("wrong") { Some("not-the-nonce") } else { nonce };
        let version = self.payload_version.as_deref().unwrap_or(proto.payload_version());
        let field = |key: &str| client.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let secret = [&auth["deviceToken"], &auth["token"], &auth["bootstrapToken"]]
            .into_iter()
            .find_map(Value::as_str)
            .unwrap_or("");
        let mut parts = vec![
            version.to_owned(),
            identity.id.clone(),
            field("id"),
            field("mode"),
            role.to_owned(),
            self.scopes.join(","),
            signed_at.to_string(),
            secret.to_owned(),
        ];
        if version != "v1" {
            parts.push(nonce.unwrap_or("").to_owned());
        }
        if version == "v3" {
            parts.push(field("platform").trim().to_ascii_lowercase());
            parts.push(field("deviceFamily").trim().to_ascii_lowercase());
        }
        let signature = match tamper.signature.as_deref() {
            Some("bad") => identity.sign("something else"),
            Some("garbage") => String::from("!!not-base64!!"),
            _ => identity.sign(&parts.join("|")),
        };
        let mut proof = json!({
            "id": tamper.id.as_ref().unwrap_or(&identity.id),
            "publicKey": tamper.public_key.as_ref().unwrap_or(&identity.public_key),
            "signature": signature, "signedAt": signed_at, "nonce": nonce,
        });
        if tamper.nonce.as_deref() == Some("omit") || nonce.is_none() {
            proof.as_object_mut().expect("made as an object above").remove("nonce");
        }
        proof
    }
}

/// Milliseconds since 1970 by the machine's clock.
pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970");
    i64::try_from(since.as_millis()).expect("this century fits")
}
