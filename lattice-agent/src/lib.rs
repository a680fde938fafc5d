//! The node agent: puts policies into the kernel, and brings what the kernel saw to central.
//!
//! ```text
//!   containers (containerd, by hand) ─┐
//!   policies (central, files) ────────┴─► enforcement ──► kernel maps ◄── BPF programs (pinned)
//!                                                                            │ ring buffer
//!   central ◄── uplink ◄── spool ◄── events (decoded, explained, gapless) ◄──┘
//!   latticectl ◄── control
//! ```
//!
//! The agent may die at any time: programs, maps and ring buffer are pinned, and what it knew is found there and on disk.

pub mod admin;
pub mod admin_source;
pub mod backend;
pub mod backoff;
pub mod checked_file;
pub mod containers;
pub mod control;
pub mod denials;
pub mod denylist;
pub mod enforcement;
pub mod error_chain;
pub mod events;
pub mod front;
pub mod host_name;
pub mod host_process;
pub mod inodes;
pub mod kernel;
pub mod notices;
pub mod policy_files;
pub mod policy_sources;
pub mod policy_watch;
pub mod probe;
pub mod running;
pub mod runtime_programs;
pub mod script_judge;
pub mod spool;
pub mod state;
pub mod uplink;
