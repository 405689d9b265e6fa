//! Errors of the API server's client, as a person can use them.

use std::error::Error;

/// The whole chain of causes; of what the API server says, its message alone.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            return status.message.clone();
        }
        let said = cause.to_string();
        // Some causes repeat those behind them.
        if !text.contains(&said) {
            if !text.is_empty() {
                text += ": ";
            }
            text += &said;
        }
        next = cause.source();
    }
    text
}
