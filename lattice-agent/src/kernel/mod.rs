//! The boundary to the kernel: BTF, BPF objects, pins and maps. Nothing outside this module makes a bpf(2) call.

pub mod btf;
pub mod fanotify;
pub mod heap;
pub mod maps;
pub mod object;
pub mod offsets;
pub mod pidfd;
pub mod pins;
pub mod ring;
pub mod sequence;
pub mod tasks;
