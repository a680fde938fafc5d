//! `latticectl service list`: how far each service came, and where its chain stopped.

use lattice_api::v1::{Condition, ListServicesRequest, ServiceStatus};
use serde::Serialize;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Output, Tone, or_dash, plain},
};

#[derive(Serialize)]
struct ServiceList {
    items: Vec<ServiceItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceItem {
    namespace: String,
    name: String,
    /// Type of the first condition that is not True; `None` where all are.
    stopped_at: Option<String>,
    conditions: Vec<ConditionItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConditionItem {
    #[serde(rename = "type")]
    condition_type: String,
    status: String,
    reason: String,
    message: String,
}

pub(crate) async fn run(
    connection: &mut Connection,
    output: &mut Output,
    namespace: Option<&str>,
) -> Result<(), Failure> {
    let request = ListServicesRequest {
        namespace: namespace.unwrap_or_default().to_owned(),
    };
    let mut client = connection.client.clone();
    let mut services = connection.answer(client.list_services(request)).await?.services;
    services.sort_by(|left, right| (&left.namespace, &left.name).cmp(&(&right.namespace, &right.name)));
    if output.is_json() {
        return output.json(
            "ServiceList",
            ServiceList {
                items: services.into_iter().map(item).collect(),
            },
        );
    }
    let header = ["NAMESPACE", "SERVICE", "READY", "STOPPED AT", "REASON", "MESSAGE"];
    output.table(
        &header,
        services.iter().map(row).collect(),
        "Central has read no service there.",
    )
}

/// The first condition that is not True says where the chain stopped.
fn stopped_at(service: &ServiceStatus) -> Option<&Condition> {
    service.conditions.iter().find(|condition| condition.status != "True")
}

fn row(service: &ServiceStatus) -> Vec<(String, Tone)> {
    let name = [plain(&service.namespace), plain(&service.name)];
    let rest = match stopped_at(service) {
        // Without a condition nothing is known yet.
        None if service.conditions.is_empty() => [
            ("Unknown".to_owned(), Tone::Caution),
            plain("-"),
            plain("-"),
            plain("-"),
        ],
        None => [("True".to_owned(), Tone::Good), plain("-"), plain("-"), plain("-")],
        Some(condition) => [
            match condition.status.as_str() {
                "Unknown" => ("Unknown".to_owned(), Tone::Caution),
                _ => ("False".to_owned(), Tone::Bad),
            },
            plain(&condition.r#type),
            plain(or_dash(&condition.reason)),
            plain(or_dash(&condition.message)),
        ],
    };
    name.into_iter().chain(rest).collect()
}

fn item(service: ServiceStatus) -> ServiceItem {
    let condition = |condition: Condition| ConditionItem {
        condition_type: condition.r#type,
        status: condition.status,
        reason: condition.reason,
        message: condition.message,
    };
    ServiceItem {
        stopped_at: stopped_at(&service).map(|condition| condition.r#type.clone()),
        namespace: service.namespace,
        name: service.name,
        conditions: service.conditions.into_iter().map(condition).collect(),
    }
}
