//! The one place where an error is written with all that caused it.

use std::{error::Error, fmt};

/// Shows an error and its sources, outermost first, parted by `: `.
pub struct ErrorChain<'error>(pub &'error dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::fmt::Error);

    #[test]
    fn names_every_cause() {
        let text = ErrorChain(&Outer(std::fmt::Error)).to_string();
        assert_eq!(text, format!("outer: {}", std::fmt::Error));
    }
}
