//! `lattice-agent health`: asks the running agent, for who cannot speak HTTP over a Unix socket: a kubelet's exec probe.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use lattice_agent::admin::AdminAddress;

use crate::cli::Health;

/// The agent answers from memory.
const LIMIT: Duration = Duration::from_secs(5);
/// A list of conditions is far shorter.
const ANSWER_BYTES: u64 = 1 << 20;
/// Exit code where the agent says that it is not well.
const NOT_WELL: u8 = 1;

/// Prints what the agent says of itself.
///
/// # Errors
/// Where it does not answer.
pub(crate) fn run(settings: &Health) -> Result<ExitCode> {
    let path = if settings.ready { "/readyz" } else { "/healthz" };
    let answer = ask(&settings.admin, path).with_context(|| format!("no agent answers at {}", settings.admin))?;
    let (status, body) = read_answer(&answer)?;
    print!("{body}");
    Ok(match status {
        200 => ExitCode::SUCCESS,
        _ => ExitCode::from(NOT_WELL),
    })
}

fn ask(address: &AdminAddress, path: &str) -> io::Result<String> {
    match address {
        AdminAddress::Unix(socket) => {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            exchange(stream, path)
        }
        AdminAddress::Loopback(address) => {
            let stream = TcpStream::connect_timeout(address, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            exchange(stream, path)
        }
    }
}

fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    // In HTTP/1.0 the body ends with the connection, in no other form.
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

fn read_answer(answer: &str) -> Result<(u16, &str)> {
    let status = answer
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let (Some(status), Some((_, body))) = (status, answer.split_once("\r\n\r\n")) else {
        bail!("what answers there does not speak HTTP");
    };
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let answer = "HTTP/1.0 503 Service Unavailable\r\ncontent-type: text/plain\r\n\r\nspool: full\n";
        assert_eq!(read_answer(answer).unwrap(), (503, "spool: full\n"));
        for foreign in ["", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 xyz\r\n\r\n"] {
            assert!(read_answer(foreign).is_err(), "{foreign:?}");
        }
    }
}
