//! Registers: the names of some users, each name holding a number that is never used twice.

use anyhow::{Context as _, Result};
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Client, api::Call, spawn_each};
use crate::history::{Answer, Op};

const CLIENTS: usize = 4;
/// Few, so that clients meet.
const REGISTERS: usize = 4;

/// A register and the user whose name it is.
#[derive(Clone)]
struct Register {
    key: String,
    user: String,
    /// What reads ask for.
    consistency: &'static str,
}

pub(super) async fn spawn(
    consistency: &'static str,
    client: &mut impl FnMut() -> Client,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let mut first = client();
    let mut registers = Vec::new();
    for number in 0..REGISTERS {
        let key = format!("user-{number}");
        let body = json!({ "name": name(&key, 0) });
        let made = first.insist(Call::of("POST", "/user", Some(body))).await?;
        let user = made.body["user"]["id"]
            .as_str()
            .context("the user's id")?
            .to_owned();
        registers.push(Register {
            key,
            user,
            consistency,
        });
    }
    spawn_each(CLIENTS, client, tasks, |client| {
        work(client, registers.clone())
    });
    Ok(())
}

async fn work(mut client: Client, registers: Vec<Register>) -> Result<()> {
    while !client.is_stopped() {
        let place = client.random.random_range(0..registers.len());
        let register = registers.get(place).context("a register")?;
        if client.random.random() {
            read(&mut client, register).await?;
        } else {
            write(&mut client, register).await?;
        }
        client.pause().await;
    }
    // What the register holds in the end.
    for register in &registers {
        read(&mut client, register).await?;
    }
    Ok(())
}

async fn read(client: &mut Client, register: &Register) -> Result<()> {
    let op = Op::Read {
        key: register.key.clone(),
    };
    let Register {
        user, consistency, ..
    } = register;
    let call = Call::get(format!("/user?id={user}&consistency={consistency}"));
    let value = |body: &Value| value_of(&body["users"][0]["name"], &register.key);
    client.ask(op, call, |reply| value(&reply.body)).await?;
    Ok(())
}

async fn write(client: &mut Client, register: &Register) -> Result<()> {
    let (key, value) = (register.key.clone(), client.fresh());
    let path = format!("/user/{}/rename/{}", register.user, name(&key, value));
    let call = Call::of("POST", path, None);
    client
        .ask(Op::Write { key, value }, call, |_| Ok(Answer::Nothing))
        .await?;
    Ok(())
}

fn name(key: &str, value: u64) -> String {
    format!("{key}-v{value}")
}

/// The number in a name.
pub(super) fn value_of(name: &Value, key: &str) -> Result<Answer> {
    let digits = name
        .as_str()
        .and_then(|name| name.strip_prefix(key)?.strip_prefix("-v"));
    let value = digits.and_then(|digits| digits.parse().ok());
    let value = value.with_context(|| format!("{name} is no name of {key}"))?;
    Ok(Answer::Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_its_value() {
        let name = Value::from(name("user-1", 17));
        assert_eq!(
            value_of(&name, "user-1").unwrap(),
            Answer::Value { value: 17 }
        );
        assert!(value_of(&name, "user-2").is_err());
        assert!(value_of(&Value::Null, "user-1").is_err());
    }
}
