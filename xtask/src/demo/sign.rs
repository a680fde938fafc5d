//! Signatures in cosign's `.sig` form: by the real cosign where there is one, else by the small signer here.
//!
//! The product signs nothing; this is the part of the image's author.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use p256::{
    ecdsa::{DerSignature, SigningKey, signature::Signer as _},
    pkcs8::{EncodePublicKey, LineEnding},
};
use serde_json::json;

use super::{daemon, image, registry::Registry};
use crate::workspace;

const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
const LIMIT: Duration = Duration::from_secs(120);

/// A key pair and who signs with it.
pub(crate) enum Signer {
    /// cosign, and the folder in which `NAME.key` and `NAME.pub` are.
    Cosign {
        program: PathBuf,
        folder: PathBuf,
        name: String,
    },
    /// A key of our own.
    Own(Box<SigningKey>),
}

impl Signer {
    /// A new key pair.
    ///
    /// # Errors
    ///
    /// Where cosign fails, or there is no randomness.
    pub(crate) fn generate(folder: &Path, name: &str) -> Result<Self> {
        let Some(program) = workspace::find_program("cosign") else {
            return Ok(Self::Own(Box::new(random_key()?)));
        };
        run_cosign(
            Command::new(&program).args(["generate-key-pair", "--output-key-prefix", name]),
            folder,
        )?;
        Ok(Self::Cosign {
            program,
            folder: folder.to_owned(),
            name: name.to_owned(),
        })
    }

    /// For people.
    pub(super) fn description(&self) -> String {
        match self {
            Self::Cosign { program, .. } => format!("cosign ({})", program.display()),
            Self::Own(_) => "the small signer of xtask, as there is no cosign".to_owned(),
        }
    }

    /// The public key, PEM.
    ///
    /// # Errors
    ///
    /// Where cosign's file cannot be read.
    pub(crate) fn public_key(&self) -> Result<String> {
        match self {
            Self::Cosign { folder, name, .. } => {
                let path = folder.join(format!("{name}.pub"));
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
            }
            Self::Own(key) => key
                .verifying_key()
                .to_public_key_pem(LineEnding::LF)
                .map_err(|error| anyhow!("cannot write a public key: {error}")),
        }
    }

    /// Signs the image of this digest, and puts the signature beside it in the registry.
    ///
    /// # Errors
    ///
    /// Where cosign or the registry fails.
    pub(crate) fn sign(&self, registry: &Registry, repository: &str, digest: &str) -> Result<()> {
        let reference = format!("{}/{repository}", registry.name());
        match self {
            Self::Cosign { program, folder, name } => run_cosign(
                Command::new(program)
                    .args(["sign", "-y", "--key", &format!("{name}.key")])
                    .args([
                        "--use-signing-config=false",
                        "--tlog-upload=false",
                        "--new-bundle-format=false",
                    ])
                    .arg("--allow-insecure-registry")
                    .arg(format!("{reference}@{digest}")),
                folder,
            ),
            Self::Own(key) => {
                let payload = payload(&reference, digest)?;
                let signature: DerSignature = key.sign(&payload);
                let signature = STANDARD.encode(signature.as_bytes());
                let image = image::of_signature(payload, PAYLOAD_TYPE, (SIGNATURE_ANNOTATION, &signature))?;
                registry.push(repository, &format!("{}.sig", digest.replace(':', "-")), &image)
            }
        }
    }
}

/// What is signed: red hat's "simple signing", as cosign writes it.
fn payload(reference: &str, digest: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(&json!({
        "critical": {
            "identity": {"docker-reference": reference},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": null,
    }))
    .context("cannot write a payload")
}

fn random_key() -> Result<SigningKey> {
    use std::io::Read;
    let mut source = fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    // All but one in 2^32 numbers of 32 bytes are keys.
    for _ in 0..8 {
        let mut bytes = [0; 32];
        source.read_exact(&mut bytes).context("cannot read /dev/urandom")?;
        if let Ok(key) = SigningKey::from_slice(&bytes) {
            return Ok(key);
        }
    }
    bail!("/dev/urandom gave no number that is a key")
}

fn run_cosign(command: &mut Command, folder: &Path) -> Result<()> {
    command
        .current_dir(folder)
        // The user's credentials and caches are none of the demo's business.
        .env("HOME", folder)
        // Without it cosign asks for a password.
        .env("COSIGN_PASSWORD", "");
    let finished = daemon::finish(command, LIMIT)?;
    if !finished.status.success() {
        bail!(
            "`{}` failed: {}",
            crate::process::display(command),
            finished.stderr.trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_small_signer_signs_cosign_verifies() {
        const TEST: &str = "what_the_small_signer_signs_cosign_verifies";
        let Some(cosign) = workspace::find_program("cosign") else {
            println!("skipped: {TEST}: no cosign: run `cargo xtask setup` where Go is installed");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let Some(registry) = Registry::for_test(TEST, folder.path()) else {
            return;
        };
        let image = image::of_signature(b"a layer".to_vec(), "application/octet-stream", ("a", "b")).unwrap();
        registry.push("signed", "1", &image).unwrap();
        let signer = Signer::Own(Box::new(random_key().unwrap()));
        signer.sign(&registry, "signed", &image.digest()).unwrap();
        let other = Signer::Own(Box::new(random_key().unwrap()));
        let verify = |signer: &Signer| {
            let key = folder.path().join("key.pub");
            fs::write(&key, signer.public_key().unwrap()).unwrap();
            let created = daemon::finish(
                Command::new(&cosign)
                    .args(["trusted-root", "create", "--out", "root.json"])
                    .current_dir(folder.path()),
                LIMIT,
            )
            .unwrap();
            assert!(created.status.success(), "{}", created.stderr);
            let mut command = Command::new(&cosign);
            command
                .args([
                    "verify",
                    "--key",
                    "key.pub",
                    "--insecure-ignore-tlog",
                    "--allow-insecure-registry",
                ])
                .args(["--new-bundle-format=false", "--trusted-root", "root.json"])
                .arg(format!("{}/signed@{}", registry.name(), image.digest()))
                .current_dir(folder.path());
            daemon::finish(&mut command, LIMIT).unwrap()
        };
        let verified = verify(&signer);
        assert!(verified.status.success(), "{}", verified.stderr);
        assert!(verified.stdout.contains(&image.digest()), "{}", verified.stdout);
        let refused = verify(&other);
        assert!(!refused.status.success(), "another key's: {}", refused.stdout);
    }
}
