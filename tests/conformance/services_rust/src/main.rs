//! The services of the contract that a few cases need, written with the official Rust SDK. `PORT`, `PREFIX`, `VERSION`
//! and `WITNESS_DIR` say how they are served, until the process is killed.
//!
//! The names of services are known only when the process starts, and a prefix can be put only before those of services
//! that are defined as traits: that way is deprecated, but it is in the SDK.
#![allow(deprecated)]

mod keyed;
mod plain;
mod witness;

use std::time::Duration;

use restate_sdk::discovery::ServiceName;
use restate_sdk::endpoint::ServiceOptions;
use restate_sdk::prelude::*;
use restate_sdk::service::macro_support::{ServiceBoxFuture, service_definition};
use restate_sdk::service::{Discoverable, Service, ServiceDefinition};

use keyed::{Approval, Counter, Store, TheApproval, TheCounter, TheStore};
use plain::{Caller, Cancellable, Echo, Failing, Steps, Timers, Versioned, Waiting};
use plain::{TheCaller, TheCancellable, TheEcho, TheFailing, TheSteps, TheTimers, TheVersioned, TheWaiting};
use witness::told;

fn named<S>(name: &str, served: S, options: ServiceOptions) -> ServiceDefinition
where
    S: Service<Future = ServiceBoxFuture> + Discoverable + Send + Sync + 'static,
{
    let mut discovery = S::discover();
    discovery.name = ServiceName::try_from(told("PREFIX") + name).expect("a valid name");
    service_definition(served, discovery).options(options)
}

fn quickly() -> ServiceOptions {
    ServiceOptions::new()
        .retry_policy_initial_interval(Duration::from_millis(20))
        .retry_policy_exponentiation_factor(2.0)
        .retry_policy_max_interval(Duration::from_millis(200))
        .retry_policy_max_attempts(10_000)
}

fn brief() -> ServiceOptions {
    quickly().inactivity_timeout(Duration::from_millis(200))
}

#[tokio::main]
async fn main() {
    let endpoint = Endpoint::builder()
        .bind(named("Echo", TheEcho.serve(), quickly()))
        .bind(named("Steps", TheSteps.serve(), quickly()))
        .bind(named("Failing", TheFailing.serve(), quickly()))
        .bind(named("Caller", TheCaller.serve(), brief()))
        .bind(named("Timers", TheTimers.serve(), brief()))
        .bind(named("Waiting", TheWaiting.serve(), brief()))
        .bind(named("Cancellable", TheCancellable.serve(), brief()))
        .bind(named("Versioned", TheVersioned.serve(), brief()))
        .bind(named("Counter", TheCounter.serve(), brief()))
        .bind(named("Store", TheStore.serve(), quickly()))
        .bind(named("LazyStore", TheStore.serve(), quickly().enable_lazy_state(true)))
        .bind(named("Approval", TheApproval.serve(), brief()))
        .build();
    let address = format!("127.0.0.1:{}", told("PORT")).parse().expect("an address");
    HttpServer::new(endpoint).listen_and_serve(address).await;
}
