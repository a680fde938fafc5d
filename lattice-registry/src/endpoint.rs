//! The registries that may be contacted, and what each of them may ask of us.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use reqwest::{Client, Url, redirect};

use crate::error::RegistryError;

/// A user name and its password or token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// Never shown.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Credentials({:?}, …)", self.username)
    }
}

/// One registry that may be contacted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryEndpoint {
    /// `host` or `host:port`, as references name it.
    pub host: String,
    /// Without TLS; loopback only.
    pub plain_http: bool,
    /// For this registry alone.
    pub credentials: Option<Credentials>,
    /// PEM certificates of the authorities that sign its certificate; empty for the system's.
    pub authorities_pem: Vec<u8>,
    /// Other hosts (`host` or `host:port`) that give tokens for it; credentials go there.
    pub token_hosts: Vec<String>,
    /// Other hosts that it may redirect blobs to; credentials never go there.
    pub blob_hosts: Vec<String>,
}

/// How long requests may take and how large answers may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLimits {
    /// To be connected.
    pub connect_timeout: Duration,
    /// Between two pieces of an answer.
    pub idle_timeout: Duration,
    /// For a manifest, configuration or signature.
    pub document_timeout: Duration,
    /// For a layer.
    pub layer_timeout: Duration,
    /// Longest wait that a registry may ask for before the request is given up.
    pub retry_wait: Duration,
    /// Tries of one request.
    pub tries: u32,
    /// Bytes of a manifest or index.
    pub manifest_bytes: u64,
    /// Bytes of an image's configuration.
    pub config_bytes: u64,
    /// Bytes of one signature's payload.
    pub signature_bytes: u64,
    /// Signatures of one image.
    pub signatures: usize,
    /// Layers of one image.
    pub layers: usize,
    /// Bytes of one compressed layer.
    pub layer_bytes: u64,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(15),
            document_timeout: Duration::from_secs(20),
            layer_timeout: Duration::from_secs(900),
            retry_wait: Duration::from_secs(5),
            tries: 3,
            manifest_bytes: 4 << 20,
            config_bytes: 4 << 20,
            signature_bytes: 64 << 10,
            signatures: 128,
            layers: 256,
            layer_bytes: 16 << 30,
        }
    }
}

/// An endpoint with its HTTP client.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) endpoint: RegistryEndpoint,
    pub(crate) client: Client,
}

impl Connection {
    pub(crate) fn new(endpoint: RegistryEndpoint, limits: &ClientLimits) -> Result<Self, RegistryError> {
        let host = endpoint.host.clone();
        if endpoint.plain_http && !is_loopback(&host) {
            return Err(RegistryError::PlainHttp { host });
        }
        let settings = |source| RegistryError::Settings {
            host: host.clone(),
            source: std::sync::Arc::new(source),
        };
        // Redirects are followed by our own rules; proxies of the environment would see credentials.
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(limits.connect_timeout)
            .read_timeout(limits.idle_timeout)
            .user_agent(concat!("lattice/", env!("CARGO_PKG_VERSION")));
        if endpoint.plain_http {
            // No system certificates are needed, and a machine without any can still speak to its own registry.
            builder = builder.tls_certs_only([]);
        } else if !endpoint.authorities_pem.is_empty() {
            let authorities = reqwest::Certificate::from_pem_bundle(&endpoint.authorities_pem).map_err(settings)?;
            builder = builder.tls_certs_only(authorities);
        }
        let client = builder.build().map_err(settings)?;
        Ok(Self { endpoint, client })
    }

    pub(crate) fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// `http(s)://host/v2/path`.
    pub(crate) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let scheme = if self.endpoint.plain_http { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{path}", self.api_host());
        Url::parse(&text).map_err(|error| RegistryError::Reference {
            reference: text,
            reason: error.to_string(),
        })
    }

    /// Docker Hub answers under another name than its references have.
    fn api_host(&self) -> &str {
        if self.endpoint.host == "docker.io" {
            "registry-1.docker.io"
        } else {
            &self.endpoint.host
        }
    }

    /// Whether a URL leads to the registry itself, or to one of `others`, and is protected as the registry is.
    pub(crate) fn leads_to(&self, url: &Url, others: &[String]) -> bool {
        let Some(host) = authority(url) else { return false };
        let same = |other: &str| {
            Url::parse(&format!("{}://{other}/", url.scheme()))
                .is_ok_and(|other| authority(&other).as_ref() == Some(&host))
        };
        let is_known = same(self.api_host()) || others.iter().any(|other| same(other));
        let is_protected =
            url.scheme() == "https" || (url.scheme() == "http" && self.endpoint.plain_http && is_loopback(&host));
        is_known && is_protected && url.username().is_empty() && url.password().is_none()
    }

    /// Whether a URL leads to the registry itself: credentials may go there.
    pub(crate) fn is_own(&self, url: &Url) -> bool {
        self.leads_to(url, &[])
    }
}

/// All connections, by the host that references name.
pub(crate) fn connections(
    endpoints: Vec<RegistryEndpoint>,
    limits: &ClientLimits,
) -> Result<BTreeMap<String, Connection>, RegistryError> {
    endpoints
        .into_iter()
        .map(|endpoint| Ok((endpoint.host.clone(), Connection::new(endpoint, limits)?)))
        .collect()
}

pub(crate) fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(
        url.port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
    )
}

/// Whether `host[:port]` is this machine by its very text; names are not resolved.
pub(crate) fn is_loopback(host: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{host}/")) else {
        return false;
    };
    let name = url
        .host_str()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_by_text() {
        for (host, expected) in [
            ("127.0.0.1:5000", true),
            ("localhost:5000", true),
            ("[::1]:5000", true),
            ("127.0.0.1.example.com", false),
            ("registry.example.com", false),
            ("10.0.0.1:5000", false),
            ("127.0.0.1@evil.example.com", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback() {
        let endpoint = RegistryEndpoint {
            host: "registry.example.com".into(),
            plain_http: true,
            ..Default::default()
        };
        let error = Connection::new(endpoint, &ClientLimits::default()).unwrap_err();
        assert!(matches!(error, RegistryError::PlainHttp { .. }), "{error}");
    }

    #[test]
    fn where_requests_may_go() {
        let endpoint = RegistryEndpoint {
            host: "127.0.0.1:5000".into(),
            plain_http: true,
            blob_hosts: vec!["cdn.example.com".into()],
            ..Default::default()
        };
        let connection = Connection::new(endpoint, &ClientLimits::default()).unwrap();
        let others = connection.endpoint.blob_hosts.clone();
        for (url, expected) in [
            ("http://127.0.0.1:5000/x", true),
            ("https://cdn.example.com/x", true),
            ("https://cdn.example.com:443/x", true),
            ("http://cdn.example.com/x", false),
            ("https://cdn.example.com:444/x", false),
            ("https://cdn.example.com.evil.example/x", false),
            ("https://user@cdn.example.com/x", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(
                connection.leads_to(&Url::parse(url).unwrap(), &others),
                expected,
                "{url}"
            );
        }
    }
}
