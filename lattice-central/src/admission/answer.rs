//! What the API server is told, and through it whoever asked: which image, where, why, and what to do; at the end a command.

use std::time::Duration;

use kube::core::{Status, admission::AdmissionResponse, response::StatusSummary};

use super::{
    LABEL, Outcome, Stage,
    judge::{Judgement, Refused},
    review::Review,
};

/// The API server cuts warnings when they are more than 4,096 characters together: so many of policies, and so many of images and one more.
const POLICY_WARNINGS_MAXIMUM: usize = 3;
const IMAGE_WARNINGS_MAXIMUM: usize = 4;
const WARNING_BYTES_MAXIMUM: usize = 500;
/// Refused images that a refusal says more of than that they are there.
const REFUSED_SHOWN_MAXIMUM: usize = 5;
const FORBIDDEN: u16 = 403;
const UNAVAILABLE: u16 = 503;

/// What came of a review until its time was over.
#[derive(Debug)]
pub enum Came {
    /// It was found out.
    Judged(Judgement),
    /// Not within this time; it is being found out still.
    Late(Duration),
    /// It cannot be looked at now.
    Unready(&'static str),
}

/// What is said of it.
#[derive(Debug)]
pub struct Answer {
    /// To the API server.
    pub response: AdmissionResponse,
    /// To the counters.
    pub outcome: Outcome,
    /// To the namespace: a reason and a note, where an image was refused or would have been.
    pub notice: Option<(&'static str, String)>,
}

/// In this stage.
pub fn answer(stage: Stage, review: &Review, came: Came) -> Answer {
    let mut response = AdmissionResponse::from(&review.request);
    match came {
        Came::Judged(judgement) => judged(stage, review, response, judgement),
        Came::Late(limit) => {
            let count = review.images.len();
            let fields: Vec<_> = review
                .images
                .iter()
                .take(REFUSED_SHOWN_MAXIMUM)
                .map(|named| format!("{} {}", named.field, named.image))
                .collect();
            let problem = format!(
                "{count} images were not verified within {:.1} s ({}); central goes on with it, so that another try finds the answer. \
                 Next: {}",
                limit.as_secs_f32(),
                fields.join(", "),
                again(review),
            );
            unknown(stage, &mut response, problem);
            Answer {
                response,
                outcome: Outcome::Unknown,
                notice: None,
            }
        }
        Came::Unready(why) => {
            unknown(
                stage,
                &mut response,
                format!("central {why}; try again. Next: {}", again(review)),
            );
            Answer {
                response,
                outcome: Outcome::Unready,
                notice: None,
            }
        }
    }
}

fn judged(stage: Stage, review: &Review, mut response: AdmissionResponse, judgement: Judgement) -> Answer {
    let Judgement { refused, warnings } = judgement;
    let mut warnings: Vec<String> = warnings.into_iter().take(POLICY_WARNINGS_MAXIMUM).collect();
    let Some(first) = refused.first() else {
        response.warnings = Some(warnings).filter(|warnings| !warnings.is_empty()).map(cut);
        return Answer {
            response,
            outcome: Outcome::Allowed,
            notice: None,
        };
    };
    let is_refused = stage == Stage::Deny || refused.iter().any(|refused| refused.finding.is_denied);
    let is_transient = refused.iter().all(|refused| refused.finding.is_transient);
    let outcome = if is_transient {
        Outcome::Unknown
    } else {
        Outcome::Refused
    };
    let shown: Vec<_> = refused.iter().take(REFUSED_SHOWN_MAXIMUM).map(one).collect();
    let more = match refused.len().saturating_sub(REFUSED_SHOWN_MAXIMUM) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let text = format!("{}{more}. Next: {}", shown.join("; "), first.finding.command);
    let reason = match (is_refused, is_transient) {
        (true, false) => "ImageRefused",
        (true, true) => "ImageUnknown",
        (false, false) => "ImageWouldBeRefused",
        (false, true) => "ImageUnknown",
    };
    if is_refused {
        let code = if is_transient { UNAVAILABLE } else { FORBIDDEN };
        let why = if stage == Stage::Deny {
            format!("namespace {} has {LABEL}={stage}: ", review.namespace)
        } else {
            String::new()
        };
        refuse(&mut response, code, format!("{why}{text}"));
    } else {
        for refused in refused.iter().take(IMAGE_WARNINGS_MAXIMUM) {
            let command = &refused.finding.command;
            let begin = format!(
                "{} would be refused with {LABEL}={}: ",
                refused.named.field,
                Stage::Deny
            );
            let end = format!(". Next: {command}");
            let room = WARNING_BYTES_MAXIMUM.saturating_sub(begin.len() + end.len());
            warnings.push(format!("{begin}{}{end}", shortened(one_image(refused), room)));
        }
        if refused.len() > IMAGE_WARNINGS_MAXIMUM {
            warnings.push(format!("{} images would be refused in all", refused.len()));
        }
    }
    response.warnings = Some(warnings).filter(|warnings| !warnings.is_empty()).map(cut);
    Answer {
        response,
        outcome,
        notice: Some((reason, text)),
    }
}

/// The stage says what an answer is worth that nobody knows.
fn unknown(stage: Stage, response: &mut AdmissionResponse, problem: String) {
    match stage {
        Stage::Warn => response.warnings = Some(cut(vec![problem])),
        Stage::Deny => refuse(response, UNAVAILABLE, problem),
    }
}

fn refuse(response: &mut AdmissionResponse, code: u16, message: String) {
    response.allowed = false;
    response.result = Status {
        status: Some(StatusSummary::Failure),
        code,
        reason: if code == FORBIDDEN {
            "Forbidden"
        } else {
            "ServiceUnavailable"
        }
        .to_owned(),
        message,
        ..Status::default()
    };
}

/// `spec.containers[0].image (container server): IMAGE: Unsigned: …`
fn one(refused: &Refused) -> String {
    format!(
        "{} ({}): {}",
        refused.named.field,
        refused.named.container.escape_debug(),
        one_image(refused)
    )
}

fn one_image(refused: &Refused) -> String {
    let (named, finding) = (&refused.named, &refused.finding);
    let message = finding.message.trim_end_matches('.');
    format!("{}: {}: {message}", named.image.escape_debug(), finding.reason)
}

/// What answers of central's own state lead to.
fn again(review: &Review) -> String {
    format!("kubectl --namespace {} get events", review.namespace.escape_debug())
}

fn cut(warnings: Vec<String>) -> Vec<String> {
    warnings
        .into_iter()
        .map(|warning| shortened(warning, WARNING_BYTES_MAXIMUM))
        .collect()
}

pub(super) fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
    text
}
