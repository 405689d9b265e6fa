//! What must hold for any state document whatever: shared by the fuzz target and the tests.

use spillway_api::Document;

/// Reads a text as a document. What is accepted is the same again when it is written as JSON or
/// YAML and read; a refusal has words, in one line. Returns whether it was accepted.
///
/// A file or a request that is not UTF-8 does not come this far: what can be read of it is tried.
pub(crate) fn check(input: &[u8]) -> bool {
    match Document::parse(&String::from_utf8_lossy(input)) {
        Ok(document) => {
            let json = serde_json::to_string(&document).unwrap();
            assert_eq!(Document::parse(&json).unwrap(), document);
            let yaml = serde_saphyr::to_string(&document).unwrap();
            assert_eq!(Document::parse(&yaml).unwrap(), document, "{yaml}");
            true
        }
        Err(problem) => {
            assert!(!problem.message.is_empty());
            assert!(!problem.to_string().contains(char::is_control), "{problem}");
            false
        }
    }
}
