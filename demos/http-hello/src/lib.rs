//! Says hello over HTTP: which pod answers, of which version, and what it was asked for. It is a component that exports
//! `wasi:http/incoming-handler`, and holds nothing from one request to the next.

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam},
};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let name = |key| std::env::var(key).unwrap_or_else(|_| "nobody".to_owned());
        let path = request.path_with_query().unwrap_or_default();
        let text = format!("Hello from {}, version {}: you asked for {path}\n", name("HOSTNAME"), name("VERSION"));

        let headers = Fields::new();
        let (key, value) = ("content-type".to_owned(), b"text/plain; charset=utf-8".to_vec());
        headers.append(&key, &value).expect("fields of our own take any header that is one");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("nobody has taken the body before");
        ResponseOutparam::set(response_out, Ok(response));

        let stream = body.write().expect("nobody has taken the stream before");
        // As much as the call takes at a time. Whoever asked may have gone by now: then there is nobody to tell.
        let written = text.as_bytes().chunks(4096).try_for_each(|part| stream.blocking_write_and_flush(part));
        drop(stream);
        if written.is_ok() {
            let _ = OutgoingBody::finish(body, None);
        }
    }
}
