//! Device identity: an Ed25519 key whose hash is the device's id, and a signature over what the client said.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};

use super::connect::ConnectParams;
use super::version::Protocol;

/// How far `signedAt` may be from now on protocol 3, whose clients sign with their own clock.
pub const SKEW_MS_MAX_V3: i64 = 10 * 60 * 1000;
/// The same on protocol 4, whose clients sign with the challenge's time.
pub const SKEW_MS_MAX_V4: i64 = 2 * 60 * 1000;
/// Length of a raw Ed25519 public key in bytes.
pub const KEY_BYTES: usize = 32;

/// Prefix of an Ed25519 key in SPKI form (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a device's proof was refused, in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofError {
    /// The id is not the hash of the key.
    IdMismatch,
    /// `signedAt` is too far from now.
    Expired,
    /// No nonce where one is needed.
    NonceRequired,
    /// Not the nonce of this socket's challenge.
    NonceMismatch,
    /// The signature does not verify.
    SignatureInvalid,
}

impl ProofError {
    /// Upstream's message.
    pub fn message(self) -> &'static str {
        match self {
            ProofError::IdMismatch => "device identity mismatch",
            ProofError::Expired => "device signature expired",
            ProofError::NonceRequired => "device nonce required",
            ProofError::NonceMismatch => "device nonce mismatch",
            ProofError::SignatureInvalid => "device signature invalid",
        }
    }

    /// `details.code` and `details.reason` of protocol 4.
    pub fn details(self) -> (&'static str, &'static str) {
        match self {
            ProofError::IdMismatch => ("DEVICE_AUTH_DEVICE_ID_MISMATCH", "device-id-mismatch"),
            ProofError::Expired => ("DEVICE_AUTH_SIGNATURE_EXPIRED", "device-signature-stale"),
            ProofError::NonceRequired => ("DEVICE_AUTH_NONCE_REQUIRED", "device-nonce-missing"),
            ProofError::NonceMismatch => ("DEVICE_AUTH_NONCE_MISMATCH", "device-nonce-mismatch"),
            ProofError::SignatureInvalid => ("DEVICE_AUTH_SIGNATURE_INVALID", "device-signature"),
        }
    }
}

/// A device whose proof was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Lower-case hexadecimal SHA-256 of the key: 64 characters.
    pub id: String,
    /// The key in base64url without padding: 43 characters.
    pub public_key: String,
}

/// The raw key in `text`: base64url or base64 of 32 bytes, or SPKI in PEM.
pub fn read_key(text: &str) -> Option<[u8; KEY_BYTES]> {
    if let Some(pem) = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----") {
        let body: String = pem.split("-----END").next().unwrap_or("").chars().filter(|c| !c.is_whitespace()).collect();
        let der = STANDARD.decode(body).ok()?;
        return der.strip_prefix(&SPKI_PREFIX)?.try_into().ok();
    }
    read_base64(text)?.try_into().ok()
}

fn read_base64(text: &str) -> Option<Vec<u8>> {
    let plain = text.trim_end_matches('=');
    URL_SAFE_NO_PAD.decode(plain).or_else(|_| STANDARD.decode(text)).ok()
}

/// The id of the device with this raw key.
pub fn id_of(key: &[u8; KEY_BYTES]) -> String {
    digest(&SHA256, key).as_ref().iter().fold(String::with_capacity(64), |mut out, byte| {
        use std::fmt::Write as _;
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Which fields a client signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadVersion {
    /// Without a nonce: local clients of protocol 3 that did not wait for the challenge.
    V1,
    /// With the nonce.
    V2,
    /// With platform and device family as well.
    V3,
}

/// The text a client signs: fields joined by `|`, nothing escaped.
pub fn payload(
    version: PayloadVersion,
    params: &ConnectParams,
    device_id: &str,
    signed_at: i64,
    nonce: &str,
) -> String {
    let scopes: Vec<&str> = params.scope_names().collect();
    let role = params.role.as_ref().map_or("operator", |role| role.0.as_str());
    let token = params.auth.as_ref().map_or("", |auth| auth.signed_token());
    let name = match version {
        PayloadVersion::V1 => "v1",
        PayloadVersion::V2 => "v2",
        PayloadVersion::V3 => "v3",
    };
    let client = &params.client;
    let mut text = format!(
        "{name}|{device_id}|{}|{}|{role}|{}|{signed_at}|{token}",
        client.id.as_str(),
        client.mode.as_str(),
        scopes.join(","),
    );
    if version != PayloadVersion::V1 {
        text.push('|');
        text.push_str(nonce);
    }
    if version == PayloadVersion::V3 {
        let fold = |text: &str| text.trim().to_ascii_lowercase();
        text.push('|');
        text.push_str(&fold(&client.platform.0));
        text.push('|');
        text.push_str(&client.device_family.as_ref().map_or_else(String::new, |family| fold(&family.0)));
    }
    text
}

/// Whether a client must have signed the nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceRule {
    /// Always.
    Required,
    /// It may be absent, with payload version 1: protocol 3 from this machine.
    MayBeAbsent,
}

/// Checks the proof in `params` against the challenge's `nonce`, at `now_ms`. `None` when no device was sent.
///
/// # Errors
/// The first check that fails, in upstream's order.
pub fn verify(
    params: &ConnectParams,
    nonce: &str,
    protocol: Protocol,
    rule: NonceRule,
    now_ms: i64,
) -> Result<Option<Device>, ProofError> {
    let Some(proof) = &params.device else { return Ok(None) };
    let key = read_key(&proof.public_key.0).ok_or(ProofError::IdMismatch)?;
    let id = id_of(&key);
    if proof.id.0 != id {
        return Err(ProofError::IdMismatch);
    }
    let skew_ms_max = if protocol == Protocol::V3 { SKEW_MS_MAX_V3 } else { SKEW_MS_MAX_V4 };
    if now_ms.abs_diff(proof.signed_at.0) > skew_ms_max.unsigned_abs() {
        return Err(ProofError::Expired);
    }
    let versions: &[PayloadVersion] = match proof.nonce.0.as_deref().map(str::trim) {
        None if rule == NonceRule::MayBeAbsent => &[PayloadVersion::V1],
        None | Some("") => return Err(ProofError::NonceRequired),
        Some(sent) if sent != nonce => return Err(ProofError::NonceMismatch),
        Some(_) => &[PayloadVersion::V3, PayloadVersion::V2],
    };
    let signature = read_base64(&proof.signature.0).ok_or(ProofError::SignatureInvalid)?;
    let verifier = UnparsedPublicKey::new(&ED25519, key);
    let signed = |version: &PayloadVersion| {
        let text = payload(*version, params, &id, proof.signed_at.0, nonce);
        verifier.verify(text.as_bytes(), &signature).is_ok()
    };
    if !versions.iter().any(signed) {
        return Err(ProofError::SignatureInvalid);
    }
    Ok(Some(Device { id, public_key: URL_SAFE_NO_PAD.encode(key) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::params::decode;
    use serde_json::{Value, json};

    const KEY: &str = "ebVWLo_mVPlAeLES6KmLp5AfhTrmlb7X4OORC60ElmQ";
    const ID: &str = "65b60673d6ed884bf01c2c222d82ada0740f29ac3355d6a925c81f17f47a27b8";
    const NONCE: &str = "6f1c2c9e-0d0b-4c43-9e53-3b1c7b0d9a11";
    const AT: i64 = 1_737_264_000_000;

    /// The contract's published test vectors, as connects.
    fn vector(signature: &str, change: impl Fn(&mut Value)) -> ConnectParams {
        let mut value = json!({
            "minProtocol": 3, "maxProtocol": 3,
            "client": {"id": "cli", "version": "1", "platform": "Linux", "mode": "cli"},
            "role": "operator",
            "scopes": ["operator.admin", "operator.approvals", "operator.pairing"],
            "auth": {"token": "secret-token"},
            "device": {"id": ID, "publicKey": KEY, "signature": signature, "signedAt": AT, "nonce": NONCE},
        });
        change(&mut value);
        // Protocol 3 requires the least.
        decode("connect", Some(&value.to_string()), Protocol::V3).unwrap()
    }

    #[test]
    fn protocol_4_does_not_read_a_proof_without_a_nonce() {
        let device = json!({"id": ID, "publicKey": KEY, "signature": V3, "signedAt": AT});
        let client = json!({"id": "cli", "version": "1", "platform": "linux", "mode": "cli"});
        let params = json!({"minProtocol": 3, "maxProtocol": 4, "client": client, "device": device}).to_string();
        let error = decode::<ConnectParams>("connect", Some(&params), Protocol::V4).unwrap_err();
        assert_eq!(error.message, "invalid connect params: at /device: must have required property 'nonce'");
        assert!(decode::<ConnectParams>("connect", Some(&params), Protocol::V3).is_ok());
    }

    const V1: &str = "uYDUk-Ip-EU1MZdplqn5SSq8cEmd86x7a_yGTt4CHQxkh4lqlDRwI_Uf9FHoxO8zHsAIMNnZuYgc_xgZ7WJXDg";
    const V2: &str = "Ihlsx1KxziQHSxQF0psgLBYERbEEBOmnbYaasQm59f0z8maE45bq2-SE69cuVSAVVMl7gxRWasbT2xplTwIwAA";
    const V3: &str = "jqYlWJfCAukhUktnB27o_vfXs2PhhmmJA6kdleRxXcF34iaBZjbxO5wdE_ZElAGQbm_qP30qYAmwtcbFvpktAQ";
    const V3_NODE: &str = "kdhGYLaFNTIiyRgyQXzCMYnOTWyHymS1KtquGTeA3NgRjnqJqfW0fuM7NfZqtSD_tZLH-QGklLawkH3OBElGCw";

    fn check(params: &ConnectParams, rule: NonceRule) -> Result<Option<Device>, ProofError> {
        verify(params, NONCE, Protocol::V4, rule, AT + 1000)
    }

    #[test]
    fn the_published_vectors_verify() {
        for signature in [V2, V3] {
            let device = check(&vector(signature, |_| {}), NonceRule::Required).unwrap().unwrap();
            assert_eq!((device.id.as_str(), device.public_key.as_str()), (ID, KEY));
        }
        let node = vector(V3_NODE, |v| {
            v["client"] = json!({"id": "node-host", "version": "1", "platform": " macOS ", "deviceFamily": "Mac", "mode": "node"});
            v["role"] = json!("node");
            v["scopes"] = json!([]);
            v["auth"] = json!({});
        });
        assert!(check(&node, NonceRule::Required).is_ok());
    }

    #[test]
    fn payload_1_counts_only_where_a_nonce_may_be_absent() {
        let without = vector(V1, |v| {
            v["device"].as_object_mut().unwrap().remove("nonce");
        });
        assert!(check(&without, NonceRule::MayBeAbsent).unwrap().is_some());
        assert_eq!(check(&without, NonceRule::Required), Err(ProofError::NonceRequired));
        // A version 1 signature beside a nonce would make the nonce worthless.
        assert_eq!(check(&vector(V1, |_| {}), NonceRule::MayBeAbsent), Err(ProofError::SignatureInvalid));
    }

    #[test]
    fn each_check_has_its_own_refusal() {
        let cases: [(&str, fn(&mut Value), ProofError); 6] = [
            ("id", |v| v["device"]["id"] = json!("ab".repeat(32)), ProofError::IdMismatch),
            ("key", |v| v["device"]["publicKey"] = json!("AAAA"), ProofError::IdMismatch),
            ("time", |v| v["device"]["signedAt"] = json!(AT - 3_600_000), ProofError::Expired),
            ("nonce", |v| v["device"]["nonce"] = json!("another"), ProofError::NonceMismatch),
            ("scopes", |v| v["scopes"] = json!(["operator.admin"]), ProofError::SignatureInvalid),
            ("signature", |v| v["device"]["signature"] = json!("!!"), ProofError::SignatureInvalid),
        ];
        for (what, change, expected) in cases {
            assert_eq!(check(&vector(V2, change), NonceRule::Required), Err(expected), "{what}");
        }
    }

    #[test]
    fn the_skew_is_bounded_by_protocol() {
        let params = vector(V2, |_| {});
        let at = |protocol, now| verify(&params, NONCE, protocol, NonceRule::Required, now).is_ok();
        assert!(at(Protocol::V4, AT + SKEW_MS_MAX_V4));
        assert!(!at(Protocol::V4, AT + SKEW_MS_MAX_V4 + 1));
        assert!(at(Protocol::V3, AT - SKEW_MS_MAX_V3));
        assert!(!at(Protocol::V3, AT - SKEW_MS_MAX_V3 - 1));
        assert!(!at(Protocol::V4, i64::MIN));
    }

    #[test]
    fn reads_a_key_in_every_accepted_form() {
        let raw = read_key(KEY).unwrap();
        let mut spki = SPKI_PREFIX.to_vec();
        spki.extend_from_slice(&raw);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&spki));
        for text in [pem, STANDARD.encode(raw), format!("{KEY}=")] {
            assert_eq!(read_key(&text), Some(raw), "{text}");
        }
        assert_eq!(read_key("AAAA"), None);
    }
}
