//! The simple-signing payload: the bytes that cosign signs for an image (cosign's specs/SIGNATURE_SPEC.md).
//!
//! Read only after a trusted key's signature over it held, and strictly even then: two readers must not see two meanings.

use std::{collections::HashSet, fmt};

use lattice_policy::ImageDigest;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};

/// Media type of the layers of a `.sig` manifest that are signatures. Anything else there, an attestation say, is none.
pub const SIMPLE_SIGNING_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A payload has a few hundred bytes; annotations may add some.
pub const PAYLOAD_BYTES_MAXIMUM: usize = 64 * 1024;

/// The only `critical.type` that speaks of a container image.
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// What is wrong with a signed payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPayload {
    /// Longer than any payload.
    #[error("the payload has {bytes} bytes, more than {PAYLOAD_BYTES_MAXIMUM}")]
    TooLarge {
        /// Length of the payload.
        bytes: usize,
    },
    /// Not JSON, a key twice, a critical field that nobody knows, a missing one.
    #[error("the payload is not a simple-signing document: {reason}")]
    Malformed {
        /// What the parser said.
        reason: String,
    },
    /// Signed for another purpose.
    #[error("critical.type is {found:?}, not {PAYLOAD_TYPE:?}")]
    Type {
        /// The type that the payload names.
        found: String,
    },
    /// A good signature, of another image.
    #[error("critical.image.docker-manifest-digest is {found:?}: the signature is another image's")]
    OtherDigest {
        /// The digest that the payload names.
        found: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Critical,
    #[serde(default, rename = "optional")]
    _optional: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    /// The specification says that verifiers ignore it: an image may be copied to another repository.
    #[serde(rename = "identity")]
    _identity: serde::de::IgnoredAny,
    image: CriticalImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CriticalImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Reads the payload and holds it against the image.
///
/// # Errors
/// When the payload is too large, not exactly a simple-signing document, of another type, or names another digest.
pub(crate) fn check_payload(payload: &[u8], image_digest: &ImageDigest) -> Result<(), InvalidPayload> {
    if payload.len() > PAYLOAD_BYTES_MAXIMUM {
        return Err(InvalidPayload::TooLarge { bytes: payload.len() });
    }
    let malformed = |error: serde_json::Error| InvalidPayload::Malformed {
        reason: shorten(&error.to_string()),
    };
    serde_json::from_slice::<UniqueKeys>(payload).map_err(malformed)?;
    let Payload { critical, .. } = serde_json::from_slice(payload).map_err(malformed)?;
    if critical.kind != PAYLOAD_TYPE {
        return Err(InvalidPayload::Type {
            found: shorten(&critical.kind),
        });
    }
    if critical.image.digest != image_digest.to_string() {
        return Err(InvalidPayload::OtherDigest {
            found: shorten(&critical.image.digest),
        });
    }
    Ok(())
}

/// Foreign text, short enough for a message.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(160).collect()
}

/// Any JSON value in which no object has a key twice. (serde refuses that for fields it knows, not below ignored ones.)
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> DeserializeSeed<'de> for UniqueKeys {
    type Value = Self;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without repeated keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if let Some(repeated) = seen.replace(key) {
                return Err(A::Error::custom(format!(
                    "the key {:?} stands there twice",
                    shorten(&repeated)
                )));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self, A::Error> {
        while sequence.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn payload(digest: &str, kind: &str, optional: &str) -> String {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"r/p"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":{optional}}}"#
        )
    }

    #[track_caller]
    fn check(payload: &str, expected: Result<(), &str>) {
        let found = check_payload(payload.as_bytes(), &DIGEST.parse().unwrap()).map_err(|error| error.to_string());
        match (&found, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) if error.contains(part) => {}
            _ => panic!("{payload}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn reads_the_documented_form() {
        check(&payload(DIGEST, PAYLOAD_TYPE, "null"), Ok(()));
        check(
            &payload(
                DIGEST,
                PAYLOAD_TYPE,
                r#"{"creator":"x","list":[1,-2,0.5,true,null,"s"]}"#,
            ),
            Ok(()),
        );
        check(
            &payload(DIGEST, PAYLOAD_TYPE, "null").replace(r#","optional":null"#, ""),
            Ok(()),
        );
    }

    #[test]
    fn refuses_another_meaning() {
        let good = payload(DIGEST, PAYLOAD_TYPE, "null");
        check(
            &payload(DIGEST, "atomic container signature", "null"),
            Err("critical.type is \"atomic"),
        );
        check(
            &payload(&DIGEST.to_uppercase(), PAYLOAD_TYPE, "null"),
            Err("another image's"),
        );
        check(&payload(&DIGEST[7..], PAYLOAD_TYPE, "null"), Err("another image's"));
        check(
            &payload(&format!(" {DIGEST}"), PAYLOAD_TYPE, "null"),
            Err("another image's"),
        );
        check(&good.replace(r#""type""#, r#""kind""#), Err("unknown field `kind`"));
        check(
            &good.replace(r#""image""#, r#""must-understand":1,"image""#),
            Err("unknown field `must-understand`"),
        );
        check(
            &good.replace(r#","type":"cosign container image signature""#, ""),
            Err("missing field `type`"),
        );
        check(&format!("{good}{good}"), Err("trailing"));
        check("", Err("EOF"));
        check("[]", Err("not a simple-signing document"));
        check(
            &payload(DIGEST, PAYLOAD_TYPE, &format!("\"{}\"", "x".repeat(70_000))),
            Err("more than 65536"),
        );
        check(
            &payload(DIGEST, PAYLOAD_TYPE, &"[".repeat(60_000)),
            Err("recursion limit"),
        );
    }

    #[test]
    fn refuses_a_key_that_stands_there_twice() {
        let good = payload(DIGEST, PAYLOAD_TYPE, "null");
        let other = DIGEST.replace('9', "8");
        check(
            &good.replace(
                r#"{"docker-manifest"#,
                &format!(r#"{{"docker-manifest-digest":"{other}","docker-manifest"#),
            ),
            Err("twice"),
        );
        check(
            &payload(DIGEST, PAYLOAD_TYPE, r#"{"a":[{"b":1,"b":2}]}"#),
            Err("the key \"b\" stands there twice"),
        );
        // The same key, written with an escape.
        check(
            &payload(DIGEST, PAYLOAD_TYPE, r#"{"a":1,"\u0061":2}"#),
            Err("the key \"a\" stands there twice"),
        );
    }
}
