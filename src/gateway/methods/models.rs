//! The models that are configured.

use serde_json::{Value, json};

use crate::config::load::Loaded;
use crate::gateway::Gateway;
use crate::gateway::broadcast;
use crate::gateway::table::{Call, need};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::params::{NonEmpty, Text};
use crate::protocol::version::Protocol;

crate::methods! {
    "models.list", Both, need::READ, need::READ, Loop list;
}

crate::params! {
    /// Which of them, and how much of each.
    pub struct ListParams {
        @v4 {
            agent_id: Option<NonEmpty> = "agentId",
            session_key: Option<NonEmpty> = "sessionKey",
            auth_profile_id: Option<Text<1, 256>> = "authProfileId",
            provider: Option<NonEmpty> = "provider",
            include_details: Option<bool> = "includeDetails",
            include_provider_capabilities: Option<bool> = "includeProviderCapabilities",
            include_default_models: Option<bool> = "includeDefaultModels",
            prepared_only: Option<bool> = "preparedOnly",
            refresh: Option<bool> = "refresh",
            view: Option<View> = "view",
        }
    }
}

crate::words! {
    /// Which list; there is one, the configured models, under all of these names.
    pub enum View {
        /// What a person chooses from.
        Default = "default",
        /// What the configuration names.
        Configured = "configured",
        /// By provider.
        ProviderConfig = "provider-config",
        /// Everything.
        All = "all",
    }
}

fn list(gateway: &mut Gateway, call: &Call, params: ListParams) -> Result<Value, RpcError> {
    Ok(catalog(&gateway.config, call.protocol(), params.provider.as_ref().map(|id| id.0.as_str())))
}

fn catalog(config: &Loaded, protocol: Protocol, provider: Option<&str>) -> Value {
    let primary = config.settings.agents.defaults.model.primary.as_deref();
    let mut models = Vec::new();
    for candidate in &config.settings.models.providers {
        if provider.is_some_and(|wanted| wanted != candidate.id) {
            continue;
        }
        for model in &candidate.models {
            let mut row = json!({ "id": model.id, "name": model.name, "provider": candidate.id });
            if let Some(window) = model.context_window {
                row["contextWindow"] = json!(window);
            }
            row["reasoning"] = json!(model.reasoning);
            match protocol {
                Protocol::V3 => row["input"] = json!(model.input),
                Protocol::V4 => {
                    if primary == Some(format!("{}/{}", candidate.id, model.id).as_str()) {
                        row["tags"] = json!(["default"]);
                    }
                    // Nothing can ask it yet.
                    row["available"] = json!(false);
                }
            }
            models.push(row);
        }
    }
    json!({ "models": models })
}

impl Gateway {
    /// Sends the catalogue a client asked for with its connect.
    pub(in crate::gateway) fn send_model_catalog(&mut self, conn: ConnId, target: Option<Value>) {
        let Some(target) = target.filter(Value::is_object) else { return };
        let agent = target.get("agentId").and_then(Value::as_str).unwrap_or(&self.keys.default_agent);
        let mut scope = json!({ "agentId": agent });
        if let Some(key) = target.get("sessionKey") {
            scope["sessionKey"] = key.clone();
        }
        let catalog = catalog(&self.config, Protocol::V4, None);
        if let Ok(payload) = Json::of(&json!({ "target": target, "scope": scope, "catalog": catalog })) {
            self.send_event(conn, &broadcast::MODELS_SNAPSHOT, &payload);
        }
    }
}
