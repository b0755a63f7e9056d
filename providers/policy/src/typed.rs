//! Policies that are components of the world `kubewasm:policy/policy`, and their calls to the host.
//!
//! What they say becomes the document that a program would have written, so that both are read alike.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use kubewasm_host::{CalledInstance, GuestCall, GuestState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use wasmtime::{Store, StoreContextMut, component::Linker};

use self::bindings::{
    Policy,
    exports::kubewasm::policy::validation::{Request, Verdict as TypedVerdict},
};
use crate::{
    asked::Granted,
    capabilities::Capability,
    evaluator::Call,
    host_call::{CallPlace, CallState, LONGEST_PAYLOAD},
};

#[allow(missing_docs, dead_code, unreachable_pub, reason = "generated; the world has the docs")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "policy",
        exports: { default: async },
        require_store_data_send: true,
    });
}

/// The interface that components import.
const HOST: &str = "kubewasm:policy/host@0.1.0";

/// Defines it. By hand: what is generated takes no state to go by.
pub(crate) fn link(linker: &mut Linker<GuestState>, place: CallPlace) -> wasmtime::Result<()> {
    linker.instance(HOST)?.func_wrap_async(
        "call",
        move |mut store: StoreContextMut<'_, GuestState>, asked: (String, String, Vec<u8>)| {
            Box::new(async move {
                let Some(CallState { granted, .. }) = place.of(store.data_mut()) else {
                    wasmtime::bail!("{HOST} is for policies");
                };
                let granted = granted.clone();
                Ok((ask(&granted, asked).await,))
            })
        },
    )
}

async fn ask(
    granted: &Granted,
    (namespace, operation, payload): (String, String, Vec<u8>),
) -> Result<Vec<u8>, String> {
    if payload.len() > LONGEST_PAYLOAD as usize {
        return Err(format!("the payload has {} bytes, and may have {LONGEST_PAYLOAD}", payload.len()));
    }
    let capability = Capability { namespace: &namespace, operation: &operation };
    granted.ask(capability, Bytes::from(payload)).await
}

/// Calls a component for one thing.
pub(crate) struct TypedCall {
    question: TypedQuestion,
}

enum TypedQuestion {
    Validate { request: Request, settings: String },
    ValidateSettings(String),
}

/// The document that programs read.
#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    request: &'a RawValue,
    #[serde(borrow)]
    settings: &'a RawValue,
}

/// As much of a request as is handed over by its name. What has another form is not one to an API server.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Outline {
    uid: Value,
    operation: Value,
    namespace: Value,
    name: Value,
}

impl TypedCall {
    /// Reads the document of a program.
    ///
    /// # Errors
    /// Where it is none, in words.
    pub(crate) fn new(call: Call, document: &[u8]) -> Result<Self, String> {
        let none = |error: serde_json::Error| format!("what is to be judged cannot be read: {error}");
        let question = match call {
            Call::Validate => {
                let Asked { request, settings } = serde_json::from_slice(document).map_err(none)?;
                let outline: Outline = serde_json::from_str(request.get()).unwrap_or_default();
                let text = |value: Value| match value {
                    Value::String(text) if !text.is_empty() => Some(text),
                    _ => None,
                };
                let request = Request {
                    uid: text(outline.uid).unwrap_or_default(),
                    operation: text(outline.operation),
                    namespace: text(outline.namespace),
                    name: text(outline.name),
                    json: request.get().to_owned(),
                };
                TypedQuestion::Validate { request, settings: settings.get().to_owned() }
            }
            Call::ValidateSettings => {
                let settings: &RawValue = serde_json::from_slice(document).map_err(none)?;
                TypedQuestion::ValidateSettings(settings.get().to_owned())
            }
        };
        Ok(Self { question })
    }
}

#[async_trait]
impl GuestCall<Result<Vec<u8>, String>> for TypedCall {
    async fn call(
        self,
        store: &mut Store<GuestState>,
        instance: CalledInstance,
    ) -> wasmtime::Result<Result<Vec<u8>, String>> {
        let CalledInstance::Component(instance) = instance else {
            wasmtime::bail!("a core module is not called by the types of a component");
        };
        let policy = Policy::new(&mut *store, &instance)?;
        let validation = policy.kubewasm_policy_validation();
        Ok(match self.question {
            TypedQuestion::Validate { request, settings } => {
                let verdict = validation.call_validate(&mut *store, &request, &settings).await?;
                verdict.and_then(|verdict| document(&verdict))
            }
            TypedQuestion::ValidateSettings(settings) => {
                let valid = validation.call_validate_settings(&mut *store, &settings).await?;
                let message = valid.err();
                let said = SettingsDocument { valid: message.is_none(), message };
                serde_json::to_vec(&said).map_err(|error| error.to_string())
            }
        })
    }
}

/// What a program would have written.
#[derive(Serialize)]
struct VerdictDocument<'a> {
    accepted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutated_object: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct SettingsDocument {
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

fn document(verdict: &TypedVerdict) -> Result<Vec<u8>, String> {
    let object = verdict.mutated_object.as_deref().map(serde_json::from_str::<&RawValue>).transpose();
    let document = VerdictDocument {
        accepted: verdict.accepted,
        message: verdict.message.as_deref(),
        code: verdict.code,
        mutated_object: object
            .map_err(|error| format!("the policy's mutated-object cannot be read: {error}"))?,
        audit_annotations: verdict
            .audit_annotations
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect(),
        warnings: &verdict.warnings,
    };
    serde_json::to_vec(&document).map_err(|error| format!("the policy's verdict cannot be written: {error}"))
}
