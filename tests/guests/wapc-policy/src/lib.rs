//! An admission policy that is called by waPC, without a library for that. Its settings say what it does: it refuses an object by its
//! name (`deny`), asks its host (`ask`), fails (`fail`), or computes for ever (`spin`).

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

#[link(wasm_import_module = "wapc")]
unsafe extern "C" {
    fn __guest_request(operation: *mut u8, payload: *mut u8);
    fn __guest_response(at: *const u8, length: usize);
    fn __guest_error(at: *const u8, length: usize);
    fn __console_log(at: *const u8, length: usize);
    fn __host_call(
        binding: *const u8,
        binding_length: usize,
        namespace: *const u8,
        namespace_length: usize,
        operation: *const u8,
        operation_length: usize,
        payload: *const u8,
        payload_length: usize,
    ) -> usize;
    fn __host_response_len() -> usize;
    fn __host_response(at: *mut u8);
    fn __host_error_len() -> usize;
    fn __host_error(at: *mut u8);
}

/// Counts what prepares an instance and what is called of it.
static CALLS: AtomicU32 = AtomicU32::new(0);

#[unsafe(no_mangle)]
extern "C" fn wapc_init() {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

#[unsafe(no_mangle)]
extern "C" fn __guest_call(operation_length: usize, payload_length: usize) -> i32 {
    let (mut operation, mut payload) = (vec![0; operation_length], vec![0; payload_length]);
    // SAFETY: both have as many bytes as the host writes.
    unsafe { __guest_request(operation.as_mut_ptr(), payload.as_mut_ptr()) };
    let line = format!("called for {}", String::from_utf8_lossy(&operation));
    // SAFETY: the text is valid for the time of the call.
    unsafe { __console_log(line.as_ptr(), line.len()) };
    let answer = match &*operation {
        b"validate" => validate(&payload),
        b"validate_settings" => validate_settings(&payload),
        b"protocol_version" => Ok(json!("v1")),
        _ => Err("there is no such operation".to_owned()),
    };
    match answer {
        Ok(answer) => {
            let text = answer.to_string();
            // SAFETY: as above.
            unsafe { __guest_response(text.as_ptr(), text.len()) };
            1
        }
        Err(text) => {
            // SAFETY: as above.
            unsafe { __guest_error(text.as_ptr(), text.len()) };
            0
        }
    }
}

fn validate(payload: &[u8]) -> Result<Value, String> {
    let asked: Value = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    let settings = &asked["settings"];
    while settings["spin"] == true {}
    if settings["fail"] == true {
        return Err("as it was told".to_owned());
    }
    if settings["count"] == true {
        // Of an instance that was used before it would be more.
        let count = CALLS.fetch_add(1, Ordering::Relaxed);
        return Ok(json!({ "accepted": false, "message": count.to_string() }));
    }
    let name = asked["request"]["object"]["metadata"]["name"].as_str().unwrap_or_default();
    if settings["deny"] == name {
        return Ok(json!({ "accepted": false, "message": format!("{name} is denied"), "code": 403 }));
    }
    match settings["ask"].as_object() {
        Some(question) => {
            let text = |name: &str| question[name].as_str().unwrap_or_default();
            let answer = ask(text("namespace"), text("operation"), &question["payload"].to_string());
            let (accepted, message) = match answer {
                Ok(answer) => (true, answer),
                Err(error) => (false, error),
            };
            Ok(json!({ "accepted": accepted, "message": message }))
        }
        None => Ok(json!({ "accepted": true })),
    }
}

fn validate_settings(payload: &[u8]) -> Result<Value, String> {
    let settings: Value = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    match settings["invalid"].as_str() {
        Some(reason) => Ok(json!({ "valid": false, "message": reason })),
        None => Ok(json!({ "valid": true })),
    }
}

fn ask(namespace: &str, operation: &str, payload: &str) -> Result<String, String> {
    let binding = "kubewarden";
    // SAFETY: the texts are valid for the time of the call.
    let code = unsafe {
        __host_call(
            binding.as_ptr(),
            binding.len(),
            namespace.as_ptr(),
            namespace.len(),
            operation.as_ptr(),
            operation.len(),
            payload.as_ptr(),
            payload.len(),
        )
    };
    // SAFETY: each has as many bytes as the host writes.
    let text = unsafe {
        if code == 1 {
            let mut text = vec![0; __host_response_len()];
            __host_response(text.as_mut_ptr());
            text
        } else {
            let mut text = vec![0; __host_error_len()];
            __host_error(text.as_mut_ptr());
            text
        }
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    if code == 1 { Ok(text) } else { Err(text) }
}
