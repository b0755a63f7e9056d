//! HTTP requests that guests send, `wasi:http/outgoing-handler` of 0.2 and `wasi:http/client` of 0.3: all of them come through
//! [`OutgoingHttp`].

use wasmtime_wasi::WasiView;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::state::GuestState;

/// What a guest has of `wasi:http`.
#[derive(Default)]
pub(crate) struct GuestHttp {
    context: WasiHttpCtx,
    outgoing: OutgoingHttp,
}

/// Sends the requests of one guest.
#[derive(Debug, Default)]
struct OutgoingHttp;

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for OutgoingHttp {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let GuestHttp { context, outgoing } = &mut self.http;
        WasiHttpCtxView { hooks: outgoing, table: self.wasi.ctx().table, ctx: context }
    }
}
