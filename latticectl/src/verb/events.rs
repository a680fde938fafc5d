//! `latticectl events`.

use lattice_api::{
    event::{to_json_line, to_line},
    v1::ListEventsRequest,
};

use crate::{connection::Connection, failure::Failure, output::Output};

pub(crate) async fn run(
    connection: &mut Connection,
    output: &mut Output,
    follow: bool,
    namespace: Option<&str>,
    limit: u32,
) -> Result<(), Failure> {
    let request = ListEventsRequest {
        follow,
        namespace: namespace.unwrap_or_default().to_owned(),
        limit,
    };
    let mut client = connection.client.clone();
    let mut events = connection.answer(client.list_events(request)).await?;
    let mut count = 0_u64;
    loop {
        let event = match events.message().await {
            Ok(Some(event)) => event,
            Ok(None) => break,
            // Whether it was shut down or killed: there was an answer, and now there is none.
            Err(status) if follow && std::error::Error::source(&status).is_some() => break,
            Err(status) => return Err(connection.refused(status)),
        };
        count += 1;
        match output.is_json() {
            true => output.line(&to_json_line(&event))?,
            false => output.line(&to_line(&event))?,
        }
    }
    if follow {
        return Err(Failure::StreamEnded {
            whom: connection.whom.clone(),
        });
    }
    if count == 0 && !output.is_json() {
        // For people, and not a result: standard output stays empty.
        eprintln!("No events: nothing was refused, and nothing would have been.");
    }
    Ok(())
}
