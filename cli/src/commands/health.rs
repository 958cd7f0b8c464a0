//! `strait health`.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::Connection;
use crate::report::{Outcome, Output, Result};

pub(crate) async fn run(connection: &Connection, output: &Output) -> Result<Outcome> {
    let mut client = HealthClient::new(connection.channel());
    let reply = client
        .check(HealthCheckRequest {
            service: String::new(),
        })
        .await?
        .into_inner();
    let serving = reply.status() == ServingStatus::Serving;
    output.print(&format!(
        "{} {}",
        connection.url,
        if serving {
            "is serving"
        } else {
            "is not serving"
        }
    ));
    output.print_json(
        &serde_json::json!({ "status": if serving { "done" } else { "failed" }, "serving": serving }),
    );
    Ok(if serving {
        Outcome::Done
    } else {
        Outcome::Temporary
    })
}
