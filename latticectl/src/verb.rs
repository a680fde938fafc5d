//! What each verb asks, and how its answer is shown.

pub(crate) mod completion;
pub(crate) mod crds;
mod deny;
mod doctor;
mod events;
mod input;
mod mode;
pub(crate) mod policy_check;
pub(crate) mod policy_convert;
mod policy_list;
mod rollout;
mod service_list;
mod status;

use lattice_policy::Denied;

use crate::{
    arguments::{Arguments, DenyVerb, ModeVerb, PolicyVerb, ServiceVerb, Verb},
    connection::Connection,
    failure::Failure,
    output::Output,
};

/// Runs a verb that asks somebody; those that do not are run by `main`.
pub(crate) async fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    if let Verb::Doctor { require_tier, program } = &arguments.verb {
        // It has an answer also where nobody listens.
        return doctor::run(arguments, output, *require_tier, program.as_deref()).await;
    }
    let mut connection = Connection::open(arguments).await?;
    ask(&arguments.verb, &mut connection, output).await
}

async fn ask(verb: &Verb, connection: &mut Connection, output: &mut Output) -> Result<(), Failure> {
    match verb {
        Verb::Status => status::run(connection, output).await,
        Verb::Events {
            follow,
            namespace,
            limit,
        } => events::run(connection, output, *follow, namespace.as_deref(), *limit).await,
        Verb::Mode {
            verb:
                ModeVerb::Set {
                    namespace,
                    mode,
                    no_wait,
                },
        } => mode::set(connection, output, namespace, Some(*mode), !no_wait).await,
        Verb::Mode {
            verb: ModeVerb::Clear { namespace, no_wait },
        } => mode::set(connection, output, namespace, None, !no_wait).await,
        Verb::Mode {
            verb: ModeVerb::Get { namespace },
        } => mode::get(connection, output, namespace.as_deref()).await,
        Verb::Deny { verb } => deny(verb, connection, output).await,
        Verb::Rollout { verb } => rollout::run(verb, connection, output).await,
        Verb::Policy {
            verb: PolicyVerb::List { namespace },
        } => policy_list::run(connection, output, namespace.as_deref()).await,
        Verb::Policy {
            verb: PolicyVerb::Check { files },
        } => policy_check::run(files, output),
        Verb::Policy {
            verb: PolicyVerb::Convert { to, plain, files },
        } => policy_convert::run(*to, *plain, files, output),
        Verb::Service {
            verb: ServiceVerb::List { namespace },
        } => service_list::run(connection, output, namespace.as_deref()).await,
        Verb::Completion { shell } => completion::run(*shell),
        Verb::Crds => crds::run(),
        Verb::Doctor { .. } => Ok(()),
    }
}

async fn deny(verb: &DenyVerb, connection: &mut Connection, output: &mut Output) -> Result<(), Failure> {
    match verb {
        DenyVerb::Image {
            digest,
            kill_running,
            change,
        } => {
            let denied = Denied::Image(*digest);
            deny::set(
                connection,
                output,
                denied,
                *kill_running,
                &change.reason,
                !change.no_wait,
            )
            .await
        }
        DenyVerb::File { digest, change } => {
            let denied = Denied::File(*digest);
            deny::set(connection, output, denied, false, &change.reason, !change.no_wait).await
        }
        DenyVerb::Remove { of, digest, change } => match Denied::parse(of, digest) {
            Ok(denied) => deny::remove(connection, output, denied, &change.reason, !change.no_wait).await,
            // The command line was checked before.
            Err(error) => Err(Failure::Unreadable {
                whom: "the command line".to_owned(),
                reason: error.to_string(),
            }),
        },
        DenyVerb::List { history } => deny::list(connection, output, *history).await,
    }
}
