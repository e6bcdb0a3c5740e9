use std::collections::HashMap;
use std::time::Duration;

use restate_sdk::context::RequestTarget;
use restate_sdk::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::witness::{note, told};

#[service]
pub trait Echo {
    async fn echo(value: Json<Value>) -> HandlerResult<Json<Value>>;
}

pub struct TheEcho;

impl Echo for TheEcho {
    async fn echo(&self, _: Context<'_>, value: Json<Value>) -> HandlerResult<Json<Value>> {
        Ok(value)
    }
}

#[derive(Deserialize)]
pub struct ManySteps {
    witness: String,
    count: u64,
    #[serde(default)]
    ms: u64,
}

#[derive(Deserialize)]
pub struct FlakyStep {
    witness: String,
    failures: u64,
}

#[service]
pub trait Steps {
    async fn many(command: Json<ManySteps>) -> HandlerResult<u64>;
    async fn flaky(command: Json<FlakyStep>) -> HandlerResult<u64>;
}

pub struct TheSteps;

impl Steps for TheSteps {
    async fn many(&self, ctx: Context<'_>, Json(command): Json<ManySteps>) -> HandlerResult<u64> {
        let mut total = 0;
        for i in 0..command.count {
            let witness = command.witness.clone();
            total += ctx
                .run(|| async move {
                    note(&witness, i)?;
                    tokio::time::sleep(Duration::from_millis(command.ms)).await;
                    Ok(i)
                })
                .name(format!("step {i}"))
                .await?;
        }
        Ok(total)
    }

    async fn flaky(&self, ctx: Context<'_>, Json(command): Json<FlakyStep>) -> HandlerResult<u64> {
        let short = Duration::from_millis(20);
        let retry = RunRetryPolicy::new()
            .initial_delay(short)
            .max_delay(short)
            .exponentiation_factor(1.0);
        let step = || async move {
            let count = note(&command.witness, "")?;
            if count <= command.failures {
                Err("not yet")?
            }
            Ok(count)
        };
        Ok(ctx.run(step).name("flaky").retry_policy(retry).await?)
    }
}

#[derive(Deserialize)]
pub struct Failure {
    witness: String,
    code: u16,
    message: String,
}

/// The SDK's terminal errors have no metadata: none is asked for in the cases that are run with it.
#[service]
pub trait Failing {
    async fn terminal(command: Json<Failure>) -> HandlerResult<()>;
}

pub struct TheFailing;

impl Failing for TheFailing {
    async fn terminal(&self, _: Context<'_>, Json(command): Json<Failure>) -> HandlerResult<()> {
        note(&command.witness, "")?;
        Err(TerminalError::new_with_code(command.code, command.message).into())
    }
}

#[derive(Deserialize)]
pub struct Target {
    service: String,
    handler: String,
    key: Option<String>,
    value: Value,
    idempotency_key: Option<String>,
    #[serde(default)]
    headers: HashMap<String, String>,
    delay_ms: Option<u64>,
}

#[service]
pub trait Caller {
    async fn call(command: Json<Target>) -> HandlerResult<Json<Value>>;
    async fn send(command: Json<Target>) -> HandlerResult<String>;
}

pub struct TheCaller;

fn request<'a>(ctx: &Context<'a>, command: Target) -> Request<'a, Json<Value>, Json<Value>> {
    let target = match command.key {
        Some(key) => RequestTarget::object(command.service, key, command.handler),
        None => RequestTarget::service(command.service, command.handler),
    };
    let mut made = ctx.request(target, Json(command.value));
    if let Some(key) = command.idempotency_key {
        made = made.idempotency_key(key);
    }
    command
        .headers
        .into_iter()
        .fold(made, |made, (name, value)| made.header(name, value))
}

impl Caller for TheCaller {
    async fn call(&self, ctx: Context<'_>, Json(command): Json<Target>) -> HandlerResult<Json<Value>> {
        Ok(request(&ctx, command).call().await?)
    }

    async fn send(&self, ctx: Context<'_>, Json(command): Json<Target>) -> HandlerResult<String> {
        let delay = command.delay_ms.map(Duration::from_millis);
        let made = request(&ctx, command);
        let sent = match delay {
            Some(delay) => made.send_after(delay),
            None => made.send(),
        };
        Ok(sent.await?.invocation_id().to_owned())
    }
}

#[derive(Deserialize)]
pub struct Nap {
    ms: u64,
    before: Option<String>,
    after: Option<String>,
}

#[service]
pub trait Timers {
    async fn sleep(command: Json<Nap>) -> HandlerResult<String>;
}

pub struct TheTimers;

async fn noted(ctx: &Context<'_>, step: &str, witness: String, text: String) -> Result<u64, TerminalError> {
    ctx.run(|| async move { Ok(note(&witness, text)?) }).name(step).await
}

impl Timers for TheTimers {
    async fn sleep(&self, ctx: Context<'_>, Json(command): Json<Nap>) -> HandlerResult<String> {
        if let Some(witness) = command.before {
            noted(&ctx, "before", witness, String::new()).await?;
        }
        ctx.sleep(Duration::from_millis(command.ms)).await?;
        if let Some(witness) = command.after {
            noted(&ctx, "after", witness, String::new()).await?;
        }
        Ok("slept".to_owned())
    }
}

#[derive(Deserialize)]
pub struct Witnessed {
    witness: String,
}

#[service]
pub trait Waiting {
    async fn awakeable(command: Json<Witnessed>) -> HandlerResult<Json<Value>>;
}

pub struct TheWaiting;

impl Waiting for TheWaiting {
    async fn awakeable(&self, ctx: Context<'_>, Json(command): Json<Witnessed>) -> HandlerResult<Json<Value>> {
        let (id, answer) = ctx.awakeable::<Json<Value>>();
        noted(&ctx, "publish", command.witness, id).await?;
        Ok(answer.await?)
    }
}

#[derive(Deserialize)]
pub struct Undoable {
    witness: String,
    undone: String,
}

#[service]
pub trait Cancellable {
    async fn compensated(command: Json<Undoable>) -> HandlerResult<Json<Value>>;
}

pub struct TheCancellable;

impl Cancellable for TheCancellable {
    async fn compensated(&self, ctx: Context<'_>, Json(command): Json<Undoable>) -> HandlerResult<Json<Value>> {
        let (id, answer) = ctx.awakeable::<Json<Value>>();
        noted(&ctx, "publish", command.witness, id).await?;
        match answer.await {
            Ok(value) => Ok(value),
            Err(error) => {
                noted(&ctx, "undo", command.undone, String::new()).await?;
                Err(error.into())
            }
        }
    }
}

#[service]
pub trait Versioned {
    async fn version() -> HandlerResult<String>;
}

pub struct TheVersioned;

impl Versioned for TheVersioned {
    async fn version(&self, _: Context<'_>) -> HandlerResult<String> {
        Ok(told("VERSION"))
    }
}
