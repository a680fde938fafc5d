//! Registry tokens: the challenge, and the answer of a token service (distribution spec, "token authentication").

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::endpoint::Credentials;

/// Bytes of a token service's answer.
pub(crate) const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Where the answer names none (the specification says 60 seconds).
pub(crate) const LIFETIME_DEFAULT: Duration = Duration::from_secs(60);
const LIFETIME_MAX: Duration = Duration::from_secs(300);
/// A token is given up before the registry does.
const MARGIN: Duration = Duration::from_secs(10);

/// What a 401 asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// Reads a `WWW-Authenticate` header.
pub(crate) fn parse_challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    let mut rest = rest.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

pub(crate) fn basic(credentials: &Credentials) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{}:{}", credentials.username, credentials.password))
    )
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// The `Authorization` header and how long it holds.
pub(crate) fn parse_answer(body: &[u8]) -> Option<(String, Duration)> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()))?;
    let lifetime = answer
        .expires_in
        .map_or(LIFETIME_DEFAULT, Duration::from_secs)
        .min(LIFETIME_MAX);
    Some((format!("Bearer {token}"), lifetime.saturating_sub(MARGIN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, expected: Option<(&str, Option<&str>)>) {
        let expected = expected.map(|(realm, service)| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        });
        assert_eq!(parse_challenge(header), expected, "{header}");
    }

    #[test]
    fn challenges() {
        check(
            "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a:pull,push\"",
            Some(("https://auth.docker.io/token", Some("registry.docker.io"))),
        );
        check(
            "bearer service=x, realm=\"https://a/\"",
            Some(("https://a/", Some("x"))),
        );
        check("Bearer service=\"x\"", None);
        check("Bearer realm=\"x", None);
        check("Negotiate", None);
        assert_eq!(parse_challenge("Basic realm=\"x\""), Some(Challenge::Basic));
    }

    #[test]
    fn answers() {
        let answer = parse_answer(b"{\"token\":\"abc\",\"expires_in\":100}").unwrap();
        assert_eq!(answer, ("Bearer abc".to_owned(), Duration::from_secs(90)));
        assert!(parse_answer(b"{\"access_token\":\"abc\"}").is_some());
        assert!(parse_answer(b"{\"token\":\"a\\nb\"}").is_none());
        assert!(parse_answer(b"{}").is_none());
    }
}
