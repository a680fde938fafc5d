//! What the kernel side and the user side share: map layouts, the event record, and the one verdict.
//!
//! ```text
//!   lattice-ebpf ── reads the kernel ──► Facts ──► verdict() ──► Decision ──► acts, counts, reports
//!        ▲                                            ▲
//!     abi (maps, records)                     host tests: every combination
//!        ▼
//!   lattice-agent
//! ```
//!
//! No I/O, no allocation, no panics: the same code runs in a BPF program and in the tests of the host.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

pub mod abi;
#[cfg(feature = "user")]
mod pod;
pub mod repeat;
pub mod verdict;
