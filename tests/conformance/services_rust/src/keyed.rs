use restate_sdk::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::witness::note;

#[object]
pub trait Counter {
    async fn add(amount: i64) -> HandlerResult<i64>;
    #[shared]
    async fn get() -> HandlerResult<i64>;
}

pub struct TheCounter;

impl Counter for TheCounter {
    async fn add(&self, ctx: ObjectContext<'_>, amount: i64) -> HandlerResult<i64> {
        let total = ctx.get::<i64>("total").await?.unwrap_or(0) + amount;
        ctx.set("total", total);
        Ok(total)
    }

    async fn get(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<i64> {
        Ok(ctx.get::<i64>("total").await?.unwrap_or(0))
    }
}

/// `Store` and `LazyStore`: what makes the second lazy is said where it is bound.
#[object]
pub trait Store {
    async fn script(operations: Json<Vec<Vec<Value>>>) -> HandlerResult<Json<Vec<Value>>>;
    #[shared]
    async fn read(names: Json<Vec<String>>) -> HandlerResult<Json<Vec<Value>>>;
    #[shared]
    async fn names() -> HandlerResult<Json<Vec<String>>>;
}

pub struct TheStore;

fn value(found: Option<Json<Value>>) -> Value {
    found.map_or(Value::Null, Json::into_inner)
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

impl Store for TheStore {
    async fn script(
        &self,
        ctx: ObjectContext<'_>,
        Json(operations): Json<Vec<Vec<Value>>>,
    ) -> HandlerResult<Json<Vec<Value>>> {
        let mut results = Vec::new();
        for operation in &operations {
            let text = |i: usize| operation.get(i).and_then(Value::as_str).unwrap_or_default();
            let mut result = Value::Null;
            match text(0) {
                "set" => ctx.set(text(1), Json(operation[2].clone())),
                "get" => result = value(ctx.get(text(1)).await?),
                "clear" => ctx.clear(text(1)),
                "clear_all" => ctx.clear_all(),
                "keys" => result = json!(sorted(ctx.get_keys().await?)),
                other => Err(TerminalError::new(format!("no such operation: {other}")))?,
            }
            results.push(result);
        }
        Ok(Json(results))
    }

    async fn read(
        &self,
        ctx: SharedObjectContext<'_>,
        Json(names): Json<Vec<String>>,
    ) -> HandlerResult<Json<Vec<Value>>> {
        let mut values = Vec::new();
        for name in &names {
            values.push(value(ctx.get(name).await?));
        }
        Ok(Json(values))
    }

    async fn names(&self, ctx: SharedObjectContext<'_>) -> HandlerResult<Json<Vec<String>>> {
        Ok(Json(sorted(ctx.get_keys().await?)))
    }
}

#[derive(Deserialize)]
pub struct Run {
    witness: String,
    wait: bool,
}

#[workflow]
pub trait Approval {
    async fn run(command: Json<Run>) -> HandlerResult<Json<Value>>;
    #[shared]
    async fn decide(value: Json<Value>) -> HandlerResult<String>;
}

pub struct TheApproval;

impl Approval for TheApproval {
    async fn run(&self, ctx: WorkflowContext<'_>, Json(command): Json<Run>) -> HandlerResult<Json<Value>> {
        ctx.run(|| async move { Ok(note(&command.witness, "")?) })
            .name("begin")
            .await?;
        if !command.wait {
            return Ok(Json(json!("at once")));
        }
        ctx.set("status", "waiting".to_owned());
        let decision = ctx.promise::<Json<Value>>("decision").await?;
        ctx.set("status", "done".to_owned());
        Ok(decision)
    }

    async fn decide(&self, ctx: SharedWorkflowContext<'_>, value: Json<Value>) -> HandlerResult<String> {
        ctx.resolve_promise("decision", value);
        Ok("decided".to_owned())
    }
}
