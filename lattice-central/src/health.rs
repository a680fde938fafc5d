//! `lattice-central health`: whether it is well, for a kubelet's exec probe. Asked over a Unix socket in the state directory, since
//! nothing of central's listens in the clear. Whoever scrapes is told too.
//!
//! Whoever connects is told all conditions, a line each, and the connection ends.

use std::{
    fmt, fs, io,
    io::Read,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{io::AsyncWriteExt as _, net::UnixListener, task::JoinHandle, time::timeout};

use crate::{admission::certificate::RenewedCertificate, store::Store};

const SOCKET: &str = "health.sock";
/// How long the store may take for an answer; longer means that it hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// And whoever asks, for the whole of it.
const LIMIT: Duration = Duration::from_secs(8);
const ANSWER_BYTES: u64 = 64 * 1024;
const HOLDS: &str = "ok";

/// What is told of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The store answers.
    Store,
    /// Agents and latticectl are answered.
    Serving,
    /// All objects were seen once.
    Objects,
    /// Admission reviews are answered with a certificate that the API server believes, where they are answered at all.
    Admission,
}

impl Part {
    const ALL: [Self; 4] = [Self::Store, Self::Serving, Self::Objects, Self::Admission];

    /// What only a restart could mend.
    fn is_of_health(self) -> bool {
        self == Self::Store
    }

    fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Serving => "serving",
            Self::Objects => "objects",
            Self::Admission => "admission",
        }
    }

    fn problem(self) -> &'static str {
        match self {
            Self::Store => "does not answer",
            Self::Serving => "not yet: there is no certificate to serve with",
            Self::Objects => "not all seen yet; what held before is given to the agents",
            Self::Admission => {
                "not answered: its certificate has ended, or the webhook configuration does not have the authority yet"
            }
        }
    }
}

/// What the parts of central say of themselves.
#[derive(Debug, Default)]
pub struct Health {
    serving: AtomicBool,
    objects: AtomicBool,
    /// Where admission reviews are answered.
    admission: OnceLock<Arc<RenewedCertificate>>,
    believed: AtomicBool,
}

impl Health {
    /// Agents and latticectl are answered from now on.
    pub fn serving(&self) {
        self.serving.store(true, Ordering::Relaxed);
    }

    /// All objects were seen.
    pub fn objects(&self) {
        self.objects.store(true, Ordering::Relaxed);
    }

    /// Admission reviews are to be answered with this certificate.
    pub fn admission(&self, certificate: Arc<RenewedCertificate>) {
        // There is one.
        let _ = self.admission.set(certificate);
    }

    /// The API server has been told whom to believe.
    pub fn believed(&self) {
        self.believed.store(true, Ordering::Relaxed);
    }

    async fn holds(&self, part: Part, store: &Store) -> bool {
        match part {
            Part::Store => {
                let answer = timeout(PATIENCE, store.last_sequence(String::new(), String::new())).await;
                answer.is_ok_and(|read| read.is_ok())
            }
            Part::Serving => self.serving.load(Ordering::Relaxed),
            Part::Objects => self.objects.load(Ordering::Relaxed),
            Part::Admission => self.admission.get().is_none_or(|certificate| {
                self.believed.load(Ordering::Relaxed) && !certificate.remaining(SystemTime::now()).is_zero()
            }),
        }
    }

    /// Whether all is as it should be.
    pub async fn is_ready(&self, store: &Store) -> bool {
        for part in Part::ALL {
            if !self.holds(part, store).await {
                return false;
            }
        }
        true
    }

    async fn text(&self, store: &Store) -> String {
        let mut text = String::new();
        for part in Part::ALL {
            let said = if self.holds(part, store).await {
                HOLDS
            } else {
                part.problem()
            };
            text.push_str(&format!("{}: {said}\n", part.name()));
        }
        text
    }
}

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot make the socket of `lattice-central health`")]
pub struct HealthError {
    /// The socket.
    path: PathBuf,
    /// The reason.
    #[source]
    source: io::Error,
}

/// Tells whoever asks, until the task is aborted. The state directory must be held by this process alone.
///
/// # Errors
/// When the socket cannot be made.
pub fn tell(state: &Path, health: Arc<Health>, store: Store) -> Result<JoinHandle<()>, HealthError> {
    let path = state.join(SOCKET);
    let failed = |source| HealthError {
        path: path.clone(),
        source,
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Nobody else enters the directory, which has mode 0700.
    let listener = UnixListener::bind(&path).map_err(failed)?;
    Ok(tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (health, store) = (health.clone(), store.clone());
            tokio::spawn(async move {
                let text = health.text(&store).await;
                // Who asked may be gone.
                let _ = timeout(PATIENCE, stream.write_all(text.as_bytes())).await;
            });
        }
    }))
}

/// What a running central says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    text: String,
}

impl Answer {
    /// Asks it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ask(state: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(state.join(SOCKET))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut text = String::new();
        stream.take(ANSWER_BYTES).read_to_string(&mut text)?;
        Ok(Self { text })
    }

    /// Whether a restart would mend nothing.
    pub fn is_healthy(&self) -> bool {
        self.all(Part::is_of_health)
    }

    /// Whether all is as it should be.
    pub fn is_ready(&self) -> bool {
        self.all(|_| true)
    }

    /// What is not said does not hold.
    fn all(&self, counts: impl Fn(Part) -> bool) -> bool {
        Part::ALL.into_iter().filter(|part| counts(*part)).all(|part| {
            let line = format!("{}: {HOLDS}", part.name());
            self.text.lines().any(|said| said == line)
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn ready_is_more_than_healthy() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path()).unwrap();
        let health = Arc::new(Health::default());
        // What a central left that was killed is in nobody's way.
        fs::write(directory.path().join(SOCKET), "").unwrap();
        let telling = tell(directory.path(), health.clone(), store).unwrap();
        let path = directory.path().to_owned();
        let ask = || {
            let path = path.clone();
            async move {
                tokio::task::spawn_blocking(move || Answer::ask(&path).unwrap())
                    .await
                    .unwrap()
            }
        };
        let answer = ask().await;
        assert!(answer.is_healthy() && !answer.is_ready(), "{answer}");
        health.serving();
        assert!(!ask().await.is_ready());
        health.objects();
        let answer = ask().await;
        assert!(answer.is_ready(), "{answer}");
        // Where admission reviews are answered, that takes a certificate, and an API server that believes it.
        let authority = Arc::new(crate::authority::Authority::generate().unwrap());
        let certificate = RenewedCertificate::new(authority, vec!["localhost".to_owned()], Duration::from_secs(60));
        health.admission(Arc::new(certificate.unwrap()));
        let answer = ask().await;
        assert!(answer.is_healthy() && !answer.is_ready(), "{answer}");
        health.believed();
        let answer = ask().await;
        assert!(answer.is_ready(), "{answer}");
        telling.abort();
        let _ = telling.await;
        assert!(Answer::ask(&path).is_err());
    }

    #[test]
    fn what_is_not_said_does_not_hold() {
        let answer = |text: &str| Answer { text: text.to_owned() };
        assert!(!answer("").is_healthy());
        assert!(!answer("store: does not answer\n").is_healthy());
        assert!(!answer("restore: ok\n").is_healthy());
        assert!(answer("store: ok\n").is_healthy());
        assert!(!answer("store: ok\n").is_ready());
    }
}
