//! Why the API server did not do what it was asked.

/// Why the cluster did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The pod does not exist any more, or another one has taken its name. Trying again is no use.
    #[error("the pod is gone")]
    Gone,
    /// The request failed; trying again may help.
    #[error("{0}")]
    Later(String),
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 404 => Self::Gone,
            // Another pod has taken the name; any other conflict passes.
            kube::Error::Api(status)
                if status.code == 409 && status.message.contains("UID in precondition") =>
            {
                Self::Gone
            }
            kube::Error::Api(status) => Self::Later(status.message.clone()),
            _ => Self::Later(error.to_string()),
        }
    }
}
