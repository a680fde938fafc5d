//! Debian's docker-registry on a free loopback port, with a folder and a configuration of its own.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{MANIFEST, TestImage, digest};

const PROGRAM: &str = "/usr/bin/docker-registry";

pub struct Registry {
    pub port: u16,
    process: Child,
    _folder: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Ours by its handle; it may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// Starts one. `None`, with the reason printed, only where the program is not installed.
    pub async fn start(test: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            println!("skipped: {test}: {PROGRAM} is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let configuration = folder.path().join("config.yml");
        let storage = folder.path().join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {:?}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            storage.to_str().unwrap()
        );
        std::fs::File::create(&configuration)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let process = Command::new(PROGRAM)
            .arg("serve")
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self {
            port,
            process,
            _folder: folder,
        };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(registry);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{PROGRAM} did not open port {port} in 10 s");
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/v2/{path}", self.port)
    }

    pub async fn push_blob(&self, repository: &str, blob: &[u8]) {
        let http = reqwest::Client::new();
        let begun = http
            .post(self.url(&format!("{repository}/blobs/uploads/")))
            .send()
            .await
            .unwrap();
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let put = http
            .put(format!("{location}{separator}digest={}", digest(blob)))
            .body(blob.to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(put.status(), 201);
    }

    pub async fn push_manifest(&self, repository: &str, at: &str, media_type: &str, manifest: &str) {
        let http = reqwest::Client::new();
        let put = http
            .put(self.url(&format!("{repository}/manifests/{at}")))
            .header("content-type", media_type);
        let answer = put.body(manifest.to_owned()).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    pub async fn push(&self, repository: &str, tag: &str, image: &TestImage) {
        for blob in &image.blobs {
            self.push_blob(repository, blob).await;
        }
        self.push_manifest(repository, tag, MANIFEST, &image.manifest).await;
    }
}
