//! No text whatsoever makes the document's parser panic, and what it refuses has words.

// Only the bodies of `#[test]` functions are exempt by themselves.
#![allow(clippy::unwrap_used)]

mod common;

use proptest::prelude::*;
use spillway_api::{MacAddress, Request, Response};

/// Pieces that YAML, or the document, gives a meaning.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[-:?,\\[\\]{}#&*!|>'\"%@`~. \n\t]{1,4}",
        "(generation|tunnels|nat64_prefix|peers|address|policies|pods|pod_groups|kind|own|ports|announce|flow|null|true)",
        "[0-9.:/-]{1,20}",
        "[0-9a-f:/]{1,20}",
        any::<char>().prop_map(String::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_makes_the_parser_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        common::check(pieces.concat().as_bytes());
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
