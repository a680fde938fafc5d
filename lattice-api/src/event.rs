//! Events for people and for programs: one sentence, one line, or one JSON document of a stable form.

mod document;
mod message;

pub use document::{
    AncestorDocument, BytesDocument, ContainerDocument, EventDocument, GapDocument, NoticeDocument, PolicyDocument,
    ViolationDocument,
};
pub use message::{event_message, gap_message, notice_message, violation_message};

use chrono::{DateTime, SecondsFormat};
use lattice_policy::escape::{for_terminal, json_for_terminal};

use crate::v1;

/// The time of an event as RFC 3339 in UTC, with so many digits of the second as asked for.
pub fn event_time(event: &v1::Event, digits: SecondsFormat) -> String {
    time_text(event.time_unix_nanos, digits)
}

/// Nanoseconds since the Unix epoch as RFC 3339 in UTC.
pub fn time_text(unix_nanos: u64, digits: SecondsFormat) -> String {
    // Past the year 2262 the last representable moment is shown.
    let nanoseconds = i64::try_from(unix_nanos).unwrap_or(i64::MAX);
    DateTime::from_timestamp_nanos(nanoseconds).to_rfc3339_opts(digits, true)
}

/// How many refusals an event of a violation stands for: one of its own, or those that it counts.
pub fn refusals(violation: &v1::Violation) -> u64 {
    // An agent from before counting says 0.
    violation.count.max(1)
}

/// Namespace of the container that an event is of; empty for a gap, and where it is not known.
pub fn event_namespace(event: &v1::Event) -> &str {
    let container = match &event.kind {
        Some(v1::event::Kind::Violation(violation)) => violation.container.as_ref(),
        Some(v1::event::Kind::Notice(notice)) => notice.container.as_ref(),
        Some(v1::event::Kind::Gap(_)) | None => None,
    };
    container.map_or("", |container| &container.namespace)
}

/// How many events a gap stands for.
pub fn lost_events(gap: &v1::Gap) -> u64 {
    let span = |first: u64, last: u64| last.saturating_sub(first).saturating_add(1);
    if gap.ranges.is_empty() {
        return span(gap.first_sequence, gap.last_sequence);
    }
    gap.ranges
        .iter()
        .fold(0, |sum: u64, range| sum.saturating_add(span(range.first, range.last)))
}

/// The event as one line of JSON; see [`EventDocument`] for its form.
pub fn to_json_line(event: &v1::Event) -> String {
    // The document is made of strings, numbers, lists and structs, which JSON can always say.
    let json = serde_json::to_string(&EventDocument::from(event))
        .expect("plain structs of strings, numbers and lists can be written as JSON");
    json_for_terminal(&json)
}

/// The event as one line for a terminal: time, container, and what happened.
pub fn to_line(event: &v1::Event) -> String {
    let time = event_time(event, SecondsFormat::Millis);
    let place = match &event.kind {
        Some(v1::event::Kind::Violation(violation)) => container_name(violation.container.as_ref()),
        Some(v1::event::Kind::Notice(notice)) => container_name(notice.container.as_ref()),
        _ => event.node.clone(),
    };
    for_terminal(&format!("{time}  {place}  {}", event_message(event)))
}

/// `namespace/workload/container`, with `?` for what is not known.
pub fn container_name(container: Option<&v1::Container>) -> String {
    let known = |text: &str| {
        if text.is_empty() {
            "?".to_owned()
        } else {
            text.to_owned()
        }
    };
    match container {
        Some(container) => {
            format!(
                "{}/{}/{}",
                known(&container.namespace),
                known(&container.workload),
                known(&container.name)
            )
        }
        None => "?/?/?".to_owned(),
    }
}
