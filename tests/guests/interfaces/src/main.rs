//! A command that does with host interfaces what its arguments say, one step each, and prints a line about each.

use wasi::{
    blobstore::{
        blobstore,
        types::{ObjectId, OutgoingValue},
    },
    config0_2_0_draft::runtime,
    config0_2_0_rc_1::store as config,
    io::streams::StreamError,
    keyvalue::{atomics, batch, store},
    logging::logging,
};
use wasmcloud::messaging::{consumer, types::BrokerMessage};

wit_bindgen::generate!({
    path: "../../../providers/workload/wit",
    world: "host-interfaces",
    generate_all,
});

fn main() {
    for step in std::env::args().skip(1) {
        let words: Vec<&str> = step.split(' ').collect();
        match run(&words) {
            Ok(text) => println!("{step} -> {text}"),
            Err(text) => println!("{step} -> error: {text}"),
        }
    }
}

fn run(words: &[&str]) -> Result<String, String> {
    match *words {
        ["set", bucket, key, value] => {
            open(bucket)?.set(key, value.as_bytes()).map_err(text)?;
            Ok("set".to_owned())
        }
        ["get", bucket, key] => Ok(shown(open(bucket)?.get(key).map_err(text)?)),
        ["delete", bucket, key] => open(bucket)?.delete(key).map(|()| "deleted".to_owned()).map_err(text),
        ["exists", bucket, key] => open(bucket)?.exists(key).map(|exists| exists.to_string()).map_err(text),
        ["increment", bucket, key, delta] => {
            let delta = delta.parse().map_err(text)?;
            atomics::increment(&open(bucket)?, key, delta).map(|number| number.to_string()).map_err(text)
        }
        ["set-many", bucket, ref pairs @ ..] => {
            let pair = |pair: &&str| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
            let pairs: Vec<_> = pairs.iter().filter_map(pair).collect();
            batch::set_many(&open(bucket)?, &pairs).map(|()| "set".to_owned()).map_err(text)
        }
        ["get-many", bucket, ref keys @ ..] => {
            let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
            let values = batch::get_many(&open(bucket)?, &keys).map_err(text)?;
            let values: Vec<_> = values.into_iter().map(|pair| shown(pair.map(|(_, value)| value))).collect();
            Ok(values.join(","))
        }
        ["keys", bucket] => {
            let bucket = open(bucket)?;
            let (mut pages, mut keys, mut cursor) = (0, Vec::new(), None);
            loop {
                let page = bucket.list_keys(cursor).map_err(text)?;
                pages += 1;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break;
                }
            }
            keys.sort();
            Ok(format!("{} in {pages}: {}", keys.len(), keys.join(",")))
        }
        ["fill", bucket, count] => {
            let bucket = open(bucket)?;
            for number in 0..count.parse::<u32>().map_err(text)? {
                bucket.set(&format!("key-{number}"), b"").map_err(text)?;
            }
            Ok("filled".to_owned())
        }
        ["config", key] => Ok(config::get(key).map_err(text)?.unwrap_or_else(|| "none".to_owned())),
        ["configs"] => Ok(format!("{:?} {:?}", config::get_all().map_err(text)?, runtime::get_all().map_err(text)?)),
        ["log", context, message] => {
            logging::log(logging::Level::Warn, context, message);
            Ok("logged".to_owned())
        }
        ["publish", subject, body] => {
            let message = BrokerMessage { subject: subject.to_owned(), body: body.as_bytes().to_vec(), reply_to: None };
            consumer::publish(&message).map(|()| "published".to_owned())
        }
        ["request", subject, body] => {
            let answer = consumer::request(subject, body.as_bytes(), 2000)?;
            Ok(shown(Some(answer.body)))
        }
        _ => blobs(words),
    }
}

fn blobs(words: &[&str]) -> Result<String, String> {
    let id = |container: &str, object: &str| ObjectId { container: container.to_owned(), object: object.to_owned() };
    match *words {
        ["create", container] => blobstore::create_container(container)?.name(),
        ["has", container] => blobstore::container_exists(container).map(|exists| exists.to_string()),
        ["remove", container] => blobstore::delete_container(container).map(|()| "removed".to_owned()),
        ["write", container, object, data] => write(container, object, data.as_bytes().chunks(3), true),
        // Says where to only after it has written.
        ["write-late", container, object, data] => {
            let value = OutgoingValue::new_outgoing_value();
            let body = value.outgoing_value_write_body().map_err(|()| "no body")?;
            body.blocking_write_and_flush(data.as_bytes()).map_err(failed)?;
            drop(body);
            blobstore::get_container(container)?.write_data(object, &value)?;
            OutgoingValue::finish(value).map(|()| "written".to_owned())
        }
        ["abandon", container, object, data] => write(container, object, data.as_bytes().chunks(3), false),
        ["write-zeroes", container, object, mebibytes] => {
            let piece = vec![0; 4096];
            let pieces = mebibytes.parse::<usize>().map_err(text)? * 256;
            write(container, object, std::iter::repeat_n(&*piece, pieces), true)
        }
        ["read", container, object, start, end] => {
            let end = if end == "end" { u64::MAX } else { end.parse().map_err(text)? };
            let container = blobstore::get_container(container)?;
            let value = container.get_data(object, start.parse().map_err(text)?, end)?;
            let size = value.size();
            let bytes = wasi::blobstore::types::IncomingValue::incoming_value_consume_sync(value)?;
            Ok(format!("{size} {}", String::from_utf8_lossy(&bytes)))
        }
        ["count", container, object] => {
            let value = blobstore::get_container(container)?.get_data(object, 0, u64::MAX)?;
            let stream = wasi::blobstore::types::IncomingValue::incoming_value_consume_async(value)?;
            let mut count = 0;
            loop {
                match stream.blocking_read(1 << 20) {
                    Ok(bytes) => count += bytes.len(),
                    Err(StreamError::Closed) => return Ok(count.to_string()),
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        ["list", container] => {
            let names = blobstore::get_container(container)?.list_objects()?;
            let mut all = Vec::new();
            loop {
                let (some, is_end) = names.read_stream_object_names(2)?;
                all.extend(some);
                if is_end {
                    all.sort();
                    return Ok(all.join(","));
                }
            }
        }
        ["info", container, object] => {
            let info = blobstore::get_container(container)?.object_info(object)?;
            Ok(format!("{}/{} {}", info.container, info.name, info.size))
        }
        ["copy", from, object, to, copied] => {
            blobstore::copy_object(&id(from, object), &id(to, copied)).map(|()| "copied".to_owned())
        }
        ["move", from, object, to, moved] => {
            blobstore::move_object(&id(from, object), &id(to, moved)).map(|()| "moved".to_owned())
        }
        ["unlink", container, object] => {
            blobstore::get_container(container)?.delete_object(object).map(|()| "deleted".to_owned())
        }
        ["clear", container] => blobstore::get_container(container)?.clear().map(|()| "cleared".to_owned()),
        _ => Err("there is no such step".to_owned()),
    }
}

fn write<'a>(
    container: &str,
    object: &str,
    pieces: impl Iterator<Item = &'a [u8]>,
    is_finished: bool,
) -> Result<String, String> {
    let container = blobstore::get_container(container)?;
    let value = OutgoingValue::new_outgoing_value();
    let body = value.outgoing_value_write_body().map_err(|()| "no body")?;
    container.write_data(object, &value)?;
    for piece in pieces {
        body.blocking_write_and_flush(piece).map_err(failed)?;
    }
    drop(body);
    let before = container.has_object(object)?;
    if is_finished {
        OutgoingValue::finish(value)?;
    }
    Ok(format!("{before}"))
}

fn open(bucket: &str) -> Result<store::Bucket, String> {
    store::open(bucket).map_err(text)
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn failed(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => error.to_debug_string(),
    }
}

fn shown(value: Option<Vec<u8>>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
}
