//! Where the admin listener may listen.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// Of a Unix socket; `unix:/path`.
const UNIX: &str = "unix:";

/// A place that nobody reaches from another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A port on a loopback address.
    Loopback(SocketAddr),
    /// A Unix socket, for root alone.
    Unix(PathBuf),
}

/// What is wrong with the value of `--admin`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminAddressError {
    /// Not of the form.
    #[error("{value:?} is neither unix:/PATH nor ADDRESS:PORT, like 127.0.0.1:9470")]
    Form {
        /// The value.
        value: String,
    },
    /// Reachable from elsewhere.
    #[error(
        "{address} is no loopback address: this listener speaks in the clear, so it is not to be reached from elsewhere"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
}

impl FromStr for AdminAddress {
    type Err = AdminAddressError;

    /// # Errors
    /// When it is of another form, or not a loopback address.
    fn from_str(value: &str) -> Result<Self, AdminAddressError> {
        let form = || AdminAddressError::Form {
            value: value.chars().take(256).collect(),
        };
        if let Some(path) = value.strip_prefix(UNIX) {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(form()),
            };
        }
        let address: SocketAddr = value.parse().map_err(|_| form())?;
        match address.ip().is_loopback() {
            true => Ok(Self::Loopback(address)),
            false => Err(AdminAddressError::NotLoopback { address }),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "{UNIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, expected: Result<&str, &str>) {
        match (value.parse::<AdminAddress>(), expected) {
            (Ok(address), Ok(expected)) => assert_eq!(address.to_string(), expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn only_this_machine_is_an_address() {
        check("127.0.0.1:9470", Ok("127.0.0.1:9470"));
        check("127.8.9.1:0", Ok("127.8.9.1:0"));
        check("[::1]:9470", Ok("[::1]:9470"));
        check("unix:/run/lattice/admin.sock", Ok("unix:/run/lattice/admin.sock"));
        check("0.0.0.0:9470", Err("0.0.0.0:9470 is no loopback address"));
        check("[::]:9470", Err("no loopback"));
        check("[::ffff:10.0.0.1]:9470", Err("no loopback"));
        check("10.0.0.1:9470", Err("no loopback"));
        check("localhost:9470", Err("neither"));
        check("unix:admin.sock", Err("neither"));
        check("9470", Err("neither"));
        check("", Err("neither"));
    }
}
