//! Probes and lifecycle hooks, as Kubernetes names their parts. An `exec` one starts a program in the container, so it decides
//! what is derived.

use std::borrow::Cow;

use lattice_policy::document::{Field, Object, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{container::owned_text, exactly_one_of};

/// What a probe or hook does: exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Handler {
    /// Runs a program in the container.
    Exec(ExecAction),
    /// Asks by HTTP.
    HttpGet(HttpGetAction),
    /// Opens a connection.
    TcpSocket(TcpSocketAction),
    /// Asks gRPC's health service (probes only).
    Grpc(GrpcAction),
    /// Waits (hooks only).
    Sleep(SleepAction),
}

/// Runs a program in the container; there is no shell unless the command names one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecAction {
    /// Program and arguments.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
}

/// Asks by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGetAction {
    /// Path to ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Port, by number or by name.
    pub port: Port,
    /// Host, if not the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// HTTP or HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["HTTP", "HTTPS"]))]
    pub scheme: Option<String>,
    /// Headers to send.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<HttpHeader>,
}

/// A header of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeader {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// Opens a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpSocketAction {
    /// Port, by number or by name.
    pub port: Port,
    /// Host, if not the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Asks gRPC's health service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcAction {
    /// Port.
    pub port: u16,
    /// Name of the service to ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SleepAction {
    /// How long.
    pub seconds: u64,
}

/// A port by number or by the name that the container gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

impl JsonSchema for Port {
    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "By number, or by the name that the container gives it.",
            "x-kubernetes-int-or-string": true,
        })
    }
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// What it does.
    #[serde(flatten)]
    #[schemars(with = "ProbeAction")]
    pub handler: Handler,
    /// Seconds before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay_seconds: Option<u32>,
    /// Seconds after which one has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Seconds from one to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_seconds: Option<u32>,
    /// Successes in a row that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<u32>,
    /// Failures in a row that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<u32>,
    /// Seconds that the pod has to end when this probe fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<u64>,
}

/// What happens after a container's start and before its end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    /// After the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<HookAction>")]
    pub post_start: Option<Handler>,
    /// Before the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<HookAction>")]
    pub pre_stop: Option<Handler>,
    /// The signal that ends the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

const PROBE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

/// The form of a probe's [`Handler`].
struct ProbeAction;

/// The form of a hook's [`Handler`].
struct HookAction;

impl JsonSchema for ProbeAction {
    fn schema_name() -> Cow<'static, str> {
        "ProbeAction".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        handler_schema(generator, &PROBE_HANDLERS)
    }
}

impl JsonSchema for HookAction {
    fn schema_name() -> Cow<'static, str> {
        "HookAction".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        handler_schema(generator, &HOOK_HANDLERS)
    }
}

fn handler_schema(generator: &mut SchemaGenerator, names: &[&'static str]) -> Schema {
    let mut properties = serde_json::Map::new();
    for &name in names {
        let schema = match name {
            "exec" => generator.subschema_for::<ExecAction>(),
            "httpGet" => generator.subschema_for::<HttpGetAction>(),
            "tcpSocket" => generator.subschema_for::<TcpSocketAction>(),
            "grpc" => generator.subschema_for::<GrpcAction>(),
            _ => generator.subschema_for::<SleepAction>(),
        };
        properties.insert(name.to_owned(), schema.into());
    }
    json_schema!({
        "type": "object",
        "properties": properties,
        "x-kubernetes-validations": [exactly_one_of(names)],
    })
}

pub(super) fn read_probe(field: &Field<'_>) -> Option<Probe> {
    let object = field.object()?;
    let handler = read_handler(field, &object, &PROBE_HANDLERS);
    let number = |name| object.field(name).integer();
    let initial_delay_seconds = number("initialDelaySeconds");
    let timeout_seconds = number("timeoutSeconds");
    let period_seconds = number("periodSeconds");
    let success_threshold = number("successThreshold");
    let failure_threshold = number("failureThreshold");
    let termination_grace_period_seconds = object.field("terminationGracePeriodSeconds").integer();
    object.finish();
    Some(Probe {
        handler: handler?,
        initial_delay_seconds,
        timeout_seconds,
        period_seconds,
        success_threshold,
        failure_threshold,
        termination_grace_period_seconds,
    })
}

pub(super) fn read_lifecycle(field: &Field<'_>) -> Option<Lifecycle> {
    let object = field.object()?;
    let lifecycle = Lifecycle {
        post_start: read_hook(&object.field("postStart")),
        pre_stop: read_hook(&object.field("preStop")),
        stop_signal: owned_text(&object.field("stopSignal")),
    };
    object.finish();
    Some(lifecycle)
}

fn read_hook(field: &Field<'_>) -> Option<Handler> {
    let object = field.object()?;
    let handler = read_handler(field, &object, &HOOK_HANDLERS);
    object.finish();
    handler
}

/// Exactly one of the names must be there.
fn read_handler(field: &Field<'_>, object: &Object<'_>, names: &[&'static str]) -> Option<Handler> {
    let mut present = names
        .iter()
        .map(|name| (*name, object.field(name)))
        .filter(|(_, action)| action.is_present());
    let (first, second) = (present.next(), present.next());
    let (name, action) = match (first, second) {
        (Some(only), None) => only,
        (None, _) => {
            field.report(
                None,
                "nothing says what is to be done",
                &format!("Name exactly one of {}.", names.join(", ")),
            );
            return None;
        }
        (Some(_), Some((name, second))) => {
            let message = format!("{name} stands here beside another action");
            second.report(None, message, &format!("Keep exactly one of {}.", names.join(", ")));
            return None;
        }
    };
    let object = action.object()?;
    let handler = match name {
        "exec" => read_exec(&object).map(Handler::Exec),
        "httpGet" => read_http_get(&object).map(Handler::HttpGet),
        "tcpSocket" => {
            let (port, host) = (read_port(&object.required("port")), owned_text(&object.field("host")));
            port.map(|port| Handler::TcpSocket(TcpSocketAction { port, host }))
        }
        "grpc" => {
            let port = object.required("port").integer();
            let service = object.field("service").text().map(str::to_owned);
            port.map(|port| Handler::Grpc(GrpcAction { port, service }))
        }
        _ => object
            .required("seconds")
            .integer()
            .map(|seconds| Handler::Sleep(SleepAction { seconds })),
    };
    object.finish();
    handler
}

fn read_exec(object: &Object<'_>) -> Option<ExecAction> {
    let field = object.required("command");
    let before_count = field.items().len();
    let command = field.texts();
    if field.is_present() && before_count == 0 && matches!(field.node()?.value, Value::Sequence(_)) {
        field.report(
            None,
            "the command is empty",
            "Name the program, and its arguments after it.",
        );
    }
    Some(ExecAction { command })
}

fn read_http_get(object: &Object<'_>) -> Option<HttpGetAction> {
    let path = owned_text(&object.field("path"));
    let port = read_port(&object.required("port"));
    let host = owned_text(&object.field("host"));
    let scheme = object
        .field("scheme")
        .choice(&[("HTTP", "HTTP"), ("HTTPS", "HTTPS")])
        .map(str::to_owned);
    let headers = object.field("httpHeaders").items();
    let http_headers = headers.iter().filter_map(read_header).collect();
    Some(HttpGetAction {
        path,
        port: port?,
        host,
        scheme,
        http_headers,
    })
}

fn read_header(field: &Field<'_>) -> Option<HttpHeader> {
    let object = field.object()?;
    let name = owned_text(&object.required("name"));
    let value = object.required("value").hide_values().text().map(str::to_owned);
    object.finish();
    Some(HttpHeader {
        name: name?,
        value: value?,
    })
}

fn read_port(field: &Field<'_>) -> Option<Port> {
    match &field.node()?.value {
        Value::Text(_) => owned_text(field).map(Port::Name),
        _ => field.integer().map(Port::Number),
    }
}
