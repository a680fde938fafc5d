//! Against what cosign 3.1.3 wrote: `signed-by-both` carries two signatures (keys one and two), `signed-by-one` one.

use lattice_policy::ImageDigest;
use lattice_verify::{
    InvalidPayload, Refusal, Rejection, SIGNATURE_ANNOTATION, SIMPLE_SIGNING_MEDIA_TYPE, SignatureObject, TrustedKey,
    verify_signatures,
};
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

const BOTH: &str = "sha256:d04dac70402f11b2bad03aea965b4242b959fb3041a23fd53e08beecbcc8e956";
const ONE: &str = "sha256:294cb5127135d62cf3ad69d9c79e52c2d24170ebeea6d6b0fccb11db63c6c93e";

fn key(name: &str) -> TrustedKey {
    let pem = match name {
        "one" => include_str!("vectors/one.pub"),
        _ => include_str!("vectors/two.pub"),
    };
    TrustedKey::from_pem(name, pem).unwrap()
}

/// The layers of a manifest that cosign wrote, with their payload, whose digest is held against the descriptor.
fn objects(manifest: &str, payload: &[u8]) -> Vec<SignatureObject> {
    let manifest: Value = serde_json::from_str(manifest).unwrap();
    let payload_digest = format!("sha256:{:x}", Sha256::digest(payload));
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| {
            assert_eq!(layer["digest"], payload_digest.as_str());
            SignatureObject {
                media_type: layer["mediaType"].as_str().unwrap().to_owned(),
                annotations: serde_json::from_value(layer["annotations"].clone()).unwrap(),
                payload: payload.to_vec(),
            }
        })
        .collect()
}

fn signed_by_both() -> Vec<SignatureObject> {
    objects(
        include_str!("vectors/signed-by-both.sig.json"),
        include_bytes!("vectors/signed-by-both.payload.json"),
    )
}

fn signed_by_one() -> Vec<SignatureObject> {
    objects(
        include_str!("vectors/signed-by-one.sig.json"),
        include_bytes!("vectors/signed-by-one.payload.json"),
    )
}

fn digest(text: &str) -> ImageDigest {
    text.parse().unwrap()
}

/// The refusal of the objects, which must name the wanted digest and what to do.
#[track_caller]
fn refused(image: &str, objects: &[SignatureObject], keys: &[TrustedKey], expected: &str) -> Refusal {
    let facts = verify_signatures(digest(image), objects, keys);
    assert!(!facts.is_signed(), "{facts:?}");
    assert!(facts.signers.is_empty());
    let refusal = facts.refusal(keys).unwrap();
    let text = refusal.to_string();
    assert!(text.contains(expected), "{text}");
    assert!(text.contains(image), "{text}");
    refusal
}

#[test]
fn every_signer_is_named() {
    let keys = [key("two"), key("one")];
    let facts = verify_signatures(digest(BOTH), &signed_by_both(), &keys);
    assert_eq!(facts.signers, ["one", "two"]);
    assert_eq!(facts.examined[0].outcome, Ok(vec!["one".to_owned()]));
    assert_eq!(facts.examined[1].outcome, Ok(vec!["two".to_owned()]));
    assert_eq!(facts.refusal(&keys), None);
}

#[test]
fn one_trusted_signature_beside_a_foreign_one_is_enough() {
    let facts = verify_signatures(digest(BOTH), &signed_by_both(), &[key("two")]);
    assert_eq!(facts.signers, ["two"]);
    assert_eq!(facts.examined[0].outcome, Err(Rejection::OtherKey));
}

#[test]
fn an_image_without_signature_is_refused() {
    let refusal = refused(ONE, &[], &[key("one")], "cosign sign --key");
    assert_eq!(
        refusal,
        Refusal::Unsigned {
            image_digest: digest(ONE)
        }
    );
}

#[test]
fn a_signature_by_another_key_is_refused() {
    let refusal = refused(
        ONE,
        &signed_by_one(),
        &[key("two")],
        "signed, but by another key than two",
    );
    assert!(matches!(refusal, Refusal::OtherKey { examined: 1, .. }));
    refused(ONE, &signed_by_one(), &[], "by another key than");
}

#[test]
fn a_signature_of_another_image_is_refused() {
    let refusal = refused(
        BOTH,
        &signed_by_one(),
        &[key("one")],
        "a trusted key signed another image",
    );
    assert_eq!(
        refusal,
        Refusal::OtherDigest {
            image_digest: digest(BOTH),
            found: ONE.to_owned()
        }
    );
    // Of another image *and* by nobody: the payload is not even read.
    refused(BOTH, &signed_by_one(), &[key("two")], "another key");
}

#[test]
fn another_images_signature_does_not_spoil_the_right_one() {
    let mut objects = signed_by_one();
    objects.extend(signed_by_both());
    let facts = verify_signatures(digest(BOTH), &objects, &[key("one")]);
    assert_eq!(facts.signers, ["one"]);
    let rejected = InvalidPayload::OtherDigest { found: ONE.to_owned() };
    assert_eq!(facts.examined[0].outcome, Err(Rejection::Payload(rejected)));
}

#[test]
fn an_attestation_is_no_signature() {
    let mut objects = signed_by_one();
    objects[0].media_type = "application/vnd.dsse.envelope.v1+json".to_owned();
    refused(ONE, &objects, &[key("one")], "which is not an image signature");
}

#[test]
fn what_cannot_be_read_is_refused() {
    let with = |annotation: Option<&str>| {
        let mut objects = signed_by_one();
        objects[0].annotations.clear();
        if let Some(value) = annotation {
            objects[0]
                .annotations
                .insert(SIGNATURE_ANNOTATION.to_owned(), value.to_owned());
        }
        objects
    };
    refused(ONE, &with(None), &[key("one")], "has no annotation");
    refused(ONE, &with(Some("%%%")), &[key("one")], "no ECDSA signature in base64");
    refused(ONE, &with(Some("")), &[key("one")], "not an ASN.1 pair");
    refused(ONE, &with(Some("MAYCAQACAQA=")), &[key("one")], "not an ASN.1 pair"); // (0, 0)
    refused(
        ONE,
        &with(Some(&"A".repeat(1 << 20))),
        &[key("one")],
        "1048576 characters are too many",
    );
    let mut objects = signed_by_one();
    objects[0].payload = vec![b' '; 100_000];
    refused(ONE, &objects, &[key("one")], "100000 bytes");
}

#[test]
fn signatures_beyond_the_limit_are_not_looked_at() {
    let mut objects = vec![signed_by_one()[0].clone(); 129];
    for object in &mut objects[..128] {
        object.annotations.clear();
    }
    let facts = verify_signatures(digest(ONE), &objects, &[key("one")]);
    assert!(!facts.is_signed());
    assert_eq!(facts.examined[128].outcome, Err(Rejection::TooMany));
}

#[test]
fn every_changed_byte_of_the_payload_breaks_the_signature() {
    let good = &signed_by_one()[0];
    for position in 0..good.payload.len() {
        for bit in 0..8 {
            let mut object = good.clone();
            object.payload[position] ^= 1 << bit;
            let facts = verify_signatures(digest(ONE), &[object], &[key("one")]);
            assert_eq!(
                facts.examined[0].outcome,
                Err(Rejection::OtherKey),
                "byte {position}, bit {bit}"
            );
        }
    }
}

#[test]
fn every_changed_character_of_the_signature_breaks_it() {
    let good = &signed_by_one()[0];
    let signature = &good.annotations[SIGNATURE_ANNOTATION];
    for position in 0..signature.len() {
        for bit in 0..7 {
            let mut changed = signature.clone().into_bytes();
            changed[position] ^= 1 << bit;
            let mut object = good.clone();
            object
                .annotations
                .insert(SIGNATURE_ANNOTATION.to_owned(), String::from_utf8(changed).unwrap());
            let facts = verify_signatures(digest(ONE), &[object], &[key("one")]);
            assert!(!facts.is_signed(), "character {position}, bit {bit}");
        }
    }
}

#[test]
fn every_shortened_payload_breaks_the_signature() {
    let good = &signed_by_one()[0];
    for length in 0..good.payload.len() {
        let mut object = good.clone();
        object.payload.truncate(length);
        assert!(
            !verify_signatures(digest(ONE), &[object], &[key("one")]).is_signed(),
            "{length} bytes"
        );
    }
}

proptest! {
    #[test]
    fn nothing_made_up_is_a_signature(annotation in ".{0,120}", der: Vec<u8>, payload: Vec<u8>) {
        use base64::Engine;
        for value in [annotation, base64::engine::general_purpose::STANDARD.encode(&der)] {
            let object = SignatureObject {
                media_type: SIMPLE_SIGNING_MEDIA_TYPE.to_owned(),
                annotations: [(SIGNATURE_ANNOTATION.to_owned(), value)].into(),
                payload: payload.clone(),
            };
            prop_assert!(!verify_signatures(digest(ONE), &[object], &[key("one"), key("two")]).is_signed());
        }
    }
}
