//! A real registry on the loopback, images pushed by its own protocol, and signatures by the real cosign.

use std::{
    env, fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{PATIENCE, program::free_address};

/// Where a tool is: on PATH, or where the project's own set-up puts it.
pub fn tool(name: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([tools.join("bin"), tools])
        .map(|folder| folder.join(name))
        .find(|program| {
            Command::new(program)
                .arg("--help")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
}

/// Both tools, or a line that says which is missing.
pub fn tools(test: &str) -> Option<(PathBuf, PathBuf)> {
    let (registry, cosign) = (tool("docker-registry"), tool("cosign"));
    let missing = match (&registry, &cosign) {
        (None, _) => "docker-registry",
        (_, None) => "cosign",
        _ => return registry.zip(cosign),
    };
    // Not println!, which the test harness swallows.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: {test}: no {missing} that answers --help, on PATH or in target/tools"
    );
    None
}

/// A registry; killed when dropped, its content stays until then.
pub struct Registry {
    program: PathBuf,
    child: Option<Child>,
    pub address: SocketAddr,
    directory: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Registry {
    pub fn start(program: &Path) -> Self {
        let mut registry = Self {
            program: program.to_owned(),
            child: None,
            address: free_address(),
            directory: tempfile::tempdir().unwrap(),
        };
        registry.start_again();
        registry
    }

    /// Starts it on the same address with the same content.
    pub fn start_again(&mut self) {
        let configuration = self.directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {}}}\n",
            self.directory.path().join("content").display(),
            self.address
        );
        fs::write(&configuration, text).unwrap();
        let child = Command::new(&self.program)
            .arg("serve")
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < deadline, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    async fn push_blob(&self, repository: &str, bytes: Vec<u8>) -> String {
        let client = reqwest::Client::new();
        let digest = digest(&bytes);
        let started = client
            .post(format!("http://{}/v2/{repository}/blobs/uploads/", self.address))
            .send()
            .await
            .unwrap();
        let location = started.headers()["location"].to_str().unwrap().to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let put = client
            .put(format!("{location}{separator}digest={digest}"))
            .body(bytes)
            .send()
            .await
            .unwrap();
        assert_eq!(put.status().as_u16(), 201, "{put:?}");
        digest
    }

    /// Pushes an image of one layer with these executables, and returns its digest.
    pub async fn push(&self, repository: &str, tag: &str, files: &[(&str, &[u8])]) -> String {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            layer.append_data(&mut header, path, *content).unwrap();
        }
        let layer = layer.into_inner().unwrap();
        let (layer_size, diff_id) = (layer.len(), digest(&layer));
        let configuration = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": ["/app/server"], "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let configuration = serde_json::to_vec(&configuration).unwrap();
        let configuration_size = configuration.len();
        let layer = self.push_blob(repository, layer).await;
        let configuration = self.push_blob(repository, configuration).await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": configuration, "size": configuration_size},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size}],
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let put = reqwest::Client::new()
            .put(format!("http://{}/v2/{repository}/manifests/{tag}", self.address))
            .header("content-type", "application/vnd.oci.image.manifest.v1+json")
            .body(manifest.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(put.status().as_u16(), 201, "{put:?}");
        digest(&manifest)
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// Key pairs, and a cosign that signs with them.
pub struct Cosign {
    program: PathBuf,
    directory: TempDir,
}

impl Cosign {
    pub fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Makes a key pair and returns the public key.
    pub fn generate(&self, name: &str) -> String {
        self.run(&["generate-key-pair", "--output-key-prefix", name]);
        fs::read_to_string(self.directory.path().join(format!("{name}.pub"))).unwrap()
    }

    /// Signs in the `.sig` form.
    pub fn sign(&self, key: &str, image: &str) {
        let key = format!("{key}.key");
        self.run(&[
            "sign",
            "-y",
            "--key",
            &key,
            "--use-signing-config=false",
            "--tlog-upload=false",
            "--new-bundle-format=false",
            "--allow-insecure-registry",
            image,
        ]);
    }

    fn run(&self, arguments: &[&str]) {
        let output = Command::new(&self.program)
            .args(arguments)
            .current_dir(self.directory.path())
            .env("COSIGN_PASSWORD", "")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
