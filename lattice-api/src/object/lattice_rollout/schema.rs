//! What a cluster is told of a LatticeRollout's form. It is written here and not made from the type, since the type has the environment's defaults
//! in it and an object has not: what is left out must stay out, or a change of `environment` would change nothing.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{FREEZE_WINDOWS_MAXIMUM, LatticeRolloutSpec, STEPS_MAXIMUM};
use crate::object::{exactly_one_of, freeze_window::REASON_BYTES_MAXIMUM};

/// Numbers with their units, the long ones first. That it is at most two years only the reader sees.
const TIMESPAN: &str = "^([0-9]{1,9}w)?([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$";

impl JsonSchema for LatticeRolloutSpec {
    fn schema_name() -> Cow<'static, str> {
        "LatticeRolloutSpec".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How the namespace gets from monitor to enforce. What is left out is as usual in the environment.",
            "type": "object",
            "required": ["environment", "runtime"],
            "properties": {
                "environment": {
                    "description": "Whose usual values hold where nothing else is said: development, staging or production.",
                    "type": "string",
                    "enum": ["development", "staging", "production"],
                },
                "runtime": {
                    "description": "Where the namespace is taken to. `monitor`: it stays there, for good. `enforce`: it ends there.",
                    "type": "string",
                    "enum": ["monitor", "enforce"],
                },
                "burnIn": burn_in(),
                "steps": steps(),
                "approval": approval(),
                "breaker": breaker(),
                "freezeWindows": freeze_windows(),
                "paused": {
                    "description": "Nothing is promoted while it is true. What is to be taken back is taken back all the same.",
                    "type": "boolean",
                },
            },
        })
    }
}

fn burn_in() -> Value {
    json!({
        "description": "How long a list is looked at before it is enforced. Both count only time of which everything is known.",
        "type": "object",
        "properties": {
            "minDuration": timespan("In all. Usually 1d in development, 2w in staging, 1w in production."),
            "quietPeriod": timespan("Since the last miss. Usually 4h in development, else 3d, and never longer than a minDuration that is written."),
        },
    })
}

fn steps() -> Value {
    json!({
        "description": "What is enforced before all is, in order. Usually none in development, one in staging, three in production.",
        "type": "array",
        "maxItems": STEPS_MAXIMUM,
        "items": {
            "type": "object",
            "required": ["pods", "hold"],
            "properties": {
                "pods": {
                    "description": "At least so many of a workload's pods, as a number, or a part of them like \"10%\". Whole nodes are taken in.",
                    "x-kubernetes-int-or-string": true,
                    // Each holds for its type alone: a rule in CEL would cost more than the API server allows, whatever the text's length.
                    "minimum": 1,
                    "pattern": "^([1-9][0-9]?|100)%$",
                },
                "hold": timespan("For so long, of which everything is known."),
            },
        },
    })
}

fn approval() -> Value {
    json!({
        "description": "Who must agree before anything is enforced.",
        "type": "object",
        "properties": {
            "mode": {
                "description": "`manual`: operators approve, with `latticectl rollout approve`. `auto`: nobody must; Cedar must permit it to \
                                Actor::\"lattice-central\". Usually auto in development, else manual.",
                "type": "string",
                "enum": ["manual", "auto"],
            },
            "approvers": {
                "description": "How many operators must, each with a certificate of their own. Usually 2 in production, else 1.",
                "type": "integer",
                "minimum": 1,
                "maximum": 20,
            },
        },
    })
}

fn breaker() -> Value {
    json!({
        "description": "When a workload that is enforced is taken back. Refusals of what the image does not hold never do that.",
        "type": "object",
        "properties": {
            "window": timespan("Refusals of one program are counted over this. Usually 10m."),
            "refusals": {
                "description": "So many refusals of a program that the image holds open it, where they were in enough pods. Usually 5.",
                "type": "integer",
                "minimum": 1,
                "maximum": 10_000,
            },
            "pods": {
                "description": "In so many pods. Usually 3.",
                "type": "integer",
                "minimum": 1,
                "maximum": 10_000,
            },
            "onOpen": {
                "description": "What happens when it opens. `monitor`: the workload goes back to monitor. `pause`: it stays enforced, and the \
                                rollout stands still. Usually monitor.",
                "type": "string",
                "enum": ["monitor", "pause"],
            },
            "backOff": timespan("The wait before monitoring begins anew; it doubles each time. Usually 1h."),
            "maxAutoRearm": {
                "description": "How often monitoring begins anew by itself; after that a person must resume it. Usually 1.",
                "type": "integer",
                "minimum": 0,
                "maximum": 20,
            },
        },
    })
}

fn freeze_windows() -> Value {
    json!({
        "description": "When nothing is promoted. What is to be taken back is taken back all the same.",
        "type": "array",
        "maxItems": FREEZE_WINDOWS_MAXIMUM,
        "items": {
            "type": "object",
            "required": ["for"],
            "properties": {
                "from": {
                    "description": "When it begins, once: a date and time like 2026-12-20T00:00:00Z.",
                    "type": "string",
                    "format": "date-time",
                },
                "every": {
                    "description": "When it begins, every week: a day and a time of UTC like `friday 16:00`.",
                    "type": "string",
                    "maxLength": 15,
                    "pattern": "^(monday|tuesday|wednesday|thursday|friday|saturday|sunday) ([01][0-9]|2[0-3]):[0-5][0-9]$",
                },
                "for": timespan("How long it lasts; one of every week is shorter than that."),
                "reason": {
                    "description": "Why, for those who wait.",
                    "type": "string",
                    "maxLength": REASON_BYTES_MAXIMUM,
                },
            },
            "x-kubernetes-validations": [exactly_one_of(&["from", "every"]), {
                "rule": "!has(self.every) || !self.__for__.contains('w')",
                "message": "a window of every week must be shorter than one; write `paused: true` instead",
            }],
        },
    })
}

fn timespan(description: &str) -> Value {
    json!({
        "description": format!("{description} Written like 2w, 36h or 1h30m."),
        "type": "string",
        "minLength": 2,
        "maxLength": 50,
        "pattern": TIMESPAN,
    })
}
