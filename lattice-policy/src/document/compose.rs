//! From bytes to trees, with a budget for everything that a hostile file could make grow.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span, Tag};

use super::{Diagnostic, Findings, Location, Member, Node, Value, scalar};

/// A file may have so many bytes.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Lists and objects may lie in one another so deep.
pub const MAX_DEPTH: usize = 64;
/// All documents of a file may have so many values, those that aliases repeat counted each time.
pub const MAX_NODES: usize = 500_000;
/// Aliases may repeat so many bytes of text.
const MAX_REPEATED_BYTES: usize = MAX_FILE_BYTES;

/// Reads all documents of a YAML stream, of which JSON is one. Empty documents are left out.
///
/// # Errors
/// When the file is too large, not UTF-8, not YAML, has a key twice, a tag, a directive, a merge key, or more depth, values or
/// repetition than the budget allows.
pub fn parse(file_name: &str, bytes: &[u8]) -> Result<Vec<Node>, Vec<Diagnostic>> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(vec![Diagnostic::of_file(
            file_name,
            format!(
                "the file has {} bytes, more than the {MAX_FILE_BYTES} that are read",
                bytes.len()
            ),
            "Split it into several files.",
        )]);
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count() as u64;
            let column = 1 + good.iter().rev().take_while(|byte| **byte != b'\n').count() as u64;
            let mut diagnostic = Diagnostic::of_file(
                file_name,
                "the file is not UTF-8 here",
                "Save it as UTF-8; write other bytes as \\xNN.",
            );
            (diagnostic.line, diagnostic.column) = (line, column);
            return Err(vec![diagnostic]);
        }
    };
    let findings = Findings::new(file_name);
    let documents = Composer::new(&findings).compose(text).unwrap_or_default();
    findings.into_result(documents)
}

/// A list or an object that is still open.
struct Open {
    location: Location,
    anchor: usize,
    content: Content,
    /// Depth of the deepest value so far, counted from here.
    depth: usize,
    nodes_before: usize,
    text_bytes_before: usize,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping {
        members: Vec<Member>,
        keys: HashSet<String>,
        key: Option<(String, Location)>,
    },
}

/// What an alias repeats, and what that costs.
struct Anchored {
    node: Node,
    depth: usize,
    nodes: usize,
    text_bytes: usize,
}

/// Stops the reading; what is wrong is already in the findings.
struct Stop;

struct Composer<'f> {
    findings: &'f Findings,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    documents: Vec<Node>,
    nodes: usize,
    text_bytes: usize,
    repeated_bytes: usize,
    /// Values that are kept a second time because they have an anchor.
    anchored_nodes: usize,
}

impl<'f> Composer<'f> {
    fn new(findings: &'f Findings) -> Self {
        Self {
            findings,
            open: Vec::new(),
            anchors: HashMap::new(),
            documents: Vec::new(),
            nodes: 0,
            text_bytes: 0,
            repeated_bytes: 0,
            anchored_nodes: 0,
        }
    }

    fn compose(mut self, text: &str) -> Result<Vec<Node>, Stop> {
        let mut options = granit_parser::options! {
            disallow_directives: true,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        options.set_emit_comments(false);
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|error| {
                let mark = error.marker();
                let location = Location {
                    line: mark.line() as u64,
                    column: mark.col() as u64 + 1,
                };
                if *error.kind() == ErrorKind::RecursionLimitExceeded {
                    return self.too_deep(location);
                }
                let message = format!("this is not valid YAML or JSON: {}", error.info());
                self.stop(
                    location,
                    message,
                    "Correct the syntax; the place named is where the reader noticed it.",
                )
            })?;
            self.take(event, location_of(&span))?;
        }
        Ok(self.documents)
    }

    fn take(&mut self, event: Event<'_>, location: Location) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), location)?;
                self.text_bytes += text.len();
                // A key's text is its name, whatever it would mean as a value.
                let value = match style {
                    ScalarStyle::Plain if !self.is_key_next() => scalar::resolve(&text),
                    _ => Value::Text(text.into_owned()),
                };
                self.place_new(Node { location, value }, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), location)?;
                self.open(location, anchor, Content::Sequence(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), location)?;
                let content = Content::Mapping {
                    members: Vec::new(),
                    keys: HashSet::new(),
                    key: None,
                };
                self.open(location, anchor, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(anchor) => self.repeat(anchor, location)?,
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, location: Location, anchor: usize, content: Content) -> Result<(), Stop> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.too_deep(location));
        }
        let (nodes_before, text_bytes_before) = (self.nodes, self.text_bytes);
        self.open.push(Open {
            location,
            anchor,
            content,
            depth: 1,
            nodes_before,
            text_bytes_before,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Stop> {
        // The parser pairs starts and ends; without one there is nothing to close.
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { members, .. } => Value::Mapping(members),
        };
        let node = Node {
            location: open.location,
            value,
        };
        self.count_node(open.location)?;
        if open.anchor > 0 {
            let nodes = self.nodes - open.nodes_before;
            let text_bytes = self.text_bytes - open.text_bytes_before;
            self.keep(
                open.anchor,
                Anchored {
                    node: node.clone(),
                    depth: open.depth,
                    nodes,
                    text_bytes,
                },
            )?;
        }
        self.place(node, open.depth)
    }

    fn place_new(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        self.count_node(node.location)?;
        if anchor > 0 {
            let text_bytes = node.value.scalar_text().map_or(0, |text| text.len());
            self.keep(
                anchor,
                Anchored {
                    node: node.clone(),
                    depth: 0,
                    nodes: 1,
                    text_bytes,
                },
            )?;
        }
        self.place(node, 0)
    }

    fn keep(&mut self, anchor: usize, anchored: Anchored) -> Result<(), Stop> {
        self.anchored_nodes += anchored.nodes;
        self.repeated_bytes += anchored.text_bytes;
        if self.anchored_nodes > MAX_NODES || self.repeated_bytes > MAX_REPEATED_BYTES {
            let message = "the anchors hold more than is read".to_owned();
            return Err(self.stop(
                anchored.node.location,
                message,
                "Write the values out, or split the file.",
            ));
        }
        self.anchors.insert(anchor, anchored);
        Ok(())
    }

    fn repeat(&mut self, anchor: usize, location: Location) -> Result<(), Stop> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            // The parser refuses unknown names, so this is a collection that contains its own alias.
            return Err(self.stop(
                location,
                "an alias lies inside what it repeats".to_owned(),
                "Write the value out.",
            ));
        };
        let (depth, nodes, text_bytes) = (anchored.depth, anchored.nodes, anchored.text_bytes);
        // The cost is added up before anything is copied.
        self.nodes += nodes;
        self.text_bytes += text_bytes;
        self.repeated_bytes += text_bytes;
        if self.nodes > MAX_NODES || self.repeated_bytes > MAX_REPEATED_BYTES {
            let message = "the aliases repeat more than is read".to_owned();
            return Err(self.stop(location, message, "Write the values out, or split the file."));
        }
        if self.open.len() + depth > MAX_DEPTH {
            return Err(self.too_deep(location));
        }
        let node = self.anchors[&anchor].node.clone();
        self.place(Node { location, ..node }, depth)
    }

    fn place(&mut self, node: Node, depth: usize) -> Result<(), Stop> {
        let Some(parent) = self.open.last_mut() else {
            if node.value != Value::Null {
                self.documents.push(node);
            }
            return Ok(());
        };
        parent.depth = parent.depth.max(depth + 1);
        match &mut parent.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { members, keys, key } => match key.take() {
                Some((key, key_location)) => members.push(Member {
                    key,
                    key_location,
                    node,
                }),
                None => {
                    let Value::Text(text) = node.value else {
                        let message = format!("{} stands where a key must be", node.value.type_name());
                        return Err(self.stop(node.location, message, "Use a string as key."));
                    };
                    let is_new = keys.insert(text.clone());
                    *key = Some((text.clone(), node.location));
                    if text == "<<" {
                        let message = "merge keys are not read".to_owned();
                        return Err(self.stop(node.location, message, "Write the fields out."));
                    }
                    if !is_new {
                        let message = "this key stands twice in its object".to_owned();
                        self.findings
                            .add(node.location, &self.path(), None, message, "Remove one of them.");
                    }
                }
            },
        }
        Ok(())
    }

    fn count_node(&mut self, location: Location) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the file has more than {MAX_NODES} values");
            return Err(self.stop(location, message, "Split it into several files."));
        }
        Ok(())
    }

    fn refuse_tag(&self, tag: Option<&Tag>, location: Location) -> Result<(), Stop> {
        match tag {
            None => Ok(()),
            Some(tag) => {
                let message = format!(
                    "the tag {} is not read",
                    crate::escape::escaped_and_cut(&tag.to_string(), 80)
                );
                Err(self.stop(location, message, "Remove it; quote the value if it is to be a string."))
            }
        }
    }

    fn too_deep(&self, location: Location) -> Stop {
        let message = format!("lists and objects lie more than {MAX_DEPTH} deep in one another");
        self.stop(location, message, "No object of this format needs that; remove levels.")
    }

    /// Whether the next scalar is a key.
    fn is_key_next(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                content: Content::Mapping { key: None, .. },
                ..
            })
        )
    }

    /// The field that is being read, like `spec.entries[3].path`.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.content {
                Content::Sequence(items) => path.push_str(&format!("[{}]", items.len())),
                Content::Mapping {
                    key: Some((key, _)), ..
                } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Content::Mapping { key: None, .. } => {}
            }
        }
        path
    }

    fn stop(&self, location: Location, message: String, advice: &str) -> Stop {
        self.findings.add(location, &self.path(), None, message, advice);
        Stop
    }
}

fn location_of(span: &Span) -> Location {
    Location {
        line: span.start.line() as u64,
        column: span.start.col() as u64 + 1,
    }
}
