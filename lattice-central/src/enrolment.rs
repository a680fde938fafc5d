//! Whether an agent that asks for a certificate is the agent of the node that it names. Pure: what the API server said of the token is
//! an argument.
//!
//! ```text
//!   token ─► TokenReview ─► Review ─┐
//!   node that the agent names ──────┴─► decide ─► this node's agent, or a Refusal
//! ```
//!
//! A kubelet gets tokens of a service account only for pods that are bound to its own node (NodeRestriction), and the API server writes that node
//! into the token. So who has a node's kubelet can be that node's agent, and no other's.

mod rate;

use std::collections::BTreeMap;

pub use rate::Rates;

use crate::identity::is_node_name;

/// For whom a token must be made, so that no token for the API server or for somebody else's service is one for central.
pub const AUDIENCE: &str = "lattice-central";
/// A token of Kubernetes has about 1.2 KiB.
pub const TOKEN_BYTES_MAXIMUM: usize = 8 * 1024;

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceAccount {
    fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for ServiceAccount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if is_node_name(namespace) && is_node_name(name) => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(format!("{text:?} is not NAMESPACE/NAME of a service account")),
        }
    }
}

/// What the API server says of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Review {
    /// Whether it is one that holds, for one of the audiences that were asked for.
    pub authenticated: bool,
    /// Those of them that it is for.
    pub audiences: Vec<String>,
    /// Whose it is.
    pub username: String,
    /// What else it says.
    pub extra: BTreeMap<String, Vec<String>>,
    /// Why it does not hold.
    pub error: String,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too large, or not in the form.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// The API server does not take the token: it has ended, was made for another audience or another cluster, or its pod is gone.
    #[error("the API server does not take the token for the audience {AUDIENCE:?}: {0}")]
    Token(String),
    /// It is somebody else's.
    #[error("the token is of {0:?}, which is not the agent's service account")]
    OtherAccount(String),
    /// It names no pod or no node.
    #[error(
        "the token is not bound to a pod on a node; it must come from a projected volume of the agent's pod, on Kubernetes 1.30 or later"
    )]
    NotBound,
    /// It is bound to another node.
    #[error("the token is bound to node {bound:?}, and the agent says that it is on {claimed:?}")]
    OtherNode {
        /// That of the token.
        bound: String,
        /// That of the request.
        claimed: String,
    },
    /// It asks too often.
    #[error("too many requests from this address")]
    TooOften,
}

impl Refusal {
    /// Every reason, one word each, as counters have them.
    pub const REASONS: [&str; 6] = [
        "malformed",
        "token",
        "other_account",
        "not_bound",
        "other_node",
        "too_often",
    ];

    /// The word for this one.
    pub fn reason(&self) -> &'static str {
        Self::REASONS[self.index()]
    }

    /// Where it stands among the reasons.
    pub fn index(&self) -> usize {
        match self {
            Self::Malformed(_) => 0,
            Self::Token(_) => 1,
            Self::OtherAccount(_) => 2,
            Self::NotBound => 3,
            Self::OtherNode { .. } => 4,
            Self::TooOften => 5,
        }
    }
}

/// What can be said of a request before anybody is asked.
///
/// # Errors
/// When something in it is too large, absent or not in the form.
pub fn check_form(node: &str, token: &str) -> Result<(), Refusal> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'=');
    if !is_node_name(node) {
        return Err(Refusal::Malformed("node is no name of a node"));
    }
    if token.is_empty() || token.len() > TOKEN_BYTES_MAXIMUM || !token.bytes().all(is_token) {
        return Err(Refusal::Malformed("token is empty, too large or no token"));
    }
    Ok(())
}

/// The node whose agent asks.
///
/// # Errors
/// When the token is not one of the agent's on the node that was named.
pub fn decide(review: &Review, agents: &ServiceAccount, claimed: &str) -> Result<String, Refusal> {
    if !review.authenticated {
        return Err(Refusal::Token(review.error.chars().take(512).collect()));
    }
    // A server that does not know audiences leaves them out, and would let any token of the account pass.
    if !review.audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(Refusal::Token("it is for another audience".to_owned()));
    }
    if review.username != agents.username() {
        return Err(Refusal::OtherAccount(review.username.chars().take(512).collect()));
    }
    let only = |key: &str| match review.extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    let (Some(_), Some(bound)) = (only(POD_NAME), only(NODE_NAME)) else {
        return Err(Refusal::NotBound);
    };
    if bound != claimed {
        return Err(Refusal::OtherNode {
            bound,
            claimed: claimed.to_owned(),
        });
    }
    if !is_node_name(&bound) {
        return Err(Refusal::Malformed("node is no name of a node"));
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents() -> ServiceAccount {
        "lattice-system/lattice-agent".parse().unwrap()
    }

    fn good() -> Review {
        let extra = [
            (POD_NAME, "lattice-agent-x1"),
            (NODE_NAME, "worker-1"),
            ("authentication.kubernetes.io/pod-uid", "4711"),
        ];
        Review {
            authenticated: true,
            audiences: vec![AUDIENCE.to_owned()],
            username: "system:serviceaccount:lattice-system:lattice-agent".to_owned(),
            extra: extra
                .into_iter()
                .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
                .collect(),
            error: String::new(),
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Review), expected: &str) {
        let mut review = good();
        change(&mut review);
        let refusal = decide(&review, &agents(), "worker-1").expect_err("must be refused");
        assert_eq!(refusal.reason(), expected, "{refusal}");
    }

    #[test]
    fn an_agents_token_gives_the_node_that_it_is_bound_to() {
        assert_eq!(decide(&good(), &agents(), "worker-1"), Ok("worker-1".to_owned()));
    }

    #[test]
    fn no_other_token_gives_any() {
        refused(
            |review| {
                review.authenticated = false;
                review.error = "token has expired".to_owned();
            },
            "token",
        );
        refused(|review| review.audiences.clear(), "token");
        refused(
            |review| review.audiences = vec!["https://kubernetes.default.svc".to_owned()],
            "token",
        );
        for other in [
            "system:serviceaccount:lattice-system:default",
            "system:serviceaccount:other:lattice-agent",
            "system:serviceaccount:lattice-system:lattice-agent2",
            "system:node:worker-1",
            "",
        ] {
            refused(|review| review.username = other.to_owned(), "other_account");
        }
        refused(|review| drop(review.extra.remove(NODE_NAME)), "not_bound");
        // Bound to a Node object, which is no pod on it.
        refused(|review| drop(review.extra.remove(POD_NAME)), "not_bound");
        refused(
            |review| drop(review.extra.insert(NODE_NAME.to_owned(), Vec::new())),
            "not_bound",
        );
        refused(
            |review| {
                let both = vec!["worker-1".to_owned(), "worker-2".to_owned()];
                review.extra.insert(NODE_NAME.to_owned(), both);
            },
            "not_bound",
        );
        refused(
            |review| drop(review.extra.insert(NODE_NAME.to_owned(), vec!["worker-2".to_owned()])),
            "other_node",
        );
    }

    #[test]
    fn what_is_not_in_the_form_asks_nobody() {
        assert_eq!(check_form("worker-1", "a.b-c_d"), Ok(()));
        let large = "a".repeat(TOKEN_BYTES_MAXIMUM + 1);
        for (node, token) in [
            ("", "a"),
            ("Worker", "a"),
            ("worker-1", ""),
            ("worker-1", "a b"),
            ("worker-1", "a\n"),
            ("worker-1", &large),
        ] {
            let refusal = check_form(node, token).expect_err("must be refused");
            assert_eq!(refusal.reason(), "malformed", "{node:?}");
        }
    }

    #[test]
    fn an_account_is_written_with_its_namespace() {
        assert_eq!(
            agents().username(),
            "system:serviceaccount:lattice-system:lattice-agent"
        );
        for bad in ["", "a", "/a", "a/", "a/b/c", "a/B", "a:b/c"] {
            assert!(bad.parse::<ServiceAccount>().is_err(), "{bad:?}");
        }
    }
}
