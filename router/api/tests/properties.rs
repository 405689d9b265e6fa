//! No text whatsoever makes the document's parser panic, and what it refuses has words.

// Only the bodies of `#[test]` functions are exempt by themselves.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use spillway_api::{Document, MacAddress, Request, Response};

const EXAMPLE: &str = include_str!("example.yaml");

/// Pieces that YAML, or the document, gives a meaning.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[-:?,\\[\\]{}#&*!|>'\"%@`~. \n\t]{1,4}",
        "(generation|tunnels|peers|address|policies|pods|pod_groups|kind|own|ports|flow|null|true)",
        "[0-9.:/-]{1,20}",
        any::<char>().prop_map(String::from),
    ]
}

/// What a document must do whatever it holds.
fn parse_and_print(text: &str) -> Result<(), TestCaseError> {
    match Document::parse(text) {
        Ok(document) => {
            let json = serde_json::to_string(&document).unwrap();
            prop_assert_eq!(Document::parse(&json).unwrap(), document);
        }
        Err(problem) => {
            prop_assert!(!problem.message.is_empty());
            prop_assert!(!problem.to_string().contains(char::is_control), "{problem}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_makes_the_parser_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        parse_and_print(&pieces.concat())?;
    }

    #[test]
    fn no_mutation_of_a_good_document_makes_the_parser_panic(
        edits in prop::collection::vec((0..EXAMPLE.len(), 0_usize..30, piece()), 1..6),
    ) {
        let mut text = EXAMPLE.to_owned();
        for (start, length, piece) in edits {
            let start = text.floor_char_boundary(start);
            let end = text.floor_char_boundary(start + length);
            text.replace_range(start..end.max(start), &piece);
        }
        parse_and_print(&text)?;
    }

    #[test]
    fn every_mac_address_survives_its_text(bytes: [u8; 6]) {
        let json = serde_json::to_string(&MacAddress(bytes)).unwrap();
        prop_assert_eq!(serde_json::from_str::<MacAddress>(&json).unwrap(), MacAddress(bytes));
    }

    #[test]
    fn every_document_text_survives_the_protocol(document: String) {
        let request = Request::PutState { document };
        let line = serde_json::to_string(&request).unwrap();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
    }

    #[test]
    fn every_refusal_survives_the_protocol(message: String) {
        let response = Response::refused(message);
        let line = serde_json::to_string(&response).unwrap();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), response);
    }
}
