//! Buckets of S3 themselves, which `object_store` leaves to others.

use std::fmt;

use http::{Method, Request, StatusCode};
use object_store::{
    aws::{AwsAuthorizer, AwsCredential},
    client::{HttpRequestBody, HttpService as _},
};
use std::sync::Arc;
use url::Url;

use super::{BlobError, s3_http::Connections};
use crate::interfaces::text;

/// Makes, deletes and looks for buckets.
#[derive(Clone)]
pub(super) struct Buckets {
    connections: Connections,
    endpoint: Url,
    region: Arc<str>,
    credential: Option<Arc<AwsCredential>>,
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Buckets {
    pub(super) fn new(
        connections: Connections,
        endpoint: Url,
        region: &str,
        keys: Option<(&str, &str)>,
        token: Option<&str>,
    ) -> Self {
        let credential = keys.map(|(id, secret)| {
            let token = token.map(str::to_owned);
            Arc::new(AwsCredential { key_id: id.to_owned(), secret_key: secret.to_owned(), token })
        });
        Self { connections, endpoint, region: region.into(), credential }
    }

    pub(super) async fn create(&self, bucket: &str) -> Result<(), BlobError> {
        if self.exists(bucket).await? {
            return Ok(());
        }
        // The region that needs no saying is that in which it may not be said.
        let body = match &*self.region {
            "us-east-1" => String::new(),
            region => format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>",
                escaped(region)
            ),
        };
        match self.ask(Method::PUT, bucket, body).await? {
            status if status.is_success() => Ok(()),
            // Somebody else was faster.
            StatusCode::CONFLICT if self.exists(bucket).await? => Ok(()),
            status => Err(self.refused("make", bucket, status)),
        }
    }

    pub(super) async fn delete(&self, bucket: &str) -> Result<(), BlobError> {
        match self.ask(Method::DELETE, bucket, String::new()).await? {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            status => Err(self.refused("delete", bucket, status)),
        }
    }

    pub(super) async fn exists(&self, bucket: &str) -> Result<bool, BlobError> {
        match self.ask(Method::HEAD, bucket, String::new()).await? {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(self.refused("look for", bucket, status)),
        }
    }

    fn refused(&self, what: &str, bucket: &str, status: StatusCode) -> BlobError {
        BlobError(format!("S3 at {}: it does not {what} the bucket {bucket}: {status}", self.endpoint))
    }

    async fn ask(&self, method: Method, bucket: &str, body: String) -> Result<StatusCode, BlobError> {
        let failed = |error: &dyn std::error::Error| {
            BlobError(format!("S3 at {}: {}", self.endpoint, text::words(error)))
        };
        let url = format!("{}/{bucket}", self.endpoint.as_str().trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(url);
        request = request.header(http::header::CONTENT_LENGTH, body.len());
        let mut request = request.body(HttpRequestBody::from(body)).map_err(|error| failed(&error))?;
        if let Some(credential) = &self.credential {
            let authorizer = AwsAuthorizer::new(credential, "s3", &self.region);
            authorizer.try_authorize(&mut request, None).map_err(|error| failed(&error))?;
        }
        let response = self.connections.call(request).await.map_err(|error| failed(&error))?;
        Ok(response.status())
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
