//! Tokens of service accounts that no API server would make: signed by the cluster's own key.

use std::fs;

use anyhow::{Context, Result, anyhow};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::{
    ecdsa::{Signature, SigningKey, signature::Signer as _},
    pkcs8::DecodePrivateKey as _,
};
use serde_json::json;

use super::{certificates::token_keys, place::Place};

/// 2001: before any cluster was made.
const ENDED: u64 = 1_000_000_000;

/// One that has ended, of a pod on the cluster's node (RFC 7515, RFC 7518 3.4).
///
/// # Errors
///
/// Where the key cannot be read.
pub(super) fn expired(place: &Place, namespace: &str, account: &str, audience: &str) -> Result<String> {
    let (private, _) = token_keys(place);
    let pem = fs::read_to_string(&private).with_context(|| format!("cannot read {}", private.display()))?;
    let key = SigningKey::from_pkcs8_pem(&pem).map_err(|error| anyhow!("the key of tokens: {error}"))?;
    let reference = json!({"name": account, "uid": "00000000-0000-0000-0000-000000000000"});
    let claims = json!({
        "iss": "https://kubernetes.default.svc",
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "aud": [audience],
        "iat": ENDED - 600, "nbf": ENDED - 600, "exp": ENDED,
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": reference,
            "pod": reference,
            "node": {"name": super::node::NODE_NAME, "uid": "00000000-0000-0000-0000-000000000000"},
        },
    });
    let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&json!({"alg": "ES256"})), encode(&claims));
    let signature: Signature = key.sign(signed.as_bytes());
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes())))
}
