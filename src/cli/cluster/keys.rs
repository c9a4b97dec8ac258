//! `cluster rotate-sealing-key`, and what the status shows of keys.

use serde_json::json;

use super::super::context::Context;
use super::super::value::Value;

pub(super) async fn rotate_sealing(
    unseal: bool,
    context: &mut Context<'_, '_>,
) -> anyhow::Result<()> {
    let body = json!({ "unseal": unseal });
    let sealed = context.api()?.post("/cluster/sealing-key", body).await?;
    let key = sealed.text("sealingKey");
    let sentence = if key.is_empty() {
        "The secrets are stored unsealed; the key files are not needed any more".to_owned()
    } else {
        format!("The secrets are sealed under key {key}; older keys can leave the key files")
    };
    context.out.result(&sentence, &sealed)
}

/// Which key seals the secrets and which keys each replica holds; nothing without key files.
pub(super) fn seal(status: &Value) -> String {
    let members = status.get("members").items();
    let held = |member: &Value| member.texts("sealingKeys").join(", ");
    if members.iter().all(|member| held(member).is_empty()) {
        return String::new();
    }
    let files = members.iter().map(|member| match held(member) {
        keys if keys.is_empty() => format!("{} has none", member.text("name")),
        keys => format!("{} has {keys}", member.text("name")),
    });
    let files: Vec<String> = files.collect();
    let sealed = match status.text("sealingKey") {
        key if key.is_empty() => "not sealed".to_owned(),
        key => format!("sealed under key {key}"),
    };
    format!("\nSecrets are {sealed} ({})", files.join("; "))
}
