//! Spillway's control plane. It watches Kubernetes, plans what the router of its node shall do, and
//! says what became of each policy.
//!
//! ```text
//!   watch ──changes──→ cluster ──→ plan ──document──→ publish ──→ router
//!                                    └────reports────→ status ──→ Kubernetes
//! ```
//!
//! `labels`, `policy`, `cluster`, `family`, `gateway`, `egress`, `prefixes`, `plan`, `document`,
//! `ranges`, `pod_names` and `explain` are pure. The README beside this crate tells what policies mean and where
//! that differs from Cilium.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod crds;
mod document;
mod egress;
pub mod errors;
pub mod explain;
pub mod family;
pub mod gateway;
pub mod host;
pub mod labels;
pub mod lint;
pub mod objects;
pub mod plan;
mod pod_names;
mod pods;
pub mod policy;
mod prefixes;
pub mod publish;
mod ranges;
pub mod read;
pub mod run;
pub mod status;
pub mod watch;
