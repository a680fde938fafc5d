//! The socket: for root alone from its first moment, and never taken from an agent that lives.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another agent answers at {}: stop it, or name another socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else lies there.
    #[error("{} is there and is no socket: remove it, or name another socket", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("the socket {} could not be made", path.display())]
    Make {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A bound socket; its file goes with it.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    /// Binds a socket with mode 0600, in a folder that is made with mode 0700 if it is not there. What an agent that died left
    /// behind is replaced.
    ///
    /// # Errors
    /// When an agent answers there, when the path is something else, or when it cannot be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Make {
            path: path.into(),
            source,
        };
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(SocketError::NoSocket { path: path.into() });
            }
            Ok(_) if BlockingStream::connect(path).is_ok() => return Err(SocketError::InUse { path: path.into() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let folder = path
            .parent()
            .filter(|folder| *folder != Path::new(""))
            .unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        // Made under another name, so that nobody can connect before it is closed to others.
        let new = path.with_added_extension("new");
        match fs::remove_file(&new) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(&new).map_err(failed)?;
        let make = || {
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
            let inode = fs::symlink_metadata(&new)?.ino();
            fs::rename(&new, path)?;
            Ok(inode)
        };
        let inode = make().map_err(failed)?;
        Ok(Self {
            listener,
            path: path.into(),
            inode,
        })
    }

    /// Connections of root and of the agent's own user. The mode of the file says the same; this holds where somebody changed it.
    pub(crate) fn incoming(self) -> Incoming {
        Incoming { socket: self }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            // It may have gone meanwhile.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(crate) struct Incoming {
    socket: ControlSocket,
}

impl Stream for Incoming {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(accepted) = self.socket.listener.poll_accept(context) else {
                return Poll::Pending;
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() => {
                    return Poll::Ready(Some(Ok(stream)));
                }
                Ok(peer) => tracing::warn!(
                    uid = peer.uid(),
                    "somebody who is not root was turned away at the control socket"
                ),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the control socket without credentials was turned away")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn is_for_root_alone_and_replaces_only_what_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::InUse { .. })));
        drop(socket);
        assert!(!path.exists());
        // As after a kill: the file is there and nobody listens.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        drop(socket);
        fs::write(&path, "a file").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NoSocket { .. })));
        assert!(path.exists());
    }
}
