//! The demo's payment service: a small HTTP server with two holes that real services have had.
//!
//! * `GET /healthz`: what a probe asks.
//! * `POST /convert`, the first hole: the body goes to a shell, as where a file name is pasted into a command line.
//! * `POST /upload?path=/tmp/x`, the second hole: the body becomes any file, executable, as where an upload's name is trusted.
//!
//! It listens on $LISTEN. Standard library only, so that the compiler alone builds it.
#![forbid(unsafe_code)]

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

const MAX_BODY_BYTES: u64 = 64 << 20;
const MAX_LINE_BYTES: u64 = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> io::Result<()> {
    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&address)?;
    println!("payment-service listens on {address}");
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            if let Err(error) = serve(&stream) {
                eprintln!("request failed: {error}");
            }
        });
    }
    Ok(())
}

fn serve(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let request = read_line(&mut reader)?;
    let mut body_bytes = 0;
    loop {
        let line = read_line(&mut reader)?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            body_bytes = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = Vec::new();
    reader.take(body_bytes.min(MAX_BODY_BYTES)).read_to_end(&mut body)?;
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, text) = match (method, target.split_once("?path=").map_or((target, ""), |parts| parts)) {
        ("GET", ("/healthz", _)) => ("200 OK", "ok\n".to_owned()),
        ("POST", ("/convert", _)) => ("200 OK", convert(&body)),
        ("POST", ("/upload", path)) => match upload(path, &body) {
            Ok(()) => ("200 OK", format!("wrote {path}\n")),
            Err(error) => ("500 Internal Server Error", format!("{path}: {error}\n")),
        },
        _ => ("404 Not Found", "no such thing here\n".to_owned()),
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.take(MAX_LINE_BYTES).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Starts a shell, as the application, and says in the first line how it ended.
fn convert(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let output = Command::new("/bin/sh").args(["-c", &line]).stdin(Stdio::null()).output();
    match output {
        Err(error) => format!("not started: {error}\n"),
        Ok(output) => {
            let end = match (output.status.code(), output.status.signal()) {
                (Some(code), _) => format!("exited {code}"),
                (None, signal) => format!("signal {}", signal.unwrap_or_default()),
            };
            let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            format!("{end}\n{out}{errors}")
        }
    }
}

/// Writes in place, so that a file of the image is copied up into the container's writable layer.
fn upload(path: &str, content: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(content)?;
    file.set_permissions(PermissionsExt::from_mode(0o755))
}
