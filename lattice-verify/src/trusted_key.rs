//! A public key that a TrustPolicy trusts, with the name under which facts speak of it.

use std::fmt;

use p256::{
    ecdsa::{Signature, VerifyingKey, signature::Verifier},
    pkcs8::DecodePublicKey,
};

/// A PEM text longer than this is no public key; a P-256 one has about 180 bytes.
const KEY_BYTES_MAXIMUM: usize = 16 * 1024;

/// Why a text is not a key that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Longer than any public key.
    #[error("key {name}: {bytes} bytes are more than a public key has (at most {KEY_BYTES_MAXIMUM})")]
    TooLarge {
        /// The key's name.
        name: String,
        /// Length of the text.
        bytes: usize,
    },
    /// The private half was given.
    #[error(
        "key {name} is a private key: put the public one there (cosign.pub), and replace this key, since it was exposed"
    )]
    Private {
        /// The key's name.
        name: String,
    },
    /// Not PEM, not SubjectPublicKeyInfo, or another algorithm.
    #[error(
        "key {name} is no ECDSA P-256 public key in PEM form (`-----BEGIN PUBLIC KEY-----`): {reason}; \
         `cosign generate-key-pair` writes one as cosign.pub"
    )]
    NotP256 {
        /// The key's name.
        name: String,
        /// What the parser said.
        reason: String,
    },
}

/// An ECDSA P-256 public key and its name, usually `namespace/secret`. The algorithm follows from the key alone.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustedKey {
    name: String,
    key: VerifyingKey,
}

impl TrustedKey {
    /// Reads a PEM `PUBLIC KEY` (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// When the text is anything else, a private key, or a key that is not on the curve P-256.
    pub fn from_pem(name: impl Into<String>, pem: &str) -> Result<Self, InvalidKey> {
        let name = name.into();
        if pem.len() > KEY_BYTES_MAXIMUM {
            return Err(InvalidKey::TooLarge { name, bytes: pem.len() });
        }
        if pem.contains("PRIVATE KEY-----") {
            return Err(InvalidKey::Private { name });
        }
        match VerifyingKey::from_public_key_pem(pem.trim()) {
            Ok(key) => Ok(Self { name, key }),
            Err(error) => Err(InvalidKey::NotP256 {
                name,
                reason: error.to_string(),
            }),
        }
    }

    /// The name under which facts speak of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the signature was made by this key over exactly these bytes (ECDSA with SHA-256).
    pub(crate) fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        self.key.verify(message, signature).is_ok()
    }
}

impl fmt::Debug for TrustedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TrustedKey({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = include_str!("../tests/vectors/one.pub");

    #[track_caller]
    fn refused(pem: &str, expected: &str) {
        let error = TrustedKey::from_pem("keys/a", pem)
            .expect_err("must be refused")
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("keys/a"), "{error}");
    }

    #[test]
    fn reads_what_cosign_writes() {
        assert_eq!(TrustedKey::from_pem("a", ONE).unwrap().name(), "a");
        assert!(TrustedKey::from_pem("a", &ONE.replace('\n', "\r\n")).is_ok());
        assert!(TrustedKey::from_pem("a", &format!("\n{ONE}\n\n")).is_ok());
    }

    #[test]
    fn refuses_the_rest() {
        refused("", "no ECDSA P-256 public key");
        refused(&ONE[..100], "no ECDSA P-256 public key");
        refused(&"x".repeat(20_000), "20000 bytes");
        refused("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "is a private key");
        // Ed25519 (RFC 8410, section 10.1): a good key of another algorithm.
        refused(
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
            "no ECDSA P-256 public key",
        );
    }

    #[test]
    fn refuses_a_point_off_the_curve() {
        // The last base64 quantum holds the end of the y coordinate.
        refused(&ONE.replace("JIyfQ==", "JIyfA=="), "no ECDSA P-256 public key");
    }
}
