//! Splits the guest's output line into what the command wrote and how it ended.
//!
//! The marker is random for each run, so the command cannot write it by chance; it may come in any number of pieces.

/// How the guest said that it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The command's exit status; 128 + N where signal N ended it.
    Status(u8),
    /// The guest's init could not get as far as the command.
    Failed(String),
}

/// Takes bytes as they come, gives back those that are the command's.
pub(crate) struct OutputSplitter {
    marker: Vec<u8>,
    /// What may be the start of the marker, or is the marker's line and not whole yet.
    held: Vec<u8>,
    ending: Option<Ending>,
}

impl OutputSplitter {
    pub(crate) fn new(marker: &str) -> Self {
        Self {
            marker: marker.as_bytes().to_vec(),
            held: Vec::new(),
            ending: None,
        }
    }

    /// The bytes of the command's output that are certain now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.ending.is_some() {
            return Vec::new();
        }
        self.held.extend_from_slice(bytes);
        if let Some(at) = find(&self.held, &self.marker) {
            let output: Vec<u8> = self.held.drain(..at).collect();
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&self.held[self.marker.len()..end]).into_owned();
                self.ending = Some(parse_ending(&line));
            }
            return output;
        }
        let kept = longest_suffix_that_starts(&self.held, &self.marker);
        self.held.drain(..self.held.len() - kept).collect()
    }

    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }
}

fn parse_ending(line: &str) -> Ending {
    match line.strip_prefix(":status:").and_then(|number| number.parse().ok()) {
        Some(status) => Ending::Status(status),
        None => Ending::Failed(line.trim_start_matches(":failed:").to_owned()),
    }
}

fn find(bytes: &[u8], marker: &[u8]) -> Option<usize> {
    bytes.windows(marker.len()).position(|window| window == marker)
}

fn longest_suffix_that_starts(bytes: &[u8], marker: &[u8]) -> usize {
    (1..marker.len().min(bytes.len() + 1))
        .rev()
        .find(|length| bytes.ends_with(&marker[..*length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "lattice-vm-abab-abac";

    #[track_caller]
    fn check(stream: &str, output: &str, ending: Option<Ending>) {
        for piece in 1..=stream.len() {
            let mut splitter = OutputSplitter::new(MARKER);
            let seen: Vec<u8> = stream
                .as_bytes()
                .chunks(piece)
                .flat_map(|bytes| splitter.push(bytes))
                .collect();
            assert_eq!(String::from_utf8_lossy(&seen), output, "in pieces of {piece}");
            assert_eq!(splitter.ending(), ending.as_ref(), "in pieces of {piece}");
        }
    }

    #[test]
    fn the_marker_is_found_in_any_pieces() {
        check(
            "hello\nlattice-vm-abab-abac:status:0\n",
            "hello\n",
            Some(Ending::Status(0)),
        );
        check(
            "no newlinelattice-vm-abab-abac:status:7\n",
            "no newline",
            Some(Ending::Status(7)),
        );
        check("lattice-vm-abab-abac:status:137\n", "", Some(Ending::Status(137)));
    }

    #[test]
    fn what_looks_like_the_marker_but_is_not_comes_through() {
        let stream = "lattice-vm-ablattice-vm-abab-abalattice-vm-abab-abac:status:1\n";
        check(stream, "lattice-vm-ablattice-vm-abab-aba", Some(Ending::Status(1)));
    }

    #[test]
    fn a_failure_of_init_is_told_from_a_status() {
        let failed = |text: &str| Some(Ending::Failed(text.to_owned()));
        check("lattice-vm-abab-abac:failed:no bpf\n", "", failed("no bpf"));
        check("lattice-vm-abab-abac:status:many\n", "", failed(":status:many"));
    }

    #[test]
    fn what_follows_the_marker_is_not_output() {
        check(
            "xlattice-vm-abab-abac:status:0\ndaemon's line\n",
            "x",
            Some(Ending::Status(0)),
        );
    }

    #[test]
    fn without_its_end_of_line_the_marker_says_nothing_yet() {
        check("xlattice-vm-abab-abac:status:1", "x", None);
    }
}
