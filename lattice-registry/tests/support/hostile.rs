//! An HTTP server that answers what the test says, byte for byte, and remembers what it was asked.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::{MANIFEST, TestImage, digest};

/// One request, as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub head: String,
}

/// What to send back.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Status line's code, headers, body; `content-length` is added.
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The same, but the body promises this length and then the connection closes.
    Short(Vec<u8>, usize),
    /// A body without length that never ends.
    Endless,
    /// Nothing, while the client waits.
    Silence,
}

pub fn ok(media_type: &'static str, body: &[u8]) -> Answer {
    Answer::Full(200, vec![("content-type", media_type.to_owned())], body.to_vec())
}

pub fn status(code: u16) -> Answer {
    Answer::Full(code, Vec::new(), Vec::new())
}

pub fn status_with(code: u16, name: &'static str, value: impl Into<String>) -> Answer {
    Answer::Full(code, vec![(name, value.into())], Vec::new())
}

/// Answers as an honest registry would for one image at any tag and its digest.
pub fn honest(image: &TestImage, path: &str) -> Answer {
    if path.contains("/manifests/") && !path.ends_with(".sig") {
        return ok(MANIFEST, image.manifest.as_bytes());
    }
    let blob = image.blobs.iter().find(|blob| path.ends_with(&digest(blob)));
    blob.map_or_else(|| status(404), |blob| ok("application/octet-stream", blob))
}

pub struct Server {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// `answer` gets the request and its number, from 0.
    pub async fn start(answer: impl Fn(&Seen, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, remembered) = (Arc::new(answer), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let (answer, remembered) = (answer.clone(), remembered.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = connection.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let request = Seen {
                        path: head.split(' ').nth(1).unwrap().to_owned(),
                        head,
                    };
                    let number = {
                        let mut seen = remembered.lock().unwrap();
                        seen.push(request.clone());
                        seen.len() - 1
                    };
                    // The client may hang up at any time: that is what is tested.
                    let _ = send(&mut connection, answer(&request, number)).await;
                });
            }
        });
        Self { port, seen, task }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests had this in their path.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.contains(part)).count()
    }
}

async fn send(connection: &mut tokio::net::TcpStream, answer: Answer) -> std::io::Result<()> {
    match answer {
        Answer::Full(code, headers, body) => {
            let headers: String = headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}\r\n"))
                .collect();
            let head = format!(
                "HTTP/1.1 {code} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
                body.len()
            );
            connection.write_all(head.as_bytes()).await?;
            connection.write_all(&body).await
        }
        Answer::Short(body, promised) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {MANIFEST}\r\ncontent-length: {promised}\r\n\r\n");
            connection.write_all(head.as_bytes()).await?;
            connection.write_all(&body).await
        }
        Answer::Endless => {
            connection
                .write_all(
                    format!("HTTP/1.1 200 OK\r\ncontent-type: {MANIFEST}\r\nconnection: close\r\n\r\n").as_bytes(),
                )
                .await?;
            loop {
                connection.write_all(&[b' '; 65_536]).await?;
            }
        }
        Answer::Silence => {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            Ok(())
        }
    }
}
