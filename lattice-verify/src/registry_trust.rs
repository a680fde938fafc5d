//! Which keys are trusted for which registry. A registry that nothing here names is never contacted.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    str::FromStr,
};

use crate::TrustedKey;

/// Why a text is not a registry's host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("registry {0:?} is not `host` or `host:port`: no scheme, path or wildcard, and lower case letters only")]
pub struct InvalidRegistry(String);

/// `host` or `host:port`, as in an image reference. Compared byte by byte: no suffix, no pattern, no default port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryHost(String);

impl FromStr for RegistryHost {
    type Err = InvalidRegistry;

    /// # Errors
    /// When the text is not a host name, IPv4 address or bracketed IPv6 address, with or without a port.
    fn from_str(text: &str) -> Result<Self, InvalidRegistry> {
        let invalid = || InvalidRegistry(crate::simple_signing::shorten(text));
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or_else(invalid)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?;
                (
                    None,
                    if rest.is_empty() {
                        None
                    } else {
                        Some(rest.strip_prefix(':').ok_or_else(invalid)?)
                    },
                )
            }
            None => match text.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(text), None),
            },
        };
        if let Some(port) = port {
            // `parse` alone would let "+443" and "0443" through, which would then match no reference.
            let number: u16 = port.parse().map_err(|_| invalid())?;
            if number == 0 || number.to_string() != port {
                return Err(invalid());
            }
        }
        let label_is_valid = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if host.is_some_and(|host| host.len() > 253 || !host.split('.').all(label_is_valid)) {
            return Err(invalid());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The keys of every registry that a TrustPolicy names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryTrust {
    keys: BTreeMap<RegistryHost, Vec<TrustedKey>>,
}

impl RegistryTrust {
    /// Adds keys for a registry. Several TrustPolicies for one registry add up: a signature by any of their keys counts.
    pub fn trust(&mut self, registry: RegistryHost, keys: impl IntoIterator<Item = TrustedKey>) {
        let trusted = match self.keys.entry(registry) {
            Entry::Vacant(entry) => entry.insert(Vec::new()),
            Entry::Occupied(entry) => entry.into_mut(),
        };
        for key in keys {
            if !trusted.contains(&key) {
                trusted.push(key);
            }
        }
    }

    /// The keys for exactly this `host` or `host:port`; `None` where no TrustPolicy names it, and then nobody may contact it.
    pub fn keys_for(&self, registry: &str) -> Option<&[TrustedKey]> {
        let registry = RegistryHost::from_str(registry).ok()?;
        self.keys.get(&registry).map(Vec::as_slice)
    }

    /// The registries that may be contacted, in order.
    pub fn registries(&self) -> impl Iterator<Item = &RegistryHost> {
        self.keys.keys()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> TrustedKey {
        TrustedKey::from_pem("k", include_str!("../tests/vectors/one.pub")).unwrap()
    }

    #[track_caller]
    fn check(text: &str, valid: bool) {
        assert_eq!(text.parse::<RegistryHost>().is_ok(), valid, "{text:?}");
    }

    #[test]
    fn a_registry_is_a_host_and_perhaps_a_port() {
        for text in [
            "registry.example.com",
            "localhost",
            "127.0.0.1:5000",
            "[::1]:5000",
            "[::1]",
            "a-b.c:65535",
        ] {
            check(text, true);
        }
        for text in [
            "",
            "https://r.example.com",
            "r.example.com/",
            "r/p",
            "*.example.com",
            "R.example.com",
            "r.example.com:",
            "r:0",
            "r:65536",
            "r:+443",
            "r:0443",
            "r:4:4",
            "-r",
            "r-",
            "r..c",
            "[::1",
            "[::1]5",
            "[x]",
            "r example",
            "user@r",
            "r.",
        ] {
            check(text, false);
        }
        check(&"a".repeat(64), false);
    }

    #[test]
    fn only_the_exact_name_matches() {
        let mut trust = RegistryTrust::default();
        trust.trust("registry.example.com".parse().unwrap(), [key()]);
        trust.trust("127.0.0.1:5000".parse().unwrap(), [key(), key()]);
        assert_eq!(trust.keys_for("127.0.0.1:5000").map(<[_]>::len), Some(1));
        assert!(trust.keys_for("registry.example.com").is_some());
        for other in [
            "example.com",
            "registry.example.com:443",
            "registry.example.com.attacker.net",
            "xregistry.example.com",
            "REGISTRY.example.com",
            "127.0.0.1",
            "127.0.0.1:5001",
            "localhost:5000",
            "",
        ] {
            assert!(trust.keys_for(other).is_none(), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            if let Ok(host) = text.parse::<RegistryHost>() {
                prop_assert_eq!(host.to_string(), text);
            }
        }
    }
}
