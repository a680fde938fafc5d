//! Plain HTTP/1.1 on the loopback: to the registry, and to the service.
//!
//! Written out here, since a client library would make everybody wait for its TLS and its runtime before the first
//! `cargo xtask` of a fresh checkout.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

const LIMIT: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: u64 = 64 << 10;
const MAX_BODY_BYTES: u64 = 16 << 20;

/// An answer, whatever its status.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    pub(super) body: String,
}

/// # Errors
///
/// Where nobody answers, or not in HTTP.
pub(super) fn get(url: &str, accept: &str) -> Result<Answer> {
    ask("GET", url, &format!("Accept: {accept}\r\n"), &[])
}

/// # Errors
///
/// Where nobody answers, or not in HTTP.
pub(super) fn post(url: &str, body: &[u8]) -> Result<Answer> {
    ask("POST", url, "", body)
}

/// # Errors
///
/// Where nobody answers, or not in HTTP.
pub(super) fn put(url: &str, media_type: &str, body: &[u8]) -> Result<Answer> {
    ask("PUT", url, &format!("Content-Type: {media_type}\r\n"), body)
}

fn ask(method: &str, url: &str, headers: &str, body: &[u8]) -> Result<Answer> {
    let what = || format!("{method} {url}");
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| anyhow!("{url} is not of http"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).with_context(what)?;
    stream.set_read_timeout(Some(LIMIT)).with_context(what)?;
    stream.set_write_timeout(Some(LIMIT)).with_context(what)?;
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).with_context(what)?;
    stream.write_all(body).with_context(what)?;
    read_answer(BufReader::new(stream)).with_context(what)
}

fn read_answer(reader: impl BufRead) -> Result<Answer> {
    let mut head = reader.take(MAX_HEAD_BYTES);
    let mut line = String::new();
    head.read_line(&mut line).context("cannot read the answer")?;
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.trim().parse().ok())
        .ok_or_else(|| anyhow!("`{}` is no answer of HTTP/1.1", line.trim()))?;
    let (mut location, mut body_bytes) = (None, 0_u64);
    loop {
        line.clear();
        head.read_line(&mut line).context("cannot read the answer")?;
        if !line.ends_with('\n') {
            bail!("the answer ends within its head");
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "location" => location = Some(value.trim().to_owned()),
            "content-length" => body_bytes = value.trim().parse().context("Content-Length is no number")?,
            "transfer-encoding" => bail!("the answer comes in a transfer encoding that was not asked for"),
            _ => {}
        }
    }
    if body_bytes > MAX_BODY_BYTES {
        bail!("the answer has {body_bytes} bytes");
    }
    let mut body = Vec::new();
    head.into_inner()
        .take(body_bytes)
        .read_to_end(&mut body)
        .context("cannot read the answer")?;
    if body.len() as u64 != body_bytes {
        bail!("the answer ends after {} of {body_bytes} bytes", body.len());
    }
    Ok(Answer {
        status,
        location,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(u16, &str), &str>) {
        let answer = read_answer(text.as_bytes());
        match (answer, expected) {
            (Ok(answer), Ok((status, body))) => assert_eq!((answer.status, answer.body.as_str()), (status, body)),
            (Err(error), Err(part)) => assert!(format!("{error:#}").contains(part), "{error:#}"),
            (answer, expected) => panic!("{text:?}: {answer:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ok((200, "ok")));
        check("HTTP/1.1 202 Accepted\r\nLocation: /x\r\n\r\n", Ok((202, "")));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", Err("after 2 of 3"));
        check("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok", Err("no number"));
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            Err("has 99999999999 bytes"),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err("transfer encoding"),
        );
        check("HTTP/1.1 200 OK\r\nContent-Le", Err("within its head"));
        check("SSH-2.0-x\r\n", Err("no answer of HTTP"));
        check("", Err("no answer of HTTP"));
    }
}
